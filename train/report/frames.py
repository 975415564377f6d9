"""Run directories as data frames, or the reason why one cannot be used. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from train.disk import json_lines
from train.errors import UserError
from train.report.configs import Flat, flat, identity, labels_of, task_of

TEST_ERROR, TRAIN_ERROR = "test_error_percent", "train_error_percent"
TOP_5_ERROR = "top_5_error_percent"
BEST_ERROR = "best_test_error_percent"
"""Smallest test error up to an epoch: chosen on the test images, for numbers that were, too."""

OF_CARRIERS = {
    "weight_angle",
    "weight_angle_before_mirror",
    "predicted_weight_angle",
    "sign_angle",
    "shared_angle",
    "norm_ratio",
}
"""Measures of what carries an error; of a layer that sends none back they have no effect."""

_ACCURACIES = (
    (TEST_ERROR, "val_accuracy"),
    (TRAIN_ERROR, "accuracy"),  # the running mean of an epoch
    (TRAIN_ERROR, "train_accuracy"),  # of a pass at its end, where there was one
    (TOP_5_ERROR, "val_top_5_accuracy"),
)
SAMPLES = "mirror_samples_per_image"
OVER_LAYERS = "mean_over_layers"
"""Of a measure of several layers, `mean_over_layers/<measure>`: of carriers over those in use."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory says."""

    path: Path
    config: Flat  # keys that its file lacks are at their defaults
    setup: dict[str, Any]  # of setup.json, if there is one
    epochs: pd.DataFrame  # errors, measures and their means over layers; NaN: without a value
    finished: bool
    planned: int | None = None  # epochs of the whole run; None: not known
    steps: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)  # losses by step


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration, one a seed; the label tells it from the other groups."""

    label: str
    runs: Sequence[Run]

    @property
    def config(self) -> Flat:
        return self.runs[0].config

    @property
    def task(self) -> str:
        return task_of(self.config)

    @property
    def epochs(self) -> int:
        """The last epoch that all runs have."""
        return min(int(run.epochs.index[-1]) for run in self.runs)

    @functools.cached_property
    def _by_epoch(self) -> Any:
        rows = pd.concat([run.epochs for run in self.runs], join="inner")
        return rows[rows.index <= self.epochs].groupby(level="epoch")

    @functools.cached_property
    def mean(self) -> pd.DataFrame:
        """By epoch, of the measures that all runs have; NaN where one of them has no value."""
        return self._by_epoch.mean(skipna=False)

    @functools.cached_property
    def error(self) -> pd.DataFrame:
        """The standard error of the mean; NaN for a single run."""
        return self._by_epoch.sem(skipna=False)

    @functools.cached_property
    def losses(self) -> pd.DataFrame:
        """Mean training losses by step, where all runs have lines of them; may be empty."""
        rows = pd.concat([run.steps for run in self.runs], join="inner")
        return rows.groupby(level=0).mean()

    def has_no_effect(self, measure: str, layer: str) -> bool:
        """Whether it is of a carrier on which the layer sends no error back."""
        return measure in OF_CARRIERS and layer in _silent(self.runs[0].setup)

    def layers(self, measure: str) -> list[str]:
        """Layers that have a measure, from input to output."""
        prefix = f"{measure}/"
        return [name.removeprefix(prefix) for name in self.mean if name.startswith(prefix)]

    def shown(self, measure: str) -> str:
        """A measure at the last epoch; nothing if it was not measured."""
        last = [f.at[self.epochs, measure] for f in (self.mean, self.error) if measure in f]
        return shown(*last) if last else ""


def shown(mean: float, error: float = math.nan) -> str:
    """`1.65`, or with the standard error `1.65 (0.03)`; what would round to nothing is told so."""
    if math.isnan(mean):
        text = "NaN"
    elif 0 < abs(mean) < 0.005:
        text = "< 0.01" if mean > 0 else "-0.00"
    else:
        text = f"{mean:.2f}"
    return text if math.isnan(error) else f"{text} ({shown(error)})"


def gather(paths: Sequence[str]) -> tuple[list[Group], dict[Path, str]]:
    """Finished runs at any depth below folders, and those left out with the reason."""
    grouped: dict[str, dict[int, Run]] = {}
    left_out: dict[Path, str] = {}
    for path in find(paths, left_out):
        try:
            run = read(path)
        except UserError as error:
            left_out[path] = str(error).rstrip(".")
            continue
        key = json.dumps(identity(run.config), sort_keys=True, default=repr)
        twin = grouped.get(key, {}).get(run.config["seed"])
        if not run.finished:
            left_out[path] = f"unfinished: {run.epochs.index[-1]} of {run.planned} epochs"
        elif twin:
            same = f"configuration and seed are those of {twin.path}"
            left_out[path] = f"{same}, which is in the report"
        else:
            grouped.setdefault(key, {})[run.config["seed"]] = run
    members = [_told_alike(list(by_seed.values())) for by_seed in grouped.values()]
    folders = [_common_name([run.path.name for run in runs]) for runs in members]
    labels = labels_of([runs[0].config for runs in members], folders)
    return list(map(Group, labels, members)), left_out


def _told_alike(runs: Sequence[Run]) -> list[Run]:
    """Runs of one configuration: which layers send no error back, one tells for older ones, too."""
    silent = set[str]().union(*(_silent(run.setup) for run in runs))
    return [run if _silent(run.setup) == silent else read(run.path, silent) for run in runs]


def _common_name(names: Sequence[str]) -> str:
    """What folders of several seeds have in common: `simpnet` of `simpnet-0` and `simpnet-1`."""
    first, last = min(names), max(names)
    alike = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(alike, len(first))].rstrip("-_")


def find(paths: Sequence[str], left_out: dict[Path, str]) -> list[Path]:
    """Run directories at any depth below folders; those that cannot be read join `left_out`."""

    def skip(error: OSError) -> None:
        left_out[Path(error.filename)] = f"cannot be read: {error.strerror}"

    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        seen, runs = set(), []
        for folder, folders, files in os.walk(path, onerror=skip, followlinks=True):
            seen.add(os.path.realpath(folder))  # a link may lead back
            folders[:] = sorted(f for f in folders if os.path.realpath(f"{folder}/{f}") not in seen)
            if {"config.yaml", "metrics.jsonl"} & set(files):
                runs.append(Path(folder))
        if not runs:
            state = "is no folder" if path.exists() else "does not exist"
            raise UserError(
                f"{path} {'holds no run' if path.is_dir() else state}. Expected a run directory, "
                f"which has a config.yaml, or a folder with several below it."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read(path: Path, silent: Iterable[str] = ()) -> Run:
    """A run, finished or not; UserError says why it cannot be used, without its name.

    `silent`: layers that are known to send no error back, where the run itself may not say so.
    """
    tree = _parsed(path / "config.yaml", yaml.safe_load, "is not YAML")
    config = flat(tree, source="config.yaml")
    file = path / "setup.json"
    setup = _parsed(file, json.loads, "is not JSON") if file.exists() else {}
    if silent:
        setup["sends_no_error_back"] = sorted(silent)
    epochs = _epochs(path / "metrics.jsonl")
    # Of a length in steps, or of several phases, only the setup knows the epochs.
    last, planned = epochs.index[-1], setup.get("epochs", config["training.epochs"])
    if planned is not None and last > planned:
        raise UserError(f"{last} epochs, but {planned} were planned")
    # With a callback that stops it, a run may have finished before.
    finished = bool(last == planned) or (path / "model.keras").exists()
    file = path / "steps.jsonl"
    lines = _parsed(file, json_lines, kind=list) if file.exists() else []
    epochs = _with_derived(_with_start(epochs, lines, file), _silent(setup))
    return Run(path, config, setup, epochs, finished, planned, _losses(lines, file))


def _parsed(file: Path, parse: Callable[[str], Any], wrong: str = "", kind: type = dict) -> Any:
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name} is not a text in UTF-8") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file.name} {wrong or error}") from error
    if not isinstance(content, kind):
        raise UserError(f"{file.name} holds no table of keys and values")
    return content


def _epochs(file: Path) -> pd.DataFrame:
    lines = _parsed(file, json_lines, kind=list)
    if not lines:
        raise UserError(f"unfinished: {file.name} has no epoch")
    for number, line in enumerate(lines, 1):
        if not (isinstance(line, dict) and line.get("epoch") == number and "loss" in line):
            raise UserError(
                f"{file.name} has at line {number} no table with epoch {number} and a loss"
            )
    try:
        epochs = pd.DataFrame(lines).set_index("epoch").astype(float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file.name} holds a value that is no number: {error}") from error
    diverged = epochs.index[~epochs["loss"].abs().lt(math.inf)]
    if len(diverged):
        raise UserError(f"loss is {epochs.at[diverged[0], 'loss']} at epoch {diverged[0]}")
    return epochs


def _losses(lines: Sequence[Any], file: Path) -> pd.DataFrame:
    """Training losses by step, of the lines that have them."""
    try:
        rows = [line for line in lines if "loss" in line]
        names = [n for n in (rows[0] if rows else ()) if re.fullmatch("([a-z]+_)?loss", n)]
        names = [n for n in names if not n.startswith("val_")]
        frame = pd.DataFrame(rows, columns=["step", *names]).set_index("step").astype(float)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{file.name} has a line whose losses are no numbers: {error}") from error
    return frame


def _with_start(epochs: pd.DataFrame, lines: Sequence[Any], file: Path) -> pd.DataFrame:
    """What was measured before the first step becomes epoch 0."""
    try:
        start = [line | {"epoch": 0} for line in lines[:1] if line["step"] == 0]
        row = pd.DataFrame(start, columns=["epoch", *epochs]).set_index("epoch").astype(float)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{file.name} is damaged at line 1") from error
    return pd.concat([row, epochs]) if start else epochs


def _silent(setup: dict[str, Any]) -> set[str]:
    """Layers that send no error back; none are known of runs that do not say so."""
    names = setup.get("sends_no_error_back")
    return set(map(str, names)) if isinstance(names, list) else set()


def _with_derived(epochs: pd.DataFrame, silent: set[str]) -> pd.DataFrame:
    """Errors before all measures, averages over layers behind them."""
    errors = pd.DataFrame({e: 100 * (1 - epochs[a]) for e, a in _ACCURACIES if a in epochs})
    if TEST_ERROR in errors:
        errors[BEST_ERROR] = errors[TEST_ERROR].cummin()
    unused = [f"{measure}/{layer}" for measure in OF_CARRIERS for layer in silent]
    used = epochs.filter(like="/").drop(columns=unused, errors="ignore")
    measures = used.T.groupby(lambda name: name.partition("/")[0], sort=False)
    means = measures.mean(skipna=False).T.add_prefix(f"{OVER_LAYERS}/")
    return pd.concat([errors, epochs, means], axis=1)
