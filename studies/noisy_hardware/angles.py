"""The angle between W and B after so many firings, and the law beside it.

Measured on a hidden layer (fan-in and fan-out: the width) of the network after training by
backprop, so that columns, biases and entries are those of a network in use.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

import tfweightmirror as tfwm
from studies.noisy_hardware import network
from studies.noisy_hardware.bases import BASES
from studies.noisy_hardware.chip import Chip, Faults
from studies.noisy_hardware.law import law_deg
from studies.noisy_hardware.points import Line, Points
from tfweightmirror.diagnostics import weight_angle_deg
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.step import mirror_step
from tfweightmirror.pathway import Pathway

FAULTS = (
    Faults(),
    *(Faults(noise=noise) for noise in (0.01, 0.03, 0.1, 0.3, 1.0)),
    *(Faults(bits=bits) for bits in (2, 4, 6, 8)),
    *(Faults(bits=bits, matched_gain=True) for bits in (2, 4, 6, 8)),
    *(Faults(dead_answers=share) for share in (0.1, 0.3)),
    *(Faults(dead_senders=share) for share in (0.1, 0.3)),
    *(Faults(bias=bias) for bias in (0.1, 0.3, 1.0)),
    Faults(own_bias=True),
    Faults(relu=True),
    Faults(relu=True, bias=0.3),
)
STEPS = (1, 2, 4, 8, 16, 32)
LAYER = "hidden_3"


def measure_all(points: Points, common: Line, seeds: Sequence[int], bases: Sequence[str]) -> None:
    """Measures what `points` does not have yet."""
    for seed in seeds:
        layer = functools.cache(functools.partial(trained_layer, seed=seed, **common))
        for faults, basis in itertools.product(FAULTS, bases):
            settings = {**common, "seed": seed, "basis": basis, "fault": named(faults)}
            points.get(settings, functools.partial(angles, layer, faults, basis, seed))


def trained_layer(
    *, data: str, seed: int, width: int, epochs: int, learning_rate: float
) -> Pathway:
    """The pathway of `LAYER` after training by backprop."""
    images = network.images(data, validate=False)
    bench = network.bench(images.shape, "backprop", width, 22)
    bench.begin(seed, learning_rate)
    bench.train(images, epochs=epochs, seed=seed)
    model = network.network(images.shape, "weight_mirror", width=width, seed=seed)
    network.copy(bench.model, model)
    (pathway,) = [p for p in tfwm.pathways(model) if p.name == LAYER]
    return pathway


def angles(layer: Callable[[], Pathway], faults: Faults, basis: str, seed: int) -> Line:
    """After each of `STEPS` mirror steps from B = 0, the mean of whose products B points along."""
    pathway = layer()
    fired = BASES[basis]
    chip = Chip(faults, seed)
    noise = fired.noise(pathway.fan_in)
    mode = MirrorMode(
        noise,
        seed=seed,
        norm=None,
        eta=1 / (noise.plan(pathway).power * fired.sweeps_per_step),
        sign_pairs=fired.sign_pairs,
        respond=chip.respond,
    )
    pathway.feedback_kernel.assign(tf.zeros(pathway.kernel.shape))
    found, done = [], 0
    for steps in STEPS:
        mirror_step([pathway], mode, {pathway.name: None}, done, steps - done)
        done = steps
        found.append(float(weight_angle_deg(pathway)))
    return {
        "sweeps": [steps * fired.sweeps_per_step for steps in STEPS],
        "angle_deg": found,
        "law_deg": law_deg(chip, pathway, fired, STEPS),
    }


def named(faults: Faults) -> Line:
    """What is wrong, and nothing else."""
    return {name: value for name, value in vars(faults).items() if value not in (None, False, 0.0)}
