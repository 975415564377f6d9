"""`python -m train compare`: two runs side by side. Loads no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.errors import UserError
from train.report.groups import TEST_ERROR, TRAIN_ERROR, value_of
from train.report.pages import to_text
from train.report.runs import Run, UnusableError, find, read


def compare(one: str, other: str) -> None:
    """Prints which keys and which set-up differ, and the results at each run's last epoch.

    Args:
        one: A run directory.
        other: Another.

    Raises:
        UserError: If one of them is no run, or damaged.
    """
    runs = [_read(path) for path in (one, other)]
    head = ["", *(str(run.path) for run in runs)]
    for title, tables in (
        ("configuration", [run.config for run in runs]),
        ("set-up", [run.setup for run in runs]),
    ):
        rows = _differences(*tables)
        print(f"{title}: {'no difference' if not rows else f'{len(rows)} differ'}")
        if rows:
            print(to_text([head, *rows]))
        print()
    print("results at the last epoch:")
    print(to_text([head, *_results(*runs)]))


def _read(path: str) -> Run:
    (directory, *more) = find([path])
    if more or directory != Path(path):
        raise UserError(f"{path} is a folder of runs. Expected one run directory.")
    try:
        return read(directory)
    except UnusableError as error:
        raise UserError(f"{path} cannot be compared: {error}.") from error


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[list[str]]:
    return [
        [key, *(str(table.get(key, "not there")) for table in (one, other))]
        for key in dict.fromkeys([*one, *other])
        if (key in one, one.get(key)) != (key in other, other.get(key))
    ]


def _results(*runs: Run) -> list[list[str]]:
    names = dict.fromkeys(name for run in runs for name in run.epochs[-1] if name != "epoch")
    rows = [["epoch", *(f"{len(run.epochs)} of {run.planned_epochs}" for run in runs)]]
    for name in (TEST_ERROR, TRAIN_ERROR, *names):
        values = [value_of(run.epochs[-1], name) for run in runs]
        rows.append([name, *("" if v is None else f"{v:.6g}" for v in values)])
    return rows
