"""The report's tables, as rows of text, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.report.figures import Beside
from train.report.groups import TEST_ERROR, TRAIN_ERROR, Estimate, Group
from train.report.published import OUTPUT_ANGLE, Published

Table = list[list[str]]
"""Rows of cells; the first row is the head."""

SAMPLES = "mirror_samples_per_image"


def results(groups: Sequence[Group], beside: Beside) -> Table:
    """A row a group: errors at the last epoch, beside the published ones."""
    samples = any(group.layers(SAMPLES) for group in groups)
    head = ["", "runs", "epochs", "test error, %", "published, %", "training error, %"]
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
                shown(group.last(TRAIN_ERROR)),
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
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*head, *theirs, "epoch", *columns])
        for group in groups:
            cells = [c for c in beside[group.label] if c.beside(TEST_ERROR, group.epochs)]
            numbers = [c.beside(TEST_ERROR, group.epochs) or (0, Estimate(0, None)) for c in cells]
            writer.writerow(
                [
                    group.label,
                    len(group.runs),
                    " ".join(str(run.config["seed"]) for run in group.runs),
                    group.task,
                    "; ".join(f"{value.mean:.6g}" for _, value in numbers),
                    "; ".join(str(at or "last") for at, _ in numbers),
                    "; ".join(f"{c.source}, {c.place}" for c in cells),
                    " | ".join("; ".join(c.differences(group)) for c in cells),
                    *_line(group, measures, group.epochs),
                ]
            )
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "runs", "epoch", *columns])
        for group in groups:
            for epoch in range(1, group.epochs + 1):
                writer.writerow([group.label, len(group.runs), *_line(group, measures, epoch)])


def _line(group: Group, measures: Sequence[str], epoch: int) -> list[Any]:
    values = [group.at(measure, epoch) for measure in measures]
    return [epoch, *(_rounded(part) for value in values for part in (value or (None, None)))]


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _all_published(cells: Sequence[Published], group: Group) -> str:
    found = [text for text in (_published(cell, group) for cell in cells) if text]
    return "; ".join(found) or f"none for {group.task}"


def _published(cell: Published, group: Group) -> str:
    found = cell.beside(TEST_ERROR, group.epochs)
    if found is None:
        return ""
    at, value = found
    other = "" if at == group.epochs else f", epoch {at}" if at else ", epochs not said"
    differs = ", differs: see below" if cell.differences(group) else ""
    return f"{shown(value)} ({cell.source}{other}{differs})"


def _ours(group: Group, measure: str) -> str | None:
    """The name in our logs of a published measure."""
    if measure != OUTPUT_ANGLE:
        return measure
    names = group.layers("weight_angle")
    return f"weight_angle/{names[-1]}" if names else None
