"""Accuracy after training with a mirror that listens to a chip with faults.

Settings are chosen on held-out training images by one run each, the first of the best; the test
images choose nothing. Backprop and feedback alignment have the best of `LEARNING_RATES` each,
every condition of the mirror the best of `MIRRORS`: a mirror step replaces B, or B averages over
about twenty of them and keeps its length (synaptic scaling).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

import tfweightmirror as tfwm
from studies.noisy_hardware import network
from studies.noisy_hardware.angles import named
from studies.noisy_hardware.bases import BASES
from studies.noisy_hardware.chip import Chip, Faults
from studies.noisy_hardware.points import Line, Points
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.step import mirror_step

LEARNING_RATES = (0.03, 0.01, 0.003, 0.001)
MIRRORS: tuple[Line, ...] = (
    {"norm": "decay", "decay": 1.0, "learning_rate": 0.01},
    {"norm": "scaling", "decay": 0.1, "learning_rate": 0.01},
    {"norm": "scaling", "decay": 0.1, "learning_rate": 0.003},
)
SIDE_BY_SIDE: tuple[Line, ...] = (
    MIRRORS[0],
    *(
        {"norm": norm, "decay": 0.1, "learning_rate": rate}
        for norm in ("decay", "scaling")
        for rate in (0.01, 0.03)
    ),
)
"""Seen on the test images under noise 0.3, whatever is chosen."""
TUNING_SEED = 100
WARM_UP_STEPS = 10
PLAIN = ("impulse", "blocks of 64", "all cells", "independent")


@dataclasses.dataclass(frozen=True)
class Condition:
    """A chip, what its cells fire, and how often.

    Args:
        every_batches: Batches from one mirror step to the next.
    """

    faults: Faults
    basis: str
    every_batches: int = 4


MEASURED = (
    (Faults(), ("all cells", "independent")),
    (Faults(noise=0.3), PLAIN),
    (Faults(noise=1.0), ("all cells", "independent")),
    (Faults(bits=4), ("impulse", "all cells")),
    (Faults(bias=0.3), ("impulse", "all cells, pairs")),
    (Faults(relu=True), ("all cells", "all cells, pairs", "independent")),
    (Faults(dead_answers=0.3), ("all cells",)),
    (Faults(dead_senders=0.3), ("all cells",)),
)
LESS_OFTEN = ("impulse", "all cells", "independent")


def conditions(bases: Sequence[str]) -> Iterator[Condition]:
    """Those that are measured, of `bases`."""
    for faults, fired in MEASURED:
        yield from (Condition(faults, basis) for basis in fired if basis in bases)
    for every in (16, 64):
        yield from (Condition(Faults(noise=0.3), b, every) for b in LESS_OFTEN if b in bases)


def ends(points: Points, common: Line, seeds: Sequence[int]) -> float:
    """Backprop and feedback alignment; the learning rate of backprop."""
    rates = []
    for rule in ("backprop", "feedback_alignment"):
        candidates = [{**common, "rule": rule, "learning_rate": rate} for rate in LEARNING_RATES]
        rates.append(tested(points, chosen(points, candidates), seeds)["learning_rate"])
    return float(rates[0])


def mirrors(points: Points, common: Line, seeds: Sequence[int], bases: Sequence[str]) -> None:
    """The mirror under every condition."""
    for condition in conditions(bases):
        fixed = {
            **common,
            "rule": "weight_mirror",
            "fault": named(condition.faults),
            "basis": condition.basis,
            "every_batches": condition.every_batches,
        }
        tested(points, chosen(points, [{**fixed, **mirror} for mirror in MIRRORS]), seeds)
        if condition == Condition(Faults(noise=0.3), condition.basis):
            for mirror in SIDE_BY_SIDE:
                tested(points, {**fixed, **mirror}, seeds)


def tested(points: Points, settings: Line, seeds: Sequence[int]) -> Line:
    """Trains under `settings` and looks at the test images, once for each seed."""
    for seed in seeds:
        run(points, {**settings, "images": "test", "seed": seed})
    return settings


def chosen(points: Points, candidates: Sequence[Line]) -> Line:
    """The first of the best on held-out training images."""

    def accuracy(settings: Line) -> float:
        line = run(points, {**settings, "images": "validation", "seed": TUNING_SEED})
        return float(line["accuracy"])

    return max(candidates, key=accuracy)


def run(points: Points, settings: Line) -> Line:
    """One training, known or made now."""
    return points.get(settings, lambda: _train(**settings))


class Listening:
    """Mirror mode on a bench's network, all of whose layers listen to one chip."""

    def __init__(
        self, on: network.Bench, faults: Faults, basis: str, norm: Any, decay: float
    ) -> None:
        self._chip = Chip(faults, 0)
        self._pathways = [p for p in tfwm.pathways(on.model) if p.rule.learns_by == "mirror"]
        fired = BASES[basis]
        self._mode = MirrorMode(
            fired.noise(self._pathways[0].fan_in, decay),
            norm=norm,
            sign_pairs=fired.sign_pairs,
            respond=self._chip.respond,
        )
        self._compiled = tf.function(self._steps, autograph=False)
        self._seed = self._done = 0

    def begin(self, seed: int) -> None:
        """Another chip, and a warm-up."""
        self._chip.restart(seed)
        self._seed, self._done = seed, 0
        self.fire(WARM_UP_STEPS)

    def fire(self, steps: int = 1) -> None:
        """Mirror steps, now."""
        self._compiled(*map(tf.constant, (self._done, steps, self._seed)))
        self._done += steps

    def samples(self) -> int:
        """Noise samples that a layer has fired since the begin."""
        return self._done * self._mode.samples(self._pathways[0])

    def _steps(self, first: tf.Tensor, steps: tf.Tensor, seed: tf.Tensor) -> None:
        linear = dict.fromkeys(p.name for p in self._pathways)
        mirror_step(self._pathways, self._mode, linear, first, steps, seed=seed)


listening = functools.lru_cache(maxsize=2)(Listening)


def _train(
    *,
    data: str,
    width: int,
    epochs: int,
    rule: str,
    learning_rate: float,
    images: str,
    seed: int,
    fault: Line | None = None,
    basis: str = "",
    every_batches: int = 22,
    norm: str = "",
    decay: float = 1.0,
) -> Line:
    pictures = network.images(data, validate=images == "validation")
    on = network.bench(pictures.shape, rule, width, every_batches)
    on.begin(seed, learning_rate)
    mirror = None
    if fault is not None:
        mirror = listening(on, Faults(**fault), basis, norm, decay)
        mirror.begin(seed)
    after_call = None if mirror is None else mirror.fire
    line: Line = {"accuracy": on.train(pictures, epochs=epochs, seed=seed, after_call=after_call)}
    if rule != "backprop":
        line["weight_angle_deg"] = {
            name: angle if math.isfinite(angle) else None  # training has run away
            for name, angle in tfwm.weight_angles(on.model).items()
            if name != "hidden_1"
        }
    if mirror is not None:
        shown = len(pictures.train[0]) // network.BATCH * network.BATCH * epochs
        line["firings_per_image"] = mirror.samples() / shown
    return line
