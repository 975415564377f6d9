"""`python -m train compare`: two runs side by side. Loads no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from train.disk import to_json
from train.errors import UserError
from train.report.frames import OVER_LAYERS, Run, find, read
from train.report.tables import to_text


def compare(one: str, other: str, *, as_json: bool = False) -> None:
    """Prints which keys and which set-up differ, and the results at each run's last epoch."""
    runs = _read(one), _read(other)
    found = {
        "configuration": _pairs([run.config for run in runs], differing=True),
        "set-up": _pairs([_setup(run) for run in runs], differing=True),
        "results at the last epoch": _pairs([_last(run) for run in runs]),
    }
    if as_json:
        print(to_json(found, 1))
        return
    for title, pairs in found.items():
        count = "" if "results" in title else f" {len(pairs)} differ" if pairs else " no difference"
        print(f"{title}:{count}")
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
    except UserError as error:
        raise UserError(f"{path} cannot be compared: {str(error).rstrip('.')}.") from error


def _setup(run: Run) -> dict[str, Any]:
    """With the code of the last start; dates and commands always differ."""
    setup = dict(run.setup)
    starts = setup.pop("starts", None)
    last = starts[-1] if isinstance(starts, list) and starts else {}
    of_code = ("commit", "uncommitted_changes", "own_code")
    return setup | {key: last[key] for key in of_code if isinstance(last, dict) and key in last}


def _last(run: Run) -> dict[str, Any]:
    """Of what every layer has, the mean over the layers."""
    values = run.epochs.reset_index().iloc[-1].to_dict()
    return {n: v for n, v in values.items() if "/" not in n or n.startswith(OVER_LAYERS)}


def _pairs(tables: list[dict[str, Any]], *, differing: bool = False) -> dict[str, list[Any]]:
    """Name to both values, None for what is not there; where asked, of those that differ."""
    names = [name for name in tables[0] | tables[1] if name != "run_directory"]
    pairs = {name: [table.get(name) for table in tables] for name in names}
    return {name: [a, b] for name, (a, b) in pairs.items() if not differing or a != b}


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
