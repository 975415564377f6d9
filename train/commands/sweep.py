"""Chooses values of a configuration on a part of its training images.

Every point of the grid is trained for every seed on all but the last part of the training split,
and judged on that part after the last epoch: by its accuracy, or by its loss where there is none.
Test images are never looked at, so that they still say something about what was chosen.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from train.commands.runs import check, train_all, with_keys
from train.config import FitConfig
from train.disk import to_json, whole_file
from train.errors import UserError
from train.parsing.command_line import Command, configuration, unread
from train.parsing.config_file import config_from
from train.parsing.phases import differences, leaves
from train.parsing.yaml_file import to_yaml
from train.report.tables import to_text
from train.run.directory import RunDirectory, next_free, numbered, stem_of

RESULT_FILE = "sweep.json"


def sweep(command: Command) -> None:
    """Trains every point of the grid for every seed, prints a table and the choice.

    All points are checked before the first is trained. The same command goes on after a kill, and
    so does one with other values of the same keys: finished runs, and those that diverged, are not
    done again.
    """
    seeds = command.seeds or (command.config.seed,)
    training_part, validation_part = cut(command.config.data.train_split, command.validation)
    parts = [f"--data.train_split={training_part}", f"--data.test_split={validation_part}"]
    plan = {
        "config": yaml.safe_load(to_yaml(configuration([*command.keys, *parts])[0])),
        "grid": {key: list(values) for key, values in command.grid.items()},
        "seeds": list(seeds),
    }
    folder = _folder(command.config, plan)
    pairs = ([f"{key}={value}" for value in values] for key, values in command.grid.items())
    points = list(itertools.product(*pairs))
    runs, unread_keys = {}, dict.fromkeys(command.keys, "")
    for point in points:
        flags = [f"--{pair}" for pair in point]
        kept, needless = _read_at(command, flags)
        unread_keys = {key: needless[key] for key in unread_keys if key in needless}
        for seed in seeds:
            place = folder / re.sub(r"[^\w.,=+\-\[\]]", "_", ",".join(point)) / f"seed_{seed}"
            own = [*parts, f"--seed={seed}", f"--run_directory={place}"]
            run = dataclasses.replace(command, keys=kept)
            runs[f"{', '.join(point)}, seed {seed}"] = with_keys(run, *flags, *own)
    for sentence in unread_keys.values():
        raise UserError(sentence)
    check(dict(itertools.islice(runs.items(), 0, None, len(seeds))))
    ends = _train(folder, plan, runs, command.jobs)
    values = [dict(pair.split("=", 1) for pair in point) for point in points]
    _choose(command, folder, plan, values, ends)


def _read_at(command: Command, flags: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command's keys that the point of these flags reads, and the others, with sentences.

    A key that a point does not read, as backprop none of the mirror, is of other points.
    """
    config, _ = configuration([*command.keys, *flags])
    needless = unread(config, command.keys)
    return tuple(key for key in command.keys if key not in needless), needless


def _train(
    folder: Path, plan: dict[str, Any], runs: Mapping[str, Command], jobs: int
) -> list[dict[str, float]]:
    """Trains what has not ended; measures at the last epoch, none of runs that diverged."""
    names = {t: os.path.relpath(str(run.config.run_directory), folder) for t, run in runs.items()}
    there = _read(folder)
    diverged = plan["diverged"] = list(there.get("diverged", []))
    if not plan.items() <= there.items():
        _write(folder, plan)

    def note(title: str) -> None:
        diverged.append(names[title])
        _write(folder, plan)

    before = [title for title in runs if names[title] in diverged]
    for title in before:
        print(f"{title} diverged before", flush=True)
    todo = {title: run for title, run in runs.items() if title not in before}
    train_all(todo, at_once=jobs, diverged=note)
    ends = {name: RunDirectory(folder / name) for name in names.values() if name not in diverged}
    return [ends[name].metrics()[-1] if name in ends else {} for name in names.values()]


def _choose(
    command: Command,
    folder: Path,
    plan: dict[str, Any],
    points: list[dict[str, str]],
    ends: list[dict[str, float]],
) -> None:
    """Writes and tells the scores, the best point, and the command that trains with it."""
    measure, scores = scored(ends, len(plan["seeds"]))
    order = scores["mean"].sort_values(ascending=measure == "val_loss", kind="stable").dropna()
    if order.empty:
        raise UserError("Every point diverged in some seed. Expected lower learning rates.")
    best = points[order.index[0]]
    pairs = [f"{key}={value}" for key, value in best.items()]
    flags = [f"--{pair}" for pair in pairs]
    kept, _ = _read_at(command, flags)
    keys = [key for key in kept if not key.startswith(("--seed=", "--run_directory="))]
    keys += [*flags, f"--seeds={','.join(map(str, plan['seeds']))}"]
    again = shlex.join(["python", "-m", "train", "fit", *keys])
    rows = zip(points, scores.to_dict("records"), strict=True)
    cells = [{"values": point, **score} for point, score in rows]
    result = {"measure": measure, "cells": cells, "chosen": best, "command": again}
    _write(folder, plan | result)
    shown = scores.map("{:.4f}".format).replace("nan", "")
    table = pd.DataFrame(points).join(shown.assign(mean=shown["mean"].replace("", "diverged")))
    table[""] = ["<- chosen" if point is best else "" for point in points]
    on = f"{plan['config']['data']['test_split']}, over {len(plan['seeds'])} seeds"
    print(f"\n{measure} on {on}:\n{to_text(table)}\n")
    print(f"chosen (in {folder / RESULT_FILE}): {', '.join(pairs)}")
    print(f"to train with it on all of {command.config.data.train_split}:\n  {again}")


def scored(lines: Sequence[Mapping[str, float]], seeds: int) -> tuple[str, pd.DataFrame]:
    """The measure, and a row a point: `mean` over seeds, NaN if one has none, `standard_error`.

    `lines` has the seeds of a point together, and nothing in that of a run that diverged.
    """
    frame = pd.DataFrame(lines)
    measure = "val_accuracy" if "val_accuracy" in frame else "val_loss"
    values = frame.reindex(columns=[measure]).to_numpy(float).reshape(-1, seeds)
    scores = pd.DataFrame(values).agg(["mean", "sem"], axis=1, skipna=False)
    return measure, scores.rename(columns={"sem": "standard_error"})


def cut(split: str, validation: float) -> tuple[str, str]:
    """A training split without its last part, and that part: a share of `validation`."""
    percent = re.fullmatch(r"(\w+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?", split)
    match = percent or re.fullmatch(r"(\w+)\[(\d+)?:(\d+)\]", split)
    if match is None:
        raise UserError(
            f"data.train_split is {split!r}, a part of a split that sweep cannot cut. Expected the "
            f"name of a whole split, such as train, or a part with both ends in the same unit, "
            f"such as train[:80%] or train[:1000]."
        )
    name, first, last = match.groups()
    begin, end, unit = int(first or 0), int(last or 100), "%" if percent else ""
    middle = end - round(validation * (end - begin))
    if not begin < middle < end:
        raise UserError(
            f"validation is {validation:g}, which leaves no whole "
            f"{'percent' if percent else 'image'} of {split!r} on one side of the cut. Expected a "
            f"share nearer to 0.5."
        )
    head, tail = f"{begin}{unit}" if begin else "", f"{end}{unit}" if last else ""
    return f"{name}[{head}:{middle}{unit}]", f"{name}[{middle}{unit}:{tail}]"


def _folder(config: FitConfig, plan: Mapping[str, Any]) -> Path:
    """The sweep's folder, which may not be there yet; UserError if it holds something else."""
    if config.run_directory is None:
        stem = stem_of(config)
        stem = stem.with_name(f"{stem.name}-sweep")
        same = [path for path in numbered(stem).values() if not _differences(path, plan)]
        return same[-1] if same else next_free(stem)
    folder = Path(config.run_directory)
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and (differing := _differences(folder, plan)):
        raise UserError(
            f"run_directory={folder} {'; '.join(differing)}. Nothing is overwritten: give another "
            f"name, or the sweep's own values."
        )
    return folder


def _differences(folder: Path, plan: Mapping[str, Any]) -> list[str]:
    """What the sweep in a folder has otherwise than this one, beside values of the grid."""
    try:
        there = _read(folder)
        source = str(folder / RESULT_FILE)
        old, new = (leaves(config_from(one["config"], source=source)) for one in (there, plan))
        grid = there["grid"].keys() | plan["grid"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return [f"exists and holds no sweep ({RESULT_FILE})"]
    return [
        f"holds another sweep: {sentence}"
        for key, sentence in differences(old, new).items()
        if key != "seed" and key not in grid
    ]


def _read(folder: Path) -> dict[str, Any]:
    file = folder / RESULT_FILE
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with whole_file(folder / RESULT_FILE, f"{folder / RESULT_FILE} cannot be written") as aside:
        aside.write_text(to_json(content, 2) + "\n")
