"""Chooses values of a configuration on a part of its training images.

Every combination of the grid's values is trained for every seed on all but the last part of the
training split, and judged by its accuracy on that part after the last epoch. Test images are never
looked at, so that they still say something about what was chosen.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.commands.seeds import one_process_only, seed_configs
from train.config import MAY_DIFFER, FitConfig
from train.disk import disk_errors, write_whole
from train.errors import DivergedError, UserError
from train.parsing.command_line import Command, parse
from train.parsing.config_file import resolved
from train.parsing.yaml_file import to_yaml
from train.run.directory import RunDirectory, next_free, numbered, stem_of
from train.run.fit import fit

RESULT_FILE = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of the grid's values.

    Args:
        values: Key to value, as written.
        config: With them, on the training part, into the cell's own folder.
    """

    values: Mapping[str, str]
    config: FitConfig


@dataclasses.dataclass(frozen=True)
class Score:
    """A cell's validation accuracy after the last epoch.

    Args:
        mean: Over seeds; None if a seed's loss was no longer finite.
        standard_error: Standard deviation over seeds / sqrt(seeds); None for one seed.
    """

    mean: float | None
    standard_error: float | None

    @classmethod
    def of(cls, accuracies: Sequence[float | None]) -> Score:
        """None stands for a run whose loss was no longer finite."""
        finite = [a for a in accuracies if a is not None and math.isfinite(a)]
        if len(finite) < len(accuracies):
            return cls(None, None)
        spread = statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else None
        return cls(statistics.fmean(finite), spread)

    def __str__(self) -> str:
        if self.mean is None:
            return "diverged"
        error = "" if self.standard_error is None else f" +- {100 * self.standard_error:.2f}"
        return f"{100 * self.mean:.2f}{error}"


def sweep(command: Command) -> dict[str, Any]:
    """Trains every cell for every seed, prints a table and the choice, and writes `sweep.json`.

    The same command goes on after a kill: finished runs, and those that diverged, are not done
    again.

    Returns:
        What `sweep.json` holds.

    Raises:
        UserError: If a value is refused, the training split cannot be cut, the folder holds another
            sweep, or every cell diverged.
    """
    one_process_only(command.config, "sweep")
    seeds = command.seeds or (command.config.seed,)
    train_split, validation_split = cut(command.config.data.train_split, command.validation)
    base = dataclasses.replace(
        command.config,
        data=dataclasses.replace(
            command.config.data, train_split=train_split, test_split=validation_split
        ),
    )
    description = {
        "config": yaml.safe_load(to_yaml(base)),
        "grid": {key: list(values) for key, values in command.grid.items()},
        "seeds": list(seeds),
    }
    folder = _folder(command.config, description)
    cells = list(_cells(command, base, folder))  # all values are checked before anything is made
    if not (folder / RESULT_FILE).exists():
        _write(folder, description)
    diverged = _diverged_before(folder)
    accuracies: dict[Path, float | None] = {}
    runs = [(cell, run) for cell in cells for run in seed_configs(cell.config, seeds)]
    for number, (cell, run) in enumerate(runs, start=1):
        path = Path(str(run.run_directory))
        title = f"[{number}/{len(runs)}] {_words(cell.values)}, seed {run.seed}"
        accuracies[path] = None
        if str(path.relative_to(folder)) in diverged:
            print(f"{title}: diverged before", flush=True)
            continue
        finished = RunDirectory.finished(run)
        print(title + (": finished before" if finished else ""), flush=True)
        try:
            directory = finished or fit(run).directory
            accuracies[path] = directory.metrics()[-1]["val_accuracy"]
        except DivergedError as error:
            print(f"diverged: {error}", flush=True)
            diverged.append(str(path.relative_to(folder)))
            _write(folder, description | {"diverged": diverged})
    scores = [
        Score.of(
            [accuracies[Path(str(run.run_directory))] for run in seed_configs(c.config, seeds)]
        )
        for c in cells
    ]
    best = _best(cells, scores)
    result = description | {
        "diverged": diverged,
        "cells": [
            {"values": dict(cell.values), **dataclasses.asdict(score)}
            for cell, score in zip(cells, scores, strict=True)
        ],
        "chosen": dict(best.values),
        "command": _command(command, best, seeds),
    }
    _write(folder, result)
    print(f"\n{_table(cells, scores, best)}\n")
    print(f"chosen on {validation_split} (in {folder / RESULT_FILE}): {_words(best.values)}")
    print(f"to train with it on all of {command.config.data.train_split}:\n  {result['command']}")
    return result


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


def _cells(command: Command, base: FitConfig, folder: Path) -> Iterator[Cell]:
    """Every combination, checked as if it had been given on the command line."""
    for combination in itertools.product(*command.grid.values()):
        values = dict(zip(command.grid, combination, strict=True))
        changes = [f"--{key}={value}" for key, value in values.items()]
        config, _ = parse(["fit", *command.keys, *changes])
        name = ",".join(change.removeprefix("--") for change in changes)
        yield Cell(
            values,
            dataclasses.replace(
                config,
                run_directory=str(folder / re.sub(r"[^\w.,=+\-\[\]]", "_", name)),
                data=dataclasses.replace(
                    config.data,
                    train_split=base.data.train_split,
                    test_split=base.data.test_split,
                ),
            ),
        )


def _folder(config: FitConfig, description: Mapping[str, Any]) -> Path:
    """The sweep's folder, which may not be there yet.

    Raises:
        UserError: If it holds another sweep or something else.
    """
    if config.run_directory is None:
        stem = stem_of(config)
        stem = stem.with_name(f"{stem.name}-sweep")
        same = [
            p for p in numbered(stem).values() if not _differences(p, description, exactly=True)
        ]
        folder = same[-1] if same else next_free(stem)
    else:
        folder = Path(config.run_directory)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        differing = _differences(folder, description)
        if differing:
            raise UserError(
                f"run_directory={folder} {'; '.join(differing)}. Nothing is overwritten: give "
                f"another name, or the sweep's own values."
            )
    return folder


def _differences(
    folder: Path, description: Mapping[str, Any], *, exactly: bool = False
) -> list[str]:
    """What the sweep in a folder has otherwise; a grid may have grown, unless `exactly`."""
    try:
        there = json.loads((folder / RESULT_FILE).read_text())
        configs = [
            resolved(one["config"], source=str(folder / RESULT_FILE))
            for one in (there, description)
        ]
        other = exactly and any(there[key] != description[key] for key in ("grid", "seeds"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return [f"exists and holds no sweep ({RESULT_FILE})"]
    if other:
        return ["holds a sweep of another grid"]
    grid = there["grid"].keys() | description["grid"].keys()
    return [
        f"holds a sweep of another configuration: {key} is {configs[0].get(key)!r} there and "
        f"{value!r} here"
        for key, value in configs[1].items()
        if not key.startswith((*MAY_DIFFER, "seed"))
        and key not in grid
        and configs[0].get(key) != value
    ]


def _diverged_before(folder: Path) -> list[str]:
    return list(json.loads((folder / RESULT_FILE).read_text()).get("diverged", []))


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with disk_errors(f"{folder / RESULT_FILE} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RESULT_FILE, json.dumps(content, indent=2) + "\n")


def _best(cells: Sequence[Cell], scores: Sequence[Score]) -> Cell:
    """The highest mean; the first of several."""
    pairs = [(s.mean, c) for s, c in zip(scores, cells, strict=True) if s.mean is not None]
    if not pairs:
        raise UserError(
            "Every cell of the sweep diverged in some seed, so there is nothing to choose. "
            "Expected a grid with lower learning rates."
        )
    return max(pairs, key=lambda pair: pair[0])[1]


def _command(command: Command, best: Cell, seeds: Sequence[int]) -> str:
    """The command that trains on all training images and looks at the test images."""
    keys = [key for key in command.keys if not key.startswith(("--run_directory=", "--seed="))]
    chosen = [f"--{key}={value}" for key, value in best.values.items()]
    numbers = f"--seeds={','.join(map(str, seeds))}"
    return shlex.join(["python", "-m", "train", "fit", *keys, *chosen, numbers])


def _table(cells: Sequence[Cell], scores: Sequence[Score], best: Cell) -> str:
    title = "validation accuracy, % (mean +- standard error over seeds)"
    rows = [[*cell.values.values(), str(score)] for cell, score in zip(cells, scores, strict=True)]
    header = [*cells[0].values, title]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    chosen = next(number for number, cell in enumerate(cells, start=1) if cell is best)
    lines[chosen] += "  <- chosen"
    return "\n".join(lines)


def _words(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
