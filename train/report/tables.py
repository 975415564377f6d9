"""The report's tables: data frames of text, and one of numbers; tables as text."""

from __future__ import annotations

import math
import re
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

COLUMNS = {
    "val_loss": "test loss",  # where no run has an error
    "box_loss": "training loss of boxes",
    "class_loss": "training loss of their classes",
    "val_map_percent": "test mAP, %",
    "val_map_50_percent": "test mAP at 0.5, %",
    TEST_ERROR: "test error, %",
    "published": "published, %",
    TOP_5_ERROR: "top-5 error, %",
    TRAIN_ERROR: "training error, %",
    SAMPLES: "noise samples per image",
}
TITLES = {
    TEST_ERROR: "Test error over epochs, %",
    TOP_5_ERROR: "Top-5 error, %",
    TRAIN_ERROR: "Training error, %",
    BEST_ERROR: "Smallest test error of all epochs (chosen on the test images), %",
    "output_angle": "Weight angle of the output layer, degrees",
    "input_angle": "Weight angle of the input layer (no error flows there), degrees",
    "hidden_delta_angle": "Delta angle of the hidden layer, degrees (ours of a batch, theirs of "
    "one image)",
}
"""Published measure to the title of its table over epochs."""


def to_text(table: pd.DataFrame) -> str:
    """Columns for the terminal."""
    return table.to_markdown(index=False, tablefmt="simple", disable_numparse=True, maxcolwidths=36)


def to_markdown(table: pd.DataFrame) -> str:
    """GitHub's; what has a meaning there is escaped."""
    escaped = table.map(lambda cell: re.sub(r"([|*`\[])", r"\\\1", cell).replace("<", "&lt;"))
    return escaped.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def results(groups: Sequence[Group], numbers: pd.DataFrame) -> pd.DataFrame:
    """A row a group: errors at the last epoch, beside the published ones."""
    table = pd.DataFrame(
        {"group": group.label, "runs": str(len(group.runs)), "epochs": str(group.epochs)}
        | {title: group.shown(measure) for measure, title in COLUMNS.items()}
        | {COLUMNS["published"]: _published(group, numbers[numbers["group"] == group.label])}
        for group in groups
    )
    if any(table[COLUMNS[TEST_ERROR]]):
        table = table.drop(columns=COLUMNS["val_loss"])
    return table.loc[:, (table != "").any()]


def _published(group: Group, numbers: pd.DataFrame) -> str:
    """The last published number of each cell; one that is the best of all epochs by ours."""
    errors = numbers[numbers["measure"].isin([BEST_ERROR, TEST_ERROR])]
    errors = errors.sort_values(["measure", "epoch"])
    texts, ours = [], group.shown(BEST_ERROR)
    for row in errors.drop_duplicates(["place", "cell"], keep="last").sort_index().itertuples():
        notes = [row.source]
        if row.measure == BEST_ERROR:
            notes.append("the smallest of all epochs" + (f", ours {ours}" if ours else ""))
        elif row.epoch != group.epochs:
            notes.append(f"epoch {row.epoch}" if row.epoch else "epochs not said")
        notes += ["differs: see below"] if row.differences else []
        texts.append(f"{shown(row.theirs, row.theirs_error)} ({', '.join(notes)})")
    return "; ".join(texts)


def over_epochs(numbers: pd.DataFrame, measure: str) -> pd.DataFrame:
    """`ours / published` at the epochs that were published; empty if there are none."""
    rows = numbers[numbers["measure"] == measure].sort_values("epoch", kind="stable")
    if measure == TEST_ERROR:  # a number alone is in the table of results
        rows = rows[rows.duplicated(["group", "source", "place"], keep=False)]
    if rows.empty:
        return rows
    texts = rows.assign(text=list(map(_pair, rows.itertuples())))
    table = texts.groupby(["group", "source", "epoch"], sort=False)["text"].agg("; ".join).unstack()
    table = table[sorted(table, key=lambda epoch: epoch or math.inf)].fillna("")
    table.columns = [f"epoch {epoch}" if epoch else "last epoch" for epoch in table]
    return table.reset_index()


def _pair(row: Any) -> str:
    at = "" if row.epoch in (0, row.our_epoch) else f" (epoch {row.our_epoch})"
    ours = "-" if math.isnan(row.ours) else shown(row.ours, row.ours_error) + at
    return f"{ours} / {shown(row.theirs, row.theirs_error)}"


def layers(groups: Sequence[Group], measure: str) -> pd.DataFrame:
    """A measure at the last epoch: a row a layer, from input to output, a column a group."""
    columns = {
        group.label: {
            name: group.shown(f"{measure}/{name}")
            + " (no effect)" * group.has_no_effect(measure, name)
            for name in group.layers(measure)
        }
        for group in groups
    }
    table = pd.DataFrame(columns).fillna("")
    table.loc["mean over layers"] = [
        group.shown(f"{OVER_LAYERS}/{measure}") or "-" for group in groups
    ]
    return table.reset_index(names="layer")


def runs(groups: Sequence[Group]) -> pd.DataFrame:
    versions = ("TensorFlow", "Keras", "tfweightmirror")
    return pd.DataFrame(
        {
            "run": str(run.path),
            "group": group.label,
            "seed": str(run.config["seed"]),
            "seconds": f"{run.epochs['seconds'].iloc[-1]:.0f}" if "seconds" in run.epochs else "",
            **{name: str(run.setup.get(name.lower(), "")) for name in versions},
        }
        for group in groups
        for run in group.runs
    )


def curves(groups: Sequence[Group]) -> pd.DataFrame:
    """Numbers, a row a group and epoch: means, and standard errors as `(s.e.)`."""
    frames = {
        (group.label, len(group.runs), " ".join(str(run.config["seed"]) for run in group.runs)): (
            group.mean.join(group.error.add_suffix(" (s.e.)"))
        )
        for group in groups
    }
    # A copy: pandas warns of tables that were put together column by column.
    return pd.concat(frames, names=["group", "runs", "seeds"]).copy().reset_index()
