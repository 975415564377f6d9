"""`python -m train compare`: two runs side by side. Loads no TensorFlow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from train.errors import UserError
from train.report.frames import OVER_LAYERS, Run, UnusableError, find, read
from train.report.pages import to_text


def compare(one: str, other: str, *, as_json: bool = False) -> None:
    """Prints which keys and which set-up differ, and the results at each run's last epoch.

    Args:
        one: A run directory.
        other: Another.
        as_json: Whether to print JSON: title to name to both values, null for what is not there.

    Raises:
        UserError: If one of them is no run, or damaged.
    """
    runs = [_read(path) for path in (one, other)]
    found = {
        "configuration": _differences(*(run.config for run in runs)),
        "set-up": _differences(*(run.setup for run in runs)),
        "results at the last epoch": _results(runs),
    }
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for title, pairs in found.items():
        count = "" if "results" in title else f"{len(pairs)} differ" if pairs else "no difference"
        print(f"{title}: {count}".rstrip())
        if pairs:
            rows = [[name, *map(_shown, pair)] for name, pair in pairs.items()]
            print(to_text(pd.DataFrame(rows, columns=["", one, other])))
        print()


def _read(path: str) -> Run:
    (directory, *more) = find([path], {})
    if more or directory != Path(path):
        raise UserError(f"{path} is a folder of runs. Expected one run directory.")
    try:
        return read(directory)
    except UnusableError as error:
        raise UserError(f"{path} cannot be compared: {error}.") from error


def _differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    keys = dict.fromkeys([*one, *other])
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _results(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """Of what every layer has, the mean over the layers."""
    last = [run.epochs.iloc[-1] for run in runs]
    results: dict[str, list[float | None]] = {"epoch": [float(row.name) for row in last]}
    for name in dict.fromkeys(name for row in last for name in row.index):
        if "/" not in name or name.startswith(OVER_LAYERS):
            values = [float(row.get(name, math.nan)) for row in last]
            title = name.replace(f"{OVER_LAYERS}/", "mean over layers, ")
            results[title] = [value if math.isfinite(value) else None for value in values]
    return results


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
