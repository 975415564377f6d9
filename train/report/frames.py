"""Run directories as data frames, or the reason why one cannot be used. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Sequence
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

_ACCURACY_OF = {
    TEST_ERROR: "val_accuracy",
    TRAIN_ERROR: "accuracy",
    TOP_5_ERROR: "val_top_5_accuracy",
}
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
    """

    path: Path
    config: Flat
    setup: dict[str, Any]
    epochs: pd.DataFrame
    finished: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Args:
        label: Rule, and what else tells it from the other groups.
        runs: One a seed.
    """

    label: str
    runs: tuple[Run, ...]

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

    def shown(self, measure: str, epoch: int | None = None) -> str:
        """A measure at an epoch, or at the last one; nothing if it was not measured there."""
        epoch = self.epochs if epoch is None else epoch
        if measure not in self.mean or epoch not in self.mean.index:
            return ""
        return shown(self.mean.at[epoch, measure], self.error.at[epoch, measure])


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
        same = grouped.setdefault(json.dumps(identity(run.config), sort_keys=True), [])
        twin = next((r for r in same if r.config["seed"] == run.config["seed"]), None)
        if not run.finished:
            planned = run.config["training.epochs"]
            left_out[path] = f"unfinished: {len(run.epochs)} of {planned} epochs"
        elif twin is not None:
            left_out[path] = (
                f"configuration and seed are those of {twin.path}, which is in the report"
            )
        else:
            same.append(run)
    runs = [tuple(same) for same in grouped.values() if same]
    labels = labels_of([same[0].config for same in runs])
    return [Group(*pair) for pair in zip(labels, runs, strict=True)], left_out


def find(paths: Sequence[str], left_out: dict[Path, str]) -> list[Path]:
    """Run directories: those given, and those at any depth below a folder that is given.

    Folders that cannot be read are added to `left_out`.

    Raises:
        UserError: If a path is no folder, or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            state = "is no folder" if path.exists() else "does not exist"
            raise UserError(f"{path} {state}. Expected a run directory, or a folder of several.")
        runs = list(_runs_below(path, left_out))
        if not runs:
            raise UserError(
                f"{path} holds no run: neither it nor a folder below it has a config.yaml. "
                f"Expected a run directory, or a folder of several."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
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
    config = _config(path / "config.yaml")
    epochs = _epochs(path / "metrics.jsonl")
    planned = int(config["training.epochs"])
    if epochs.index[-1] > planned:
        raise UnusableError(f"{epochs.index[-1]} epochs, but config.yaml says {planned}")
    # With a callback that stops it, a run may have finished before.
    finished = bool(epochs.index[-1] == planned) or (path / "model.keras").exists()
    return Run(path, config, _setup(path / "setup.json"), _with_derived(epochs), finished)


def _config(file: Path) -> Flat:
    try:
        tree = yaml.safe_load(_text(file))
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "no text"
        raise UnusableError(f"{file.name} is not YAML: {problem}") from error
    try:
        return flat(tree)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnusableError(f"{file.name} holds no table of keys and values") from error
    except UserError as error:
        raise UnusableError(f"{file.name}: {error}") from error


def _setup(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        setup = json.loads(_text(file))
    except ValueError as error:
        raise UnusableError(f"{file.name} is not JSON") from error
    if not isinstance(setup, dict):
        raise UnusableError(f"{file.name} holds no table of keys and values")
    return setup


def _epochs(file: Path) -> pd.DataFrame:
    texts = _text(file).splitlines()
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            if number == len(texts):
                break  # killed while it was written: an unfinished run
            raise UnusableError(f"{file.name} is damaged at line {number}") from error
        if not isinstance(line, dict):
            raise UnusableError(f"{file.name} has no table at line {number}")
        for name in ("epoch", "loss"):
            if name not in line:
                raise UnusableError(f"{file.name} has no {name} at line {number}")
        expected = lines[-1]["epoch"] + 1 if lines else 1
        if line["epoch"] != expected:
            raise UnusableError(
                f"{file.name} has epoch {line['epoch']} at line {number}, where epoch {expected} "
                f"is expected"
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
        value = epochs.at[diverged[0], "loss"]
        raise UnusableError(f"loss is {value} at epoch {diverged[0]}")
    return epochs


def _with_derived(epochs: pd.DataFrame) -> pd.DataFrame:
    """Errors before all measures, averages over layers behind them."""
    errors = {
        error: 100 * (1 - epochs[accuracy])
        for error, accuracy in _ACCURACY_OF.items()
        if accuracy in epochs
    }
    if TEST_ERROR in errors:
        errors[BEST_ERROR] = errors[TEST_ERROR].cummin()
    layers: dict[str, list[str]] = {}
    for name in epochs:
        measure, slash, _ = name.partition("/")
        if slash:
            layers.setdefault(measure, []).append(name)
    means = {
        f"{OVER_LAYERS}/{measure}": epochs[names].mean(axis=1, skipna=False)
        for measure, names in layers.items()
        if len(names) > 1
    }
    return pd.concat([pd.DataFrame(errors), epochs, pd.DataFrame(means)], axis=1)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableError(f"{file.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableError(f"{file.name} is not a text in UTF-8") from error
