"""The measured points, seeds together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from studies.noisy_hardware.points import Line

WORDS = {
    "dead_senders": "dead senders",
    "bias": "biases",
    "own_bias": "own biases",
    "relu": "ReLU",
    "noise": "noise",
    "bits": "bits",
    "matched_gain": "matched gain",
    "dead_answers": "dead answers",
}


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean and standard error over so many seeds."""

    value: float
    error: float
    seeds: int

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        """Of values of different seeds; the error of a single one is NaN."""
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return Mean(float(np.mean(values)), spread / math.sqrt(len(values)), len(values))


@dataclasses.dataclass(frozen=True)
class Curve:
    """Angles over firings, of one basis on one chip: an entry for every number of sweeps."""

    sweeps: list[int]
    angle_deg: list[Mean]
    law_deg: list[float]


@dataclasses.dataclass(frozen=True)
class Trained:
    """One condition of training on the test images.

    Args:
        settings: Without seed and images.
        chosen: Whether the held-out images chose these settings for the condition.
        accuracy_percent: At the last epoch.
        angle_deg: Between W and B at the end, mean over layers; None: no B, or a run has run away.
        firings_per_image: Of one layer.
    """

    settings: Line
    chosen: bool
    accuracy_percent: Mean
    angle_deg: float | None
    firings_per_image: float | None


def curves(lines: Iterable[Line], data: str) -> dict[tuple[str, str], Curve]:
    """By (fault in words, basis)."""
    found = {}
    for settings, seeds in _together(lines, data):
        columns = [Mean.of(angles) for angles in zip(*(s["angle_deg"] for s in seeds), strict=True)]
        law = np.mean([s["law_deg"] for s in seeds], axis=0).tolist()
        key = (in_words(settings["fault"]), settings["basis"])
        found[key] = Curve(seeds[0]["sweeps"], columns, law)
    return found


def trained(lines: Sequence[Line], data: str) -> list[Trained]:
    """Conditions whose accuracy on the test images is known."""
    found = []
    best: dict[str, tuple[float, Line]] = {}
    for settings, runs in _together(_of_images(lines, "validation"), data):
        accuracy, condition = runs[0]["accuracy"], _condition(settings)
        if condition not in best or accuracy > best[condition][0]:
            best[condition] = (accuracy, settings)
    for settings, seeds in _together(_of_images(lines, "test"), data):
        angles = [list(s["weight_angle_deg"].values()) for s in seeds if "weight_angle_deg" in s]
        flat = [angle for row in angles for angle in row]
        found.append(
            Trained(
                settings,
                best.get(_condition(settings), (0, None))[1] == settings,
                Mean.of([100 * s["accuracy"] for s in seeds]),
                float(np.mean(flat)) if flat and None not in flat else None,
                seeds[0].get("firings_per_image"),
            )
        )
    return found


def in_words(fault: Line) -> str:
    """A fault as the page writes it."""
    words = []
    for name, size in fault.items():
        if size is True:
            words.append(WORDS[name])
        elif name == "bits":
            words.append(f"{size} bits")
        else:
            words.append(f"{WORDS[name]} {size:g}")
    return ", ".join(sorted(words)) or "none"


def _of_images(lines: Iterable[Line], which: str) -> list[Line]:
    return [line for line in lines if line["settings"]["images"] == which]


def _condition(settings: Line) -> str:
    """What is chosen for: the settings without those that are chosen."""
    rest = {k: v for k, v in settings.items() if k not in ("norm", "decay", "learning_rate")}
    return repr(sorted(rest.items(), key=str))


def _together(lines: Iterable[Line], data: str) -> list[tuple[Line, list[Line]]]:
    """Lines that differ in their seed alone."""
    groups: dict[str, tuple[Line, list[Line]]] = {}
    for line in lines:
        settings = {k: v for k, v in line["settings"].items() if k not in ("seed", "images")}
        if settings["data"] == data:
            groups.setdefault(repr(sorted(settings.items(), key=str)), (settings, []))[1].append(
                line
            )
    return list(groups.values())
