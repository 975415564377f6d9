"""Chooses values of a configuration on a part of its training images.

Every point of the grid is trained for every seed on all but the last part of the training split,
and judged on that part after the last epoch: by its accuracy, or by its loss where there is none.
Test images are never looked at, so that they still say something about what was chosen.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from train.commands.runs import Run, check, one_process_only, train_all
from train.config import MAY_DIFFER, FitConfig
from train.disk import disk_errors, write_whole
from train.errors import UserError
from train.parsing.command_line import Command
from train.parsing.config_file import resolved
from train.parsing.yaml_file import to_yaml
from train.report.pages import to_text
from train.run.directory import RunDirectory, next_free, numbered, stem_of

RESULT_FILE = "sweep.json"


def sweep(command: Command) -> dict[str, Any]:
    """Trains every point of the grid for every seed, prints a table and the choice.

    All points are checked before the first is trained. The same command goes on after a kill, and
    so does one with other values of the same keys: finished runs, and those that diverged, are not
    done again.

    Returns:
        What `sweep.json` holds.

    Raises:
        UserError: If a value is refused, the training split cannot be cut, the folder holds another
            sweep, or every point diverged.
        TerminatedError: After a signal.
    """
    one_process_only(command.config, "sweep")
    split, seeds = command.config.data.train_split, command.seeds or (command.config.seed,)
    train_split, validation_split = cut(split, command.validation)
    keys = [key for key in command.keys if not key.startswith(("--seed=", "--run_directory="))]
    parts = [f"--data.train_split={train_split}", f"--data.test_split={validation_split}"]
    description = {
        "config": yaml.safe_load(to_yaml(Run.of("all", [*command.keys, *parts]).config)),
        "grid": {key: list(values) for key, values in command.grid.items()},
        "seeds": list(seeds),
    }
    folder = _folder(command.config, description)
    points = [
        dict(zip(command.grid, values, strict=True))
        for values in itertools.product(*command.grid.values())
    ]
    runs: dict[str, Run] = {}
    for point in points:
        place = re.sub(r"[^\w.,=+\-\[\]]", "_", _words(point, ","))
        for seed in seeds:
            name = f"{place}/seed_{seed}"
            own = [f"--seed={seed}", f"--run_directory={folder / name}"]
            runs[name] = Run.of(
                f"{_words(point)}, seed {seed}", [*keys, *_flags(point), *parts, *own]
            )
    check(list(runs.values())[:: len(seeds)])
    diverged = _begun(folder, description)
    for name in [name for name in runs if name in diverged]:
        print(f"{runs[name].title} diverged before", flush=True)

    def note(run: Run) -> None:
        diverged.append(next(name for name in runs if runs[name] is run))
        _write(folder, description | {"diverged": diverged})

    todo = [run for name, run in runs.items() if name not in diverged]
    train_all(todo, at_once=command.jobs, diverged=note)
    lines = [{} if name in diverged else RunDirectory(folder / name).metrics()[-1] for name in runs]
    measure, scores = scored(lines, len(seeds))
    order = scores["mean"].sort_values(ascending=measure == "val_loss", kind="stable").dropna()
    if order.empty:
        raise UserError("Every point diverged in some seed. Expected lower learning rates.")
    best = points[order.index[0]]
    numbers = f"--seeds={','.join(map(str, seeds))}"
    result = description | {
        "diverged": diverged,
        "measure": measure,
        "cells": [
            {"values": point, **json.loads(score.to_json())}
            for point, (_, score) in zip(points, scores.iterrows(), strict=True)
        ],
        "chosen": best,
        "command": shlex.join(["python", "-m", "train", "fit", *keys, *_flags(best), numbers]),
    }
    _write(folder, result)
    scores = scores.map("{:.4f}".format).replace("nan", "")
    table = pd.DataFrame(points).join(scores.assign(mean=scores["mean"].replace("", "diverged")))
    table[""] = ["<- chosen" if point is best else "" for point in points]
    print(f"\n{measure} on {validation_split}, over {len(seeds)} seeds:\n{to_text(table)}\n")
    print(f"chosen (in {folder / RESULT_FILE}): {_words(best)}")
    print(f"to train with it on all of {split}:\n  {result['command']}")
    return result


def scored(lines: Sequence[Mapping[str, float]], seeds: int) -> tuple[str, pd.DataFrame]:
    """The measure, and a row a point: `mean` over seeds, NaN if one has none, `standard_error`.

    Args:
        lines: Measures at the last epoch, the seeds of a point together; empty for a run whose loss
            was no longer finite.
        seeds: Of every point.
    """
    frame = pd.DataFrame(lines)
    measure = "val_accuracy" if "val_accuracy" in frame else "val_loss"
    values = frame.get(measure, pd.Series(index=frame.index, dtype=float)).to_numpy()
    rows = pd.DataFrame(values.reshape(-1, seeds))
    mean, error = rows.mean(axis=1, skipna=False), rows.sem(axis=1, skipna=False)
    return measure, pd.DataFrame({"mean": mean, "standard_error": error})


def cut(split: str, validation: float) -> tuple[str, str]:
    """A training split without its last part, and that part.

    Args:
        split: The name of a split, or a part of one with both ends known: `train[:256]`,
            `train[10%:50%]`.
        validation: Share of the last part.

    Raises:
        UserError: If the split cannot be cut there.
    """
    match = re.fullmatch(r"(\w+)(?:\[(\d+%?)?:(\d+%?)?\])?", split)
    name, first, last = match.groups() if match else ("", None, None)
    percent = not (first or last) or "%" in f"{first}{last}"
    ends_agree = all(end is None or end.endswith("%") == percent for end in (first, last))
    if not name or not ends_agree or (last is None and not percent):
        raise UserError(
            f"data.train_split is {split!r}, a part of a split that sweep cannot cut. Expected the "
            f"name of a whole split, such as train, or a part with both ends in the same unit, "
            f"such as train[:80%] or train[:1000]."
        )
    begin, end = int((first or "0").rstrip("%")), int((last or "100").rstrip("%"))
    middle = end - round(validation * (end - begin))
    if not begin < middle < end:
        raise UserError(
            f"validation is {validation:g}, which leaves no whole "
            f"{'percent' if percent else 'image'} of {split!r} on one side of the cut. Expected a "
            f"share nearer to 0.5."
        )
    unit = "%" if percent else ""
    head = f"{begin}{unit}" if begin else ""
    tail = "" if last is None else f"{end}{unit}"
    return f"{name}[{head}:{middle}{unit}]", f"{name}[{middle}{unit}:{tail}]"


def _folder(config: FitConfig, description: Mapping[str, Any]) -> Path:
    """The sweep's folder, which may not be there yet.

    Raises:
        UserError: If it holds another sweep or something else.
    """
    if config.run_directory is None:
        stem = stem_of(config)
        stem = stem.with_name(f"{stem.name}-sweep")
        same = [path for path in numbered(stem).values() if not _differences(path, description)]
        return same[-1] if same else next_free(stem)
    folder = Path(config.run_directory)
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and (differing := _differences(folder, description)):
        raise UserError(
            f"run_directory={folder} {'; '.join(differing)}. Nothing is overwritten: give another "
            f"name, or the sweep's own values."
        )
    return folder


def _differences(folder: Path, description: Mapping[str, Any]) -> list[str]:
    """What the sweep in a folder has otherwise than this one, beside values of the grid."""
    try:
        there = json.loads((folder / RESULT_FILE).read_text())
        source = str(folder / RESULT_FILE)
        old, new = (resolved(one["config"], source=source) for one in (there, description))
        grid = there["grid"].keys() | description["grid"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return [f"exists and holds no sweep ({RESULT_FILE})"]
    return [
        f"holds another sweep: {key} is {old.get(key)!r} there and {value!r} here"
        for key, value in new.items()
        if not key.startswith((*MAY_DIFFER, "seed")) and key not in grid and old.get(key) != value
    ]


def _begun(folder: Path, description: dict[str, Any]) -> list[str]:
    """Names of the runs that have diverged; the folder is a sweep's from now on."""
    file = folder / RESULT_FILE
    there = json.loads(file.read_text()) if file.exists() else {}
    diverged = list(there.get("diverged", []))
    if any(there.get(key) != value for key, value in description.items()):
        _write(folder, description | {"diverged": diverged})
    return diverged


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with disk_errors(f"{folder / RESULT_FILE} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RESULT_FILE, json.dumps(content, indent=2) + "\n")


def _words(point: Mapping[str, str], between: str = ", ") -> str:
    return between.join(f"{key}={value}" for key, value in point.items())


def _flags(point: Mapping[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in point.items()]
