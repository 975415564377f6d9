"""`python -m train report`: run directories become tables, pictures and pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.errors import UserError
from train.report import tables
from train.report.figures import LAYER_MEASURES, Beside, draw_layers, draw_learning_curves
from train.report.groups import TEST_ERROR, Group, gather, rule_of
from train.report.pages import Heading, Part, Picture, to_html, to_markdown, to_text
from train.report.published import HIDDEN_DELTA_ANGLE, INPUT_ANGLE, OUTPUT_ANGLE, read_all
from train.report.runs import LeftOut, find

HOW = (
    "Every number is that of the last epoch unless its column says otherwise. Runs whose "
    "configurations differ in the seed alone are one row: the mean, and in brackets the standard "
    "error. Errors are in per cent of the images. Published numbers have theirs in brackets where "
    "it was published."
)
OVER_EPOCHS = {
    "Test error over epochs, %": TEST_ERROR,
    "Weight angle of the output layer, degrees": OUTPUT_ANGLE,
    "Weight angle of the input layer (no error flows there), degrees": INPUT_ANGLE,
    "Delta angle of the hidden layer, degrees; ours of a batch, theirs of one image": (
        HIDDEN_DELTA_ANGLE
    ),
}
"""Title to the measure of a table over epochs."""
NOISES_OF_A_BASIS = ("orthogonal", "impulse")
BALANCED = (
    "Under balanced noise (orthogonal, impulse) the weight angle is 0 by construction: a sweep "
    "identifies W exactly, so training equals backprop up to rounding, and its accuracy says "
    "nothing about learning with imperfect feedback."
)
CURVES = (
    "Errors at the end of every epoch. The upright scale is logarithmic above 0.1 % and linear "
    "below. Bands are standard errors; circles are published numbers."
)


def report(paths: Sequence[str], out: str) -> None:
    """Writes a report on the runs into a new folder, and its main table to the terminal.

    Args:
        paths: Run directories, or folders of several.
        out: The folder to write: new, or empty.

    Raises:
        UserError: If there is no run to report on, or `out` is not free.
    """
    folder = Path(out)
    _check_free(folder)
    groups, left_out = gather(find(paths))
    for entry in left_out:
        print(f"left out: {entry.path}: {entry.reason}")
    if not groups:
        raise UserError(
            f"No run is left to report on: {left_out[0].path}: {left_out[0].reason}. Expected at "
            f"least one finished run; the command that trained it goes on from where it was."
        )
    cells = read_all()
    beside = {g.label: [cell for cell in cells if cell.is_beside(g.config)] for g in groups}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tables.write_csv(groups, beside, folder)
        parts = [*_results(groups, beside), *_pictures(groups, beside, folder)]
        parts += [*_runs(groups), *_left_out(left_out)]
        (folder / "report.md").write_text(to_markdown(parts))
        (folder / "report.html").write_text(to_html(parts, folder))
    except OSError as error:
        raise UserError(f"out={folder} cannot be written: {error.strerror or error}.") from error
    print(to_text(tables.results(groups, beside)))
    print(f"\n{folder / 'report.html'}, report.md, table.csv, curves.csv, pictures")


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"out={folder} exists and is not an empty folder. Nothing is overwritten: remove it, "
            f"or give another."
        )


def _results(groups: Sequence[Group], beside: Beside) -> list[Part]:
    parts: list[Part] = [Heading("Report on runs", 1), HOW, Heading("Results")]
    parts += [tables.results(groups, beside)]
    if any(map(_is_balanced, groups)):
        parts.append(BALANCED)
    parts += [Heading("The published numbers"), tables.differences(groups, beside)]
    both = "(ours / published)"
    for title, table in (
        (f"Other errors {both}", tables.other_errors(groups, beside)),
        *(
            (f"{title} {both}", tables.over_epochs(groups, beside, measure))
            for title, measure in OVER_EPOCHS.items()
        ),
        ("Bounds that are stated of figures", tables.bounds(groups, beside)),
    ):
        if len(table) > 1:
            parts += [Heading(title, 3), table]
    return parts


def _pictures(groups: Sequence[Group], beside: Beside, folder: Path) -> list[Part]:
    draw_learning_curves(groups, beside, folder / "learning_curves")
    parts: list[Part] = [Heading("Learning curves"), Picture("learning_curves.png", CURVES)]
    for measure in LAYER_MEASURES:
        if draw_layers(groups, measure, beside, folder / measure.stem):
            parts += [
                Heading(measure.title),
                Picture(f"{measure.stem}.png", measure.text),
                f"{measure.title} at the last epoch:",
                tables.layers(groups, measure.name),
            ]
    return parts


def _is_balanced(group: Group) -> bool:
    config = group.config
    balanced = config["mirror.mode"] == "linear" and config["mirror.noise"] in NOISES_OF_A_BASIS
    return rule_of(config) == "weight_mirror" and balanced


def _runs(groups: Sequence[Group]) -> list[Part]:
    rows = [["run", "in row", "seed", "seconds", "TensorFlow", "Keras", "tfweightmirror"]]
    for group in groups:
        for run in group.runs:
            versions = [str(run.setup.get(name.lower(), "")) for name in rows[0][4:]]
            seconds = run.epochs[-1].get("seconds")
            rows.append(
                [
                    str(run.path),
                    group.label,
                    str(run.config["seed"]),
                    "" if seconds is None else f"{seconds:.0f}",
                    *versions,
                ]
            )
    return [Heading("Runs"), rows]


def _left_out(left_out: Sequence[LeftOut]) -> list[Part]:
    if not left_out:
        return []
    rows = [["run", "why"], *([str(entry.path), entry.reason] for entry in left_out)]
    return [Heading("Left out"), rows]
