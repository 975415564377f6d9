"""Run directories as data frames, or the reason why one cannot be used. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from train.errors import UserError
from train.report.configs import Flat, flat, identity, labels_of, task_of

TEST_ERROR, TRAIN_ERROR = "test_error_percent", "train_error_percent"
TOP_5_ERROR = "top_5_error_percent"
BEST_ERROR = "best_test_error_percent"
"""Smallest test error up to an epoch: chosen on the test images, for numbers that were, too."""

_ACCURACIES = (
    (TEST_ERROR, "val_accuracy"),
    (TRAIN_ERROR, "accuracy"),  # the running mean of an epoch
    (TRAIN_ERROR, "train_accuracy"),  # of a pass at its end, where there was one
    (TOP_5_ERROR, "val_top_5_accuracy"),
)
SAMPLES = "mirror_samples_per_image"
OVER_LAYERS = "mean_over_layers"
"""Of a measure of several layers, `mean_over_layers/<measure>`."""


class UnusableError(UserError):
    """A run that cannot be reported on."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory says.

    Args:
        path: The run directory.
        config: Of all keys; those that the run's file lacks are the defaults.
        setup: Of setup.json; empty where there is none.
        epochs: Measures by epoch, with errors in per cent and averages over layers; NaN where a
            measure has no value (an angle of a zero vector).
        finished: Whether it was trained to its end.
        planned: Epochs of the whole run; None: not known.
    """

    path: Path
    config: Flat
    setup: dict[str, Any]
    epochs: pd.DataFrame
    finished: bool
    planned: int | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Args:
        label: Rule, and what else tells it from the other groups.
        runs: One a seed.
    """

    label: str
    runs: Sequence[Run]

    @property
    def config(self) -> Flat:
        return self.runs[0].config

    @property
    def task(self) -> str:
        """Data and model."""
        return task_of(self.config)

    @property
    def epochs(self) -> int:
        """The last epoch that all runs have."""
        return min(int(run.epochs.index[-1]) for run in self.runs)

    @functools.cached_property
    def mean(self) -> pd.DataFrame:
        """Over the runs, by epoch, of the measures that all of them have.

        NaN at epochs where one of them has no value.
        """
        return self._by_epoch.mean().where(self._by_epoch.count() == len(self.runs))

    @functools.cached_property
    def error(self) -> pd.DataFrame:
        """The standard error of the mean; NaN for a single run."""
        return self._by_epoch.sem().where(self.mean.notna())

    @functools.cached_property
    def _by_epoch(self) -> Any:
        rows = pd.concat([run.epochs for run in self.runs], join="inner")
        return rows.loc[rows.index <= self.epochs].groupby(level="epoch")

    def layers(self, measure: str) -> list[str]:
        """Layers that have a measure, from input to output."""
        prefix = f"{measure}/"
        return [name.removeprefix(prefix) for name in self.mean if name.startswith(prefix)]

    def shown(self, measure: str) -> str:
        """A measure at the last epoch; nothing if it was not measured."""
        last = [f.at[self.epochs, measure] for f in (self.mean, self.error) if measure in f]
        return shown(*last) if last else ""


def shown(mean: float, error: float = math.nan) -> str:
    """`1.65`, or with the standard error `1.65 (0.03)`."""
    return number(mean) + ("" if math.isnan(error) else f" ({number(error)})")


def number(value: float) -> str:
    """Two decimals; what these would round to nothing is told as such."""
    if value != 0 and abs(value) < 0.005:
        return "< 0.01" if value > 0 else "-0.00"
    return "NaN" if math.isnan(value) else f"{value:.2f}"


def gather(paths: Sequence[str]) -> tuple[list[Group], dict[Path, str]]:
    """Finished runs at any depth below folders, grouped in the order of their first.

    Returns:
        The groups, and the runs that are in none with the reason.

    Raises:
        UserError: If a path is no folder, or holds no run.
    """
    grouped: dict[str, list[Run]] = {}
    left_out: dict[Path, str] = {}
    for path in find(paths, left_out):
        try:
            run = read(path)
        except UnusableError as error:
            left_out[path] = str(error)
            continue
        key = json.dumps(identity(run.config), sort_keys=True, default=repr)
        same = {other.config["seed"]: other.path for other in grouped.get(key, ())}
        twin = same.get(run.config["seed"])
        if not run.finished:
            left_out[path] = f"unfinished: {run.epochs.index[-1]} of {run.planned} epochs"
        elif twin:
            left_out[path] = f"configuration and seed are those of {twin}, which is in the report"
        else:
            grouped.setdefault(key, []).append(run)
    labels = labels_of([runs[0].config for runs in grouped.values()])
    return [Group(*pair) for pair in zip(labels, grouped.values(), strict=True)], left_out


def find(paths: Sequence[str], left_out: dict[Path, str]) -> list[Path]:
    """Run directories: those given, and those at any depth below a folder that is given.

    Folders that cannot be read are added to `left_out`.

    Raises:
        UserError: If a path is no folder, or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        runs = {run.resolve(): run for run in _runs_below(path, left_out)}
        if not runs:
            state = "is no folder" if path.exists() else "does not exist"
            state = "holds no run" if path.is_dir() else state
            raise UserError(
                f"{path} {state}. Expected a run directory, which has a config.yaml, or a folder "
                f"with several below it."
            )
        found |= {place: run for place, run in runs.items() if place not in found}
    return list(found.values())


def _runs_below(path: Path, left_out: dict[Path, str]) -> Iterator[Path]:
    def skip(error: OSError) -> None:
        left_out[Path(error.filename)] = f"cannot be read: {error.strerror}"

    seen = set()
    for folder, folders, files in os.walk(path, onerror=skip, followlinks=True):
        seen.add(os.path.realpath(folder))  # a link may lead back
        folders[:] = sorted(f for f in folders if os.path.realpath(f"{folder}/{f}") not in seen)
        if {"config.yaml", "metrics.jsonl"} & set(files):
            yield Path(folder)


def read(path: Path) -> Run:
    """A run, finished or not; half a line at the end of its metrics is left out.

    Raises:
        UnusableError: If it is damaged, or has diverged.
    """
    config = _parsed(path / "config.yaml", "YAML", yaml.safe_load)
    try:
        config = flat(config, source="config.yaml")
    except UserError as error:
        raise UnusableError(str(error).rstrip(".")) from error
    file = path / "setup.json"
    setup = _parsed(file, "JSON", json.loads) if file.exists() else {}
    epochs = _epochs(path / "metrics.jsonl")
    # Of a length in steps, or of several phases, only the setup knows the epochs.
    last, planned = epochs.index[-1], setup.get("epochs", config["training.epochs"])
    if planned is not None and last > planned:
        raise UnusableError(f"{last} epochs, but {planned} were planned")
    # With a callback that stops it, a run may have finished before.
    finished = bool(last == planned) or (path / "model.keras").exists()
    epochs = _with_derived(_with_start(epochs, path / "steps.jsonl"))
    return Run(path, config, setup, epochs, finished, planned)


def _parsed(file: Path, language: str, parse: Callable[[str], Any]) -> Any:
    try:
        table = parse(_text(file))
    except (ValueError, yaml.YAMLError) as error:
        raise UnusableError(f"{file.name} is not {language}") from error
    if not isinstance(table, dict):
        raise UnusableError(f"{file.name} holds no table of keys and values")
    return table


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableError(f"{file.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableError(f"{file.name} is not a text in UTF-8") from error


def _epochs(file: Path) -> pd.DataFrame:
    lines: list[dict[str, Any]] = []
    texts = _text(file).splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            if number == len(texts):
                break  # killed while it was written: an unfinished run
            raise UnusableError(f"{file.name} is damaged at line {number}") from error
        if not (isinstance(line, dict) and line.get("epoch") == number and "loss" in line):
            raise UnusableError(
                f"{file.name} has at line {number} no table with epoch {number} and a loss"
            )
        lines.append(line)
    if not lines:
        raise UnusableError(f"unfinished: {file.name} has no epoch")
    try:
        epochs = pd.DataFrame(lines).set_index("epoch").astype(float)
    except (TypeError, ValueError) as error:
        raise UnusableError(f"{file.name} holds a value that is no number: {error}") from error
    diverged = epochs.index[~epochs["loss"].abs().lt(math.inf)]
    if len(diverged):
        raise UnusableError(f"loss is {epochs.at[diverged[0], 'loss']} at epoch {diverged[0]}")
    return epochs


def _with_start(epochs: pd.DataFrame, file: Path) -> pd.DataFrame:
    """What was measured before the first step becomes epoch 0."""
    try:
        line = json.loads(_text(file).partition("\n")[0]) if file.exists() else {}
        if not line or line["step"] != 0:
            return epochs
        start = pd.DataFrame([line | {"epoch": 0}]).set_index("epoch").astype(float)
    except (TypeError, ValueError, KeyError) as error:
        raise UnusableError(f"{file.name} is damaged at line 1") from error
    return pd.concat([start, epochs]).reindex(columns=epochs.columns)


def _with_derived(epochs: pd.DataFrame) -> pd.DataFrame:
    """Errors before all measures, averages over layers behind them."""
    errors = pd.DataFrame({e: 100 * (1 - epochs[a]) for e, a in _ACCURACIES if a in epochs})
    if TEST_ERROR in errors:
        errors[BEST_ERROR] = errors[TEST_ERROR].cummin()
    of_layers = epochs.loc[:, epochs.columns.str.contains("/")].T
    measures = of_layers.groupby(lambda name: name.partition("/")[0], sort=False)
    means = measures.mean(skipna=False).T.add_prefix(f"{OVER_LAYERS}/")
    return pd.concat([errors, epochs, means], axis=1)
