"""The report's tables: data frames of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from train.report.frames import (
    BEST_ERROR,
    OVER_LAYERS,
    SAMPLES,
    TEST_ERROR,
    TOP_5_ERROR,
    TRAIN_ERROR,
    Group,
    shown,
)

TITLES = {
    TEST_ERROR: "Test error over epochs, %",
    TOP_5_ERROR: "Top-5 error, %",
    TRAIN_ERROR: "Training error, %",
    BEST_ERROR: "Smallest test error of all epochs (chosen on the test images), %",
    "output_angle": "Weight angle of the output layer, degrees",
    "input_angle": "Weight angle of the input layer (no error flows there), degrees",
    "hidden_delta_angle": "Delta angle of the hidden layer, degrees; ours of a batch, theirs of "
    "one image",
}
"""Published measure to the title of its table."""

COLUMNS = {
    TEST_ERROR: "test error, %",
    "published": "published, %",
    TOP_5_ERROR: "top-5 error, %",
    TRAIN_ERROR: "training error, %",
    SAMPLES: "noise samples per image",
}


def results(groups: Sequence[Group], numbers: pd.DataFrame) -> pd.DataFrame:
    """A row a group: errors at the last epoch, beside the published ones."""
    rows = [
        {"": group.label, "runs": str(len(group.runs)), "epochs": str(group.epochs)}
        | {title: group.shown(measure) for measure, title in COLUMNS.items()}
        | {COLUMNS["published"]: _published(group, numbers[numbers["group"] == group.label])}
        for group in groups
    ]
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


def differences(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row for each pair of a group and a published cell: where it stands and what differs."""
    rows = numbers[["group", "source", "place", "cell", "differences"]].drop_duplicates()
    return pd.DataFrame(
        {
            "": rows["group"],
            "published by": rows["source"] + ", " + rows["place"],
            "what": rows["cell"],
            "differences of scale and settings": rows["differences"].replace("", "none known"),
        }
    )


def over_epochs(numbers: pd.DataFrame, measure: str) -> pd.DataFrame:
    """`ours / published` at the epochs that were published; empty if there are none."""
    rows = numbers[numbers["measure"] == measure].sort_values("epoch", kind="stable")
    if measure == TEST_ERROR:  # a number alone is in the table of results
        rows = rows[rows.duplicated(["group", "source", "place"], keep=False)]
    if rows.empty:
        return rows
    table = rows.assign(text=rows.apply(_pair, axis=1)).pivot_table(
        index=["group", "source"], columns="epoch", values="text", aggfunc="; ".join, sort=False
    )
    table = table[sorted(table, key=lambda epoch: epoch or math.inf)].fillna("")
    table.columns = [f"epoch {epoch}" if epoch else "last epoch" for epoch in table]
    return table.reset_index().rename(columns={"group": "", "source": "published by"})


def bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """What is stated of figures, and whether it holds of ours."""
    measure = rows["measure"].str.replace("_", " ")
    names = {"group": "", "says": "published", "ours": "ours, degrees"}
    return rows.assign(measure=measure)[["group", "measure", "says", "ours", "holds"]].rename(
        columns=names
    )


def layers(groups: Sequence[Group], measure: str) -> pd.DataFrame:
    """A measure of every layer at the last epoch; of many layers, the range and the last."""
    names = {group.label: group.layers(measure) for group in groups}
    few = len({*map(tuple, names.values())}) == 1 and max(map(len, names.values())) <= 6
    rows = []
    for group in groups:
        each = [f"{measure}/{name}" for name in names[group.label]]
        row = {"": group.label}
        if few:
            row |= {name.partition("/")[2]: group.shown(name) for name in each}
        else:
            last = group.mean.loc[group.epochs, each].dropna()
            ends = (last.idxmin(), last.idxmax()) if len(last) else ("", "")
            row |= {"layers": str(len(each)), "smallest": group.shown(ends[0])}
            row |= {"largest": group.shown(ends[1]), "output layer": group.shown(each[-1])}
        average = f"{OVER_LAYERS}/{measure}" if len(each) > 2 else ""
        rows.append(row | {"mean over layers": group.shown(average)})
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


def runs(groups: Sequence[Group]) -> pd.DataFrame:
    """A row a run."""
    versions = ("TensorFlow", "Keras", "tfweightmirror")
    return pd.DataFrame(
        {
            "run": str(run.path),
            "in row": group.label,
            "seed": str(run.config["seed"]),
            "seconds": f"{run.epochs['seconds'].iloc[-1]:.0f}" if "seconds" in run.epochs else "",
            **{name: str(run.setup.get(name.lower(), "")) for name in versions},
        }
        for group in groups
        for run in group.runs
    )


def curves(groups: Sequence[Group]) -> pd.DataFrame:
    """A row a group and epoch, of numbers: means and standard errors, `(s.e.)`."""
    head = ["group", "runs", "seeds", "data_and_model"]
    frames = []
    for group in groups:
        seeds = " ".join(str(run.config["seed"]) for run in group.runs)
        frame = pd.concat([group.mean, group.error.add_suffix(" (s.e.)")], axis=1).reset_index()
        named = zip(head, (group.label, len(group.runs), seeds, group.task), strict=True)
        frames.append(frame.assign(**dict(named)))
    table = pd.concat(frames)
    return table[[*head, *table.columns.difference(head, sort=False)]]


def _published(group: Group, numbers: pd.DataFrame) -> str:
    """The last published number of each cell, and that it is a maximum where it is one."""
    texts = []
    for _, cell in numbers.groupby(["source", "place", "cell"], sort=False):
        errors = cell[cell["measure"].isin([TEST_ERROR, BEST_ERROR])]
        if errors.empty:
            continue
        row = errors.iloc[int((errors["measure"] == TEST_ERROR).sum()) - 1]
        notes = [row["source"]]
        if row["measure"] == BEST_ERROR:
            notes.append("the smallest of all epochs")
        elif row["epoch"] != group.epochs:
            notes.append(f"epoch {row['epoch']}" if row["epoch"] else "epochs not said")
        notes += ["differs: see below"] if row["differences"] else []
        texts.append(f"{shown(row['theirs'], row['theirs_error'])} ({', '.join(notes)})")
    return "; ".join(texts)


def _pair(row: Any) -> str:
    at = "" if row["epoch"] in (0, row["our_epoch"]) else f" (epoch {row['our_epoch']})"
    ours = "-" if math.isnan(row["ours"]) else shown(row["ours"], row["ours_error"]) + at
    return f"{ours} / {shown(row['theirs'], row['theirs_error'])}"
