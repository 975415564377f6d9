"""`python -m train report`: run directories become tables, pictures and pages."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import markdown
import pandas as pd

from train.errors import UserError, see
from train.report import figures, tables
from train.report.configs import noise_of
from train.report.first_weights import TEXT, draw_first_weights
from train.report.frames import Group, gather
from train.report.published import Beside, beside, read_all
from train.report.tables import to_markdown, to_text

HOW = (
    "Every number is that of the last epoch unless its column says otherwise. Runs whose "
    "configurations differ in the seed alone are one row: the mean, and in brackets the standard "
    "error. Errors are in per cent of the images; those of training images are an epoch's running "
    "mean, unless the run measured them at its end. Published numbers have their standard errors "
    "in brackets where these were published. NaN: measured, without a value (a zero vector has no "
    "angle). -: not measured. No effect: the layer sends no error back, as those that read an "
    "input, so it is left out of the mean over layers (- if no layer sends one)."
)
BALANCED = (
    "Under balanced noise (orthogonal, impulse) the weight angle is 0 by construction: a sweep "
    "identifies W exactly, so training equals backprop up to rounding, and its accuracy says "
    "nothing about learning with imperfect feedback."
)
BOXES = (
    "Test images at the last epoch: dashed the objects that are there, orange the best of those "
    "that are found, with class and score. Of the first seed."
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Report on runs</title>
<style>
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-size: 90%% }
td, th { border: 1px solid #bbb; padding: 0.25em 0.6em; text-align: left; vertical-align: top }
img { max-width: 100%% }
</style>
%s
</html>
"""


def report(paths: Sequence[str], out: str) -> None:
    """Writes a report on runs, at any depth below `paths`, and its main table to the terminal.

    Raises:
        UserError: If there is no run to report on, or `out` is not a new or empty folder.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"out={folder} exists and is not an empty folder. Nothing is overwritten: remove it, "
            f"or give another."
        )
    groups, left_out = gather(paths)
    used = sum(len(group.runs) for group in groups)
    print(f"runs found: {used + len(left_out)}, in the report: {used}")
    for path, reason in left_out.items():
        print(f"left out: {path}: {reason}")
    if not groups:
        path, reason = next(iter(left_out.items()))
        raise UserError(
            f"No run is left to report on: {path}: {reason}. Expected at least one finished run; "
            f"the command that trained it goes on from where it was." + see("a-report-without-runs")
        )
    try:
        published = write(groups, left_out, folder)
    except OSError as error:
        raise UserError(f"out={folder} cannot be written: {error.strerror or error}.") from error
    print(to_text(tables.results(groups, published.numbers)))
    print(f"\n{folder / 'report.html'}, report.md, report.json, table.csv, curves.csv, pictures")


def write(groups: Sequence[Group], left_out: Mapping[Path, str], folder: Path) -> Beside:
    """Tables, pictures and pages, into a folder; what was published stands beside."""
    folder.mkdir(parents=True, exist_ok=True)
    published = beside(groups, read_all())
    runs = tables.runs(groups)
    without = pd.DataFrame(left_out.items(), columns=["run", "why"]).astype(str)
    parts = ["# Report on runs", HOW, *results(groups, published)]
    parts += [*_pictures(groups, published, folder), "## Runs", to_markdown(runs)]
    parts += ["## Left out", to_markdown(without)] if left_out else []
    page = "\n\n".join(parts) + "\n"
    (folder / "report.md").write_text(page, encoding="utf-8")
    (folder / "report.html").write_text(_to_html(page, folder), encoding="utf-8")
    curves = tables.curves(groups)
    last = curves.groupby("group", sort=False).tail(1)
    curves.to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    last.to_csv(folder / "table.csv", index=False, float_format="%.6g")
    found = {"results": last, "published": published.numbers, "bounds": published.bounds}
    found |= {"runs": runs, "left_out": without}
    # pandas writes null for what is no finite number.
    content = {name: json.loads(table.to_json(orient="records")) for name, table in found.items()}
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return published


def results(groups: Sequence[Group], published: Beside) -> list[str]:
    """The main table, and those of the published numbers."""
    numbers, bounds = published
    parts = ["## Results", to_markdown(tables.results(groups, numbers))]
    mirrors = [g.config for g in groups if g.config["feedback.rule.name"] == "weight_mirror"]
    if {"orthogonal", "impulse"} & set(map(noise_of, mirrors)):
        parts += [BALANCED]
    if numbers.empty:
        return [*parts, "No published number is of one of these configurations."]
    cells = numbers[["group", "source", "place", "cell", "differences"]].drop_duplicates()
    parts += ["## The published numbers", to_markdown(cells.replace("", "none known"))]
    for measure, title in tables.TITLES.items():
        table = tables.over_epochs(numbers, measure)
        if not table.empty:
            parts += [f"### {title} (ours / published)", to_markdown(table)]
    if not bounds.empty:
        stated = bounds[["group", "measure", "says", "ours", "holds"]]
        parts += ["### Bounds that are stated of figures", to_markdown(stated)]
    return parts


def _pictures(groups: Sequence[Group], published: Beside, folder: Path) -> list[str]:
    figures.draw_learning_curves(groups, published, folder / "learning_curves")
    text = figures.CURVES
    parts = ["## Learning curves", f"![{text}](learning_curves.png)", f"*{text}*"]
    if figures.draw_losses(groups, folder / "losses"):
        text = figures.OVER_STEPS
        parts += ["## Losses over steps", f"![{text}](losses.png)", f"*{text}*"]
    for measure, (_, text) in figures.LAYER_MEASURES.items():
        title = measure.replace("_", " ").capitalize()
        if figures.draw_layers(groups, measure, published, folder / measure):
            parts += [f"## {title}", f"![{text}]({measure}.png)", f"*{text}*"]
        if measured := [group for group in groups if group.layers(measure)]:
            parts += [f"{title} at the last epoch:", to_markdown(tables.layers(measured, measure))]
    if draw_first_weights(groups, folder / "first_weights"):
        parts += ["## First weights", f"![{TEXT}](first_weights.png)", f"*{TEXT}*"]
    return [*parts, *_boxes(groups, folder)]


def _boxes(groups: Sequence[Group], folder: Path) -> list[str]:
    """What the first seed of each group has found on test images, where it drew it."""
    parts = []
    for number, group in enumerate(groups):
        drawn = group.runs[0].path / "boxes.png"
        if drawn.is_file():
            shutil.copyfile(drawn, folder / f"boxes_{number}.png")
            parts += [f"{group.label}:", f"![{BOXES}](boxes_{number}.png)"]
    return ["## Boxes", f"*{BOXES}*", *parts] if parts else []


def _to_html(page: str, folder: Path) -> str:
    """One file that needs no other: the pictures are inside."""

    def inside(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = markdown.markdown(page, extensions=["tables"])
    return PAGE % re.sub(r'src="([\w.]+)"', inside, body)
