"""The report's tables, as rows of text, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.report.figures import Beside
from train.report.groups import (
    BEST_ERROR,
    TEST_ERROR,
    TOP_5_ERROR,
    TRAIN_ERROR,
    Estimate,
    Group,
)
from train.report.published import HIDDEN_DELTA_ANGLE, INPUT_ANGLE, OUTPUT_ANGLE, Published

Table = list[list[str]]
"""Rows of cells; the first row is the head."""

SAMPLES = "mirror_samples_per_image"
ERRORS = {
    TEST_ERROR: "test error, %",
    TOP_5_ERROR: "top-5 error, %",
    TRAIN_ERROR: "training error, %",
    BEST_ERROR: "smallest test error of all epochs, %",
}
"""Error to the head of its column."""
PLACES = {
    OUTPUT_ANGLE: ("weight_angle", -1),
    INPUT_ANGLE: ("weight_angle", 0),
    HIDDEN_DELTA_ANGLE: ("delta_angle", 0),
}
"""Published angle to our measure and the place of its layer."""


def results(groups: Sequence[Group], beside: Beside) -> Table:
    """A row a group: errors at the last epoch, beside the published ones."""
    samples = any(group.layers(SAMPLES) for group in groups)
    more = [e for e in (TOP_5_ERROR, TRAIN_ERROR) if any(g.last(e) for g in groups)]
    head = ["", "runs", "epochs", ERRORS[TEST_ERROR], "published, %", *(ERRORS[e] for e in more)]
    rows = [head + ["noise samples per image"] * samples]
    for group in groups:
        fired = [group.last(f"{SAMPLES}/{layer}") for layer in group.layers(SAMPLES)]
        rows.append(
            [
                group.label,
                str(len(group.runs)),
                str(group.epochs),
                shown(group.last(TEST_ERROR)),
                _all_published(beside[group.label], group),
                *(shown(group.last(error)) for error in more),
                *[f"{sum(value.mean for value in fired if value):.0f}"] * samples,
            ]
        )
    return rows


def differences(groups: Sequence[Group], beside: Beside) -> Table:
    """A row for each pair of a group and a published cell: where it stands and what differs."""
    rows = [["", "published by", "what", "differences of scale and settings"]]
    for group in groups:
        for cell in beside[group.label]:
            differing = "; ".join(cell.differences(group)) or "none known"
            rows.append([group.label, f"{cell.source}, {cell.place}", cell.label, differing])
        if not beside[group.label]:
            rows.append([group.label, f"no published number for {group.task}", "", ""])
    return rows


def other_errors(groups: Sequence[Group], beside: Beside) -> Table:
    """`ours / published` of errors but test errors; the head alone if none was published."""
    pairs = [(group, cell) for group in groups for cell in beside[group.label]]
    errors = [e for e in ERRORS if e != TEST_ERROR and any(e in c.measures for _, c in pairs)]
    rows = [["", "published by", *(ERRORS[error] for error in errors)]]
    for group, cell in pairs:
        if any(error in cell.measures for error in errors):
            both = [_ours_and_theirs(group, cell, error) for error in errors]
            rows.append([group.label, cell.source, *both])
    return rows


def bounds(groups: Sequence[Group], beside: Beside) -> Table:
    """A row for each bound that is stated of a figure; the head alone if there are none."""
    rows = [["", "measure", "published", "ours, degrees", "holds"]]
    for group in groups:
        for cell in beside[group.label]:
            for bound in cell.bounds:
                measure = bound.measure.replace("_", " ")
                rows.append([group.label, measure, bound.says, *bound.ours(group)])
    return rows


def over_epochs(groups: Sequence[Group], beside: Beside, measure: str) -> Table:
    """`ours / published` at the epochs that were published; the head alone if there are none."""
    pairs = [
        (group, cell, ours, cell.measures[measure])
        for group in groups
        for cell in beside[group.label]
        if len(cell.measures.get(measure, ())) > 1
        for ours in [_ours(group, measure)]
        if ours is not None
    ]
    epochs = sorted({e for group, _, _, numbers in pairs for e in numbers if e <= group.epochs})
    rows = [["", *(f"epoch {epoch}" for epoch in epochs)]]
    for group, _, ours, numbers in pairs:
        row = [group.label]
        for epoch in epochs:
            value = group.at(ours, epoch) if epoch <= group.epochs else None
            both = value is not None and epoch in numbers
            row.append(f"{shown(value)} / {number(numbers[epoch].mean)}" if both else "")
        rows.append(row)
    return rows


def layers(groups: Sequence[Group], measure: str) -> Table:
    """A measure of every layer at the last epoch; of many layers, the range and the last."""
    having = [group for group in groups if group.layers(measure)]
    names = [group.layers(measure) for group in having]
    if having and len(names[0]) <= 6 and all(each == names[0] for each in names):
        rows = [["", *names[0]]]
        for group in having:
            rows.append([group.label, *(shown(group.last(f"{measure}/{n}")) for n in names[0])])
        return rows
    rows = [["", "layers", "smallest", "largest", "output layer"]]
    for group, each in zip(having, names, strict=True):
        values = [v for v in (group.last(f"{measure}/{name}") for name in each) if v is not None]
        ends = [shown(f(values, key=lambda value: value.mean)) for f in (min, max)]
        rows.append([group.label, str(len(each)), *ends, shown(values[-1])])
    return rows


def shown(value: Estimate | None) -> str:
    """`1.65`, or with the standard error `1.65 (0.03)`."""
    if value is None:
        return ""
    return number(value.mean) + (f" ({number(value.error)})" if value.error is not None else "")


def number(value: float) -> str:
    """Two decimals; what these would round to nothing is told as such."""
    if value != 0 and abs(value) < 0.005:
        return "< 0.01" if value > 0 else "-0.00"
    return f"{value:.2f}"


def write_csv(groups: Sequence[Group], beside: Beside, folder: Path) -> None:
    """`table.csv`, a row a group at its last epoch; `curves.csv`, a row a group and epoch."""
    measures = list(dict.fromkeys(name for group in groups for name in group.measures))
    columns = [name for measure in measures for name in (measure, f"{measure} (s.e.)")]
    head = ["group", "runs", "seeds", "data_and_model"]
    theirs = ["published_test_error_percent", "published_epoch", "published_by", "differences"]
    others = [error for error in ERRORS if error != TEST_ERROR]
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*head, *theirs, *(f"published_{e}" for e in others), "epoch", *columns])
        for group in groups:
            cells = beside[group.label]
            found = {
                error: [cell.beside(error, group.epochs) for cell in cells] for error in ERRORS
            }
            writer.writerow(
                [
                    group.label,
                    len(group.runs),
                    " ".join(str(run.config["seed"]) for run in group.runs),
                    group.task,
                    _joined(found[TEST_ERROR], lambda _, value: f"{value.mean:.6g}"),
                    _joined(found[TEST_ERROR], lambda at, _: str(at or "last")),
                    "; ".join(f"{c.source}, {c.place}" for c in cells),
                    " | ".join("; ".join(c.differences(group)) for c in cells),
                    *(_joined(found[e], lambda _, value: f"{value.mean:.6g}") for e in others),
                    *_line(group, measures, group.epochs),
                ]
            )
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "runs", "epoch", *columns])
        for group in groups:
            for epoch in range(1, group.epochs + 1):
                writer.writerow([group.label, len(group.runs), *_line(group, measures, epoch)])


def _joined(found: Sequence[Any], text: Callable[[int, Estimate], str]) -> str:
    """One entry a published cell, `-` where it has no such number; empty if none has."""
    return "; ".join(text(*each) if each else "-" for each in found) if any(found) else ""


def _line(group: Group, measures: Sequence[str], epoch: int) -> list[Any]:
    values = [group.at(measure, epoch) for measure in measures]
    return [epoch, *(_rounded(part) for value in values for part in (value or (None, None)))]


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _all_published(cells: Sequence[Published], group: Group) -> str:
    found = [text for text in (_published(cell, group) for cell in cells) if text]
    return "; ".join(found) or ("see below" if cells else f"none for {group.task}")


def _published(cell: Published, group: Group) -> str:
    found = cell.beside(TEST_ERROR, group.epochs)
    if found is None:
        return ""
    at, value = found
    other = _epoch(at, group)
    differs = ", differs: see below" if cell.differences(group) else ""
    return f"{shown(value)} ({cell.source}{other}{differs})"


def _epoch(at: int, group: Group) -> str:
    """That a published number is of another epoch than ours."""
    return "" if at == group.epochs else f", epoch {at}" if at else ", epochs not said"


def _ours_and_theirs(group: Group, cell: Published, error: str) -> str:
    found = cell.beside(error, group.epochs)
    if found is None:
        return ""
    at, value = found
    return f"{shown(group.last(error)) or 'not measured'} / {shown(value)}{_epoch(at, group)}"


def _ours(group: Group, measure: str) -> str | None:
    """The name in our logs of a published measure."""
    if measure not in PLACES:
        return measure
    ours, place = PLACES[measure]
    names = group.layers(ours)
    return f"{ours}/{names[place]}" if names else None
