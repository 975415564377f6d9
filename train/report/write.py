"""`python -m train report`: run directories become tables, pictures and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from train.errors import UserError
from train.report import figures, tables
from train.report.configs import noise_of
from train.report.frames import Group, gather
from train.report.pages import Part, Picture, to_html, to_markdown, to_text
from train.report.published import Beside, beside, read_all

HOW = (
    "Every number is that of the last epoch unless its column says otherwise. Runs whose "
    "configurations differ in the seed alone are one row: the mean, and in brackets the standard "
    "error. Errors are in per cent of the images. Published numbers have theirs in brackets where "
    "it was published. NaN: measured, without a value (a zero vector has no angle)."
)
NOISES_OF_A_BASIS = ("orthogonal", "impulse")
BALANCED = (
    "Under balanced noise (orthogonal, impulse) the weight angle is 0 by construction: a sweep "
    "identifies W exactly, so training equals backprop up to rounding, and its accuracy says "
    "nothing about learning with imperfect feedback."
)


def report(paths: Sequence[str], out: str) -> None:
    """Writes a report on the runs into a new folder, and its main table to the terminal.

    Args:
        paths: Run directories, or folders that hold some at any depth.
        out: The folder to write: new, or empty.

    Raises:
        UserError: If there is no run to report on, or `out` is not free.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"out={folder} exists and is not an empty folder. Nothing is overwritten: remove it, "
            f"or give another."
        )
    groups, left_out = gather(paths)
    used = sum(len(group.runs) for group in groups)
    print(f"{used + len(left_out)} runs found, {used} in the report")
    for path, reason in left_out.items():
        print(f"left out: {path}: {reason}")
    if not groups:
        path, reason = next(iter(left_out.items()))
        raise UserError(
            f"No run is left to report on: {path}: {reason}. Expected at least one finished run; "
            f"the command that trained it goes on from where it was."
        )
    try:
        main = write(groups, left_out, folder)
    except OSError as error:
        raise UserError(f"out={folder} cannot be written: {error.strerror or error}.") from error
    print(to_text(main))
    print(f"\n{folder / 'report.html'}, report.md, report.json, table.csv, curves.csv, pictures")


def write(groups: Sequence[Group], left_out: Mapping[Path, str], folder: Path) -> pd.DataFrame:
    """Tables, pictures and pages, into a folder; returns the main table."""
    published = beside(groups, read_all())
    without = pd.DataFrame({"run": map(str, left_out), "why": left_out.values()})
    folder.mkdir(parents=True, exist_ok=True)
    main, *more = results(groups, published)
    parts = ["# Report on runs", HOW, "## Results", main, *more]
    parts += _pictures(groups, published, folder)
    parts += ["## Runs", tables.runs(groups)]
    parts += ["## Left out", without] if left_out else []
    (folder / "report.md").write_text(to_markdown(parts), encoding="utf-8")
    (folder / "report.html").write_text(to_html(parts, folder), encoding="utf-8")
    _write_numbers(groups, published, without, folder)
    return main


def results(groups: Sequence[Group], published: Beside) -> list[Part]:
    """The main table, and those of the published numbers."""
    parts: list[Part] = [tables.results(groups, published.numbers)]
    parts += [BALANCED] * any(map(_is_balanced, groups))
    if published.numbers.empty:
        return [*parts, "No published number is of one of these configurations."]
    parts += ["## The published numbers", tables.differences(published.numbers)]
    for measure, title in tables.TITLES.items():
        table = tables.over_epochs(published.numbers, measure)
        if not table.empty:
            parts += [f"### {title} (ours / published)", table]
    if not published.bounds.empty:
        parts += ["### Bounds that are stated of figures", tables.bounds(published.bounds)]
    return parts


def _pictures(groups: Sequence[Group], published: Beside, folder: Path) -> list[Part]:
    figures.draw_learning_curves(groups, published.numbers, folder / "learning_curves")
    parts: list[Part] = ["## Learning curves", Picture("learning_curves.png", figures.CURVES)]
    for measure, (_, text) in figures.LAYER_MEASURES.items():
        shown = figures.draw_layers(groups, measure, published, folder / measure)
        if shown:
            title = measure.replace("_", " ").capitalize()
            parts += [f"## {title}", Picture(f"{measure}.png", text)]
            parts += [f"{title} at the last epoch:", tables.layers(shown, measure)]
    return parts


def _is_balanced(group: Group) -> bool:
    config = group.config
    return config["feedback.rule"] == "weight_mirror" and noise_of(config) in NOISES_OF_A_BASIS


def _write_numbers(
    groups: Sequence[Group], published: Beside, left_out: pd.DataFrame, folder: Path
) -> None:
    """`curves.csv`, a row a group and epoch; `table.csv`, the last ones; all tables as JSON."""
    curves = pd.concat(
        [
            pd.concat([group.mean, group.error.add_suffix(" (s.e.)")], axis=1)
            .reset_index()
            .assign(group=group.label, runs=len(group.runs), data_and_model=group.task)
            .assign(seeds=" ".join(str(run.config["seed"]) for run in group.runs))
            for group in groups
        ]
    )
    head = ["group", "runs", "seeds", "data_and_model", "epoch"]
    curves = curves[[*head, *curves.columns.difference(head, sort=False)]]
    last = curves.groupby("group", sort=False).tail(1)
    curves.to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    last.to_csv(folder / "table.csv", index=False, float_format="%.6g")
    found = {"results": last, "published": published.numbers, "bounds": published.bounds}
    found |= {"runs": tables.runs(groups), "left_out": left_out}
    content = {name: _records(table) for name, table in found.items()}
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _records(table: pd.DataFrame) -> Any:
    """Rows for JSON; what is no finite number is null."""
    return json.loads(table.to_json(orient="records"))
