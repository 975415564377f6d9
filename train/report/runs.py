"""Run directories as numbers, or the reason why one cannot be used. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from train.config import FitConfig
from train.errors import UserError
from train.parsing.config_file import flatten, to_yaml

NEEDED = ("loss", "accuracy", "val_accuracy")


class UnusableError(UserError):
    """A run that cannot be reported on."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory says.

    Args:
        path: The run directory.
        config: Dotted key to value, of all keys; those that the run's file lacks are the defaults.
        setup: Of setup.json; empty where there is none.
        epochs: Lines of metrics.jsonl, from epoch 1, without a gap.
    """

    path: Path
    config: dict[str, Any]
    setup: dict[str, Any]
    epochs: tuple[dict[str, float], ...]

    @property
    def planned_epochs(self) -> int:
        return int(self.config["training.epochs"])


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A run that is not in the report, and why."""

    path: Path
    reason: str


def find(paths: Sequence[str]) -> list[Path]:
    """Run directories: those given, and those one level below a folder that is given.

    Raises:
        UserError: If a path is no folder, or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            state = "is no folder" if path.exists() else "does not exist"
            raise UserError(f"{path} {state}. Expected a run directory, or a folder of several.")
        runs = [path] if _looks_like_a_run(path) else sorted(filter(_looks_like_a_run, _in(path)))
        if not runs:
            raise UserError(
                f"{path} holds no run: neither it nor a folder in it has a config.yaml. Expected a "
                f"run directory, or a folder of several."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_finished(path: Path) -> Run:
    """A run that has been trained to its last epoch.

    Raises:
        UnusableError: If it is damaged or unfinished, or has a number that is not finite.
    """
    run = read(path)
    if len(run.epochs) < run.planned_epochs:
        raise UnusableError(f"unfinished: {len(run.epochs)} of {run.planned_epochs} epochs")
    if len(run.epochs) > run.planned_epochs:
        raise UnusableError(f"{len(run.epochs)} epochs, but config.yaml says {run.planned_epochs}")
    for line in run.epochs:
        for measure, value in line.items():
            if not math.isfinite(value):
                raise UnusableError(f"{measure} is {value} at epoch {line['epoch']:g}")
    return run


def read(path: Path) -> Run:
    """A run, finished or not; half a line at the end of its metrics is left out.

    Raises:
        UnusableError: If it is damaged.
    """
    return Run(path, _config(path / "config.yaml"), _setup(path / "setup.json"), _epochs(path))


def _looks_like_a_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.yaml", "metrics.jsonl"))


def _in(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir()]


def _config(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
        there = flatten(tree, FitConfig, source=file.name)
    except OSError as error:
        raise UnusableError(f"{file.name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = getattr(error, "problem", None) or "no text"
        raise UnusableError(f"{file.name} is not YAML: {problem}") from error
    except AttributeError as error:
        raise UnusableError(f"{file.name} holds no table of keys and values") from error
    except UserError as error:
        raise UnusableError(str(error).rstrip(".")) from error
    return DEFAULTS | there


def _setup(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        setup = json.loads(file.read_text())
    except ValueError as error:
        raise UnusableError(f"{file.name} is not JSON") from error
    if not isinstance(setup, dict):
        raise UnusableError(f"{file.name} holds no table of keys and values")
    return setup


def _epochs(path: Path) -> tuple[dict[str, float], ...]:
    file = path / "metrics.jsonl"
    try:
        texts = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UnusableError(f"{file.name} cannot be read: {reason}") from error
    lines: list[dict[str, float]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = {str(name): float(value) for name, value in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError) as error:
            if number == len(texts):
                break  # killed while it was written: an unfinished run
            raise UnusableError(f"{file.name} is damaged at line {number}") from error
        missing = [name for name in ("epoch", *NEEDED) if name not in line]
        if missing:
            raise UnusableError(f"{file.name} has no {missing[0]} at line {number}")
        if line["epoch"] != number:
            raise UnusableError(
                f"{file.name} has epoch {line['epoch']:g} at line {number}, where epoch {number} "
                f"is expected"
            )
        lines.append(line)
    if not lines:
        raise UnusableError(f"unfinished: {file.name} has no epoch")
    return tuple(lines)


DEFAULTS: dict[str, Any] = flatten(yaml.safe_load(to_yaml(FitConfig())), FitConfig, source="")
"""Dotted key to default value."""
