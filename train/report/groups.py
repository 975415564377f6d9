"""Runs that differ in nothing but the seed, as means and standard errors."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.report.runs import LeftOut, Run, UnusableError, read_finished

# The keys that do not touch a run's numbers, and the seed: as `run_directory.MAY_DIFFER`, which
# cannot be imported without TensorFlow.
MAY_DIFFER = ("run_directory", "on_nan", "training.progress", "checkpoint.", "cluster.", "seed")

RULES = {
    "backprop": ("bp",),
    "feedback_alignment": ("fa", "frfb"),
    "sign_symmetry": ("ss",),
    "weight_mirror": ("wm",),
    "kolen_pollack": ("kp",),
    "updated_random_feedback": ("urfb",),
}
"""Rule to its aliases; usf, frsf and brsf are sign-symmetries of their own."""

TEST_ERROR, TRAIN_ERROR = "test_error_percent", "train_error_percent"
TOP_5_ERROR = "top_5_error_percent"
BEST_ERROR = "best_test_error_percent"
"""Smallest test error up to an epoch: chosen on the test images, for numbers that were, too."""

_ACCURACY_OF = {
    TEST_ERROR: "val_accuracy",
    TRAIN_ERROR: "accuracy",
    TOP_5_ERROR: "val_top_5_accuracy",
}


class Estimate(NamedTuple):
    """Mean over runs, and its standard error; None for a single run."""

    mean: float
    error: float | None


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
    def config(self) -> dict[str, Any]:
        return self.runs[0].config

    @property
    def epochs(self) -> int:
        return self.runs[0].planned_epochs

    @property
    def task(self) -> str:
        """Data and model."""
        return task_of(self.config)

    @property
    def measures(self) -> list[str]:
        """Names of what the last epoch of every run has, with errors in place of accuracies."""
        common = [
            name
            for name in self.runs[0].epochs[-1]
            if name != "epoch" and all(name in run.epochs[-1] for run in self.runs)
        ]
        errors = [error for error, accuracy in _ACCURACY_OF.items() if accuracy in common]
        return [*errors, *common]

    def layers(self, measure: str) -> list[str]:
        """Layers that have a measure, from input to output."""
        prefix = f"{measure}/"
        return [name.removeprefix(prefix) for name in self.measures if name.startswith(prefix)]

    def at(self, measure: str, epoch: int) -> Estimate | None:
        """The mean at an epoch; None unless every run has the measure there."""
        if measure == BEST_ERROR:
            until = [[value_of(line, TEST_ERROR) for line in r.epochs[:epoch]] for r in self.runs]
            return estimate([min(v for v in values if v is not None) for values in until])
        values = [value_of(run.epochs[epoch - 1], measure) for run in self.runs]
        known = [value for value in values if value is not None]
        return estimate(known) if len(known) == len(values) else None

    def last(self, measure: str) -> Estimate | None:
        return self.at(measure, self.epochs)

    def over_epochs(self, measure: str) -> dict[int, Estimate]:
        estimates = {epoch: self.at(measure, epoch) for epoch in range(1, self.epochs + 1)}
        return {epoch: value for epoch, value in estimates.items() if value is not None}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error."""
    if len(values) == 1:
        return Estimate(values[0], None)
    return Estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))


def gather(paths: Sequence[Path]) -> tuple[list[Group], list[LeftOut]]:
    """Reads runs and groups them in the order of their first; names those that are left out."""
    grouped: list[list[Run]] = []
    left_out = []
    for path in paths:
        try:
            run = read_finished(path)
        except UnusableError as error:
            left_out.append(LeftOut(path, str(error)))
            continue
        same = next((runs for runs in grouped if _identity(runs[0]) == _identity(run)), None)
        twin = next((r for r in same or () if r.config["seed"] == run.config["seed"]), None)
        if twin is not None:
            reason = f"configuration and seed are those of {twin.path}, which is in the report"
            left_out.append(LeftOut(path, reason))
        elif same is None:
            grouped.append([run])
        else:
            same.append(run)
    labels = labels_of([runs[0].config for runs in grouped])
    return [Group(*pair) for pair in zip(labels, map(tuple, grouped), strict=True)], left_out


def labels_of(configs: Sequence[dict[str, Any]]) -> list[str]:
    """A short name for each of different configurations."""
    labels = [_rule_label(config) for config in configs]
    if len({task_of(config) for config in configs}) > 1:
        labels = [
            f"{task_of(config)}, {label}" for config, label in zip(configs, labels, strict=True)
        ]
    return [
        ", ".join([label, *_what_differs(config, _others(configs, labels, label))])
        for config, label in zip(configs, labels, strict=True)
    ]


def task_of(config: dict[str, Any]) -> str:
    """Data and model, in words: `mnist, mlp 500`."""
    model = str(config["model.name"])
    if model == "mlp":
        model += f" {'-'.join(map(str, config['model.mlp.units']))}"
    return f"{data_name(config)}, {model}"


def data_name(config: dict[str, Any]) -> str:
    """The set's name without version and folder."""
    parts = Path(config["data.name"]).parts
    return parts[-2] if len(parts) > 1 else str(config["data.name"]).partition(":")[0]


def rule_of(config: dict[str, Any]) -> str:
    """The rule's full name."""
    given = str(config["feedback.rule"])
    return next((name for name, aliases in RULES.items() if given in aliases), given)


def _rule_label(config: dict[str, Any]) -> str:
    rule = rule_of(config)
    label = rule.replace("_", " ").replace("kolen pollack", "Kolen-Pollack")
    if rule == "weight_mirror":
        linear = config["mirror.mode"] == "linear"
        label += f" ({config['mirror.noise'] if linear else config['mirror.mode']})"
    if config["feedback.last_layer"] is not None:
        label += f", last layer {config['feedback.last_layer']}"
    return label


def _identity(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if not key.startswith(MAY_DIFFER)}


def _others(
    configs: Sequence[dict[str, Any]], labels: Sequence[str], label: str
) -> list[dict[str, Any]]:
    return [config for config, other in zip(configs, labels, strict=True) if other == label]


def _what_differs(config: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{key}={value}"
        for key, value in config.items()
        if not key.startswith(MAY_DIFFER) and any(other[key] != value for other in others)
    ]


def value_of(line: dict[str, float], measure: str) -> float | None:
    """A measure in a line of metrics.jsonl; errors are worked out from accuracies."""
    accuracy = line.get(_ACCURACY_OF.get(measure, ""))
    return line.get(measure) if accuracy is None else 100 * (1 - accuracy)
