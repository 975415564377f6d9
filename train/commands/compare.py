"""`python -m train compare`: two runs side by side. Loads no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from train.disk import to_json
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
    a, b = _read(one), _read(other)
    found = {
        "configuration": _differing(a.config, b.config),
        "set-up": _differing(_setup(a), _setup(b)),
        "results at the last epoch": _both(_last(a), _last(b)),
    }
    if as_json:
        print(to_json(found, 1))
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


def _setup(run: Run) -> dict[str, Any]:
    """With the code of the last start; dates and commands always differ."""
    setup = dict(run.setup)
    *_, last = setup.pop("starts", None) or [{}]
    return setup | {key: last[key] for key in ("commit", "uncommitted_changes") if key in last}


def _last(run: Run) -> dict[str, float]:
    """Of what every layer has, the mean over the layers."""
    values = run.epochs.reset_index().iloc[-1]
    names = [name for name in values.index if "/" not in name or name.startswith(OVER_LAYERS)]
    return {name: float(values[name]) for name in names}


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [one.get(name), other.get(name)] for name in dict.fromkeys([*one, *other])}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    pairs = _both(one, other).items()
    return {key: both for key, both in pairs if both[0] != both[1] and key != "run_directory"}


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
