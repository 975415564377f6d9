"""Steps that XLA compiles whole give the numbers of those that it does not.

The tolerance is for sums in another order: 1e-5 of a variable's largest entry after three steps,
1e-6 after one mirror step, in float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import images
from tests.layers.kinds import RULES
from tests.mirror.mirroring import NOISES, relative
from tfweightmirror.callbacks import FeedbackMonitor, KolenPollack, WeightMirror
from tfweightmirror.mirror import MirrorMode, Schedule
from tfweightmirror.mirror.activation import activations_of
from tfweightmirror.mirror.step import mirror_pathways, mirror_step

Callbacks = Callable[[], list[keras.callbacks.Callback]]

# The paper's mode listens behind an activation; logits have none.
paper = functools.partial(WeightMirror.akrout2019, activations={"head": "linear"})
PAPER = {
    "through_activation": True,
    "bias_blocking": False,
    "activations": {"head": "linear"},
}
CASES: dict[str, tuple[str, Callbacks]] = {
    **{rule: (rule, list) for rule in RULES if rule not in ("wm", "kp")},
    "dfa": ("dfa", list),
    "kp": ("kp", lambda: [KolenPollack()]),
    "wm balanced": ("wm", lambda: [WeightMirror(), FeedbackMonitor()]),
    "wm impulse": ("wm", lambda: [WeightMirror("impulse"), FeedbackMonitor()]),
    "wm gaussian": ("wm", lambda: [WeightMirror("gaussian")]),
    "wm akrout2019": ("wm", lambda: [paper()]),
    "wm now and then": ("wm", lambda: [paper(schedule=Schedule(every_batches=2, steps=2))]),
}


def network(rule: str) -> keras.Model:
    """A strided convolution with BatchNorm and ReLU, and a dense head."""
    keras.utils.set_random_seed(3)
    k = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = k.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="conv")(inputs)
    x = k.ReLU()(k.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, k.Dense(4, name="head")(k.Flatten()(x)))
    return tfwm.convert_model(model, RULES.get(rule, rule))


def trained(rule: str, callbacks: Callbacks, *, jit_compile: bool) -> dict[str, np.ndarray]:
    """All variables of model and optimizer after three steps of `fit`, and what `fit` said."""
    model = network(rule)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01, name="sgd"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    x, y = images(batches=3)
    said = model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks()).history
    angles = {name: said.pop(name) for name in list(said) if name.startswith("weight_angle/")}
    assert all(angle < 0.01 for (angle,) in angles.values())  # zero, and so not compared
    variables = {v.path: v.numpy() for v in [*model.variables, *model.optimizer.variables]}
    return {**variables, **{name: np.array(value) for name, value in said.items()}}


def slow_unless(value: Any, chosen: bool, name: str | None = None) -> Any:
    """A parameter that `make test` leaves to `make slow` if it is not chosen."""
    return pytest.param(value, marks=() if chosen else pytest.mark.slow, id=name)


@pytest.mark.parametrize(
    "case",
    [slow_unless(case, case == "kp") for case in CASES],
)
def test_a_train_step_gives_the_same_numbers_compiled_or_not(case: str) -> None:
    rule, callbacks = CASES[case]
    expected = trained(rule, callbacks, jit_compile=False)
    found = trained(rule, callbacks, jit_compile=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if np.any(value):
            assert relative(found[name], value) < 1e-5, name
        else:
            assert not np.any(found[name]), name


@pytest.mark.parametrize(
    "options",
    [
        *(slow_unless({"noise": noise}, noise == "orthogonal", noise) for noise in NOISES),
        slow_unless({"noise": "gaussian", **PAPER}, True, "akrout2019"),
        slow_unless({"noise": "uniform", "simultaneous": True}, False, "simultaneous"),
        slow_unless(
            {"sign_pairs": True, "response_noise_std": 0.1, "dead_cells": 0.2}, False, "unreliable"
        ),
    ],
)
def test_a_mirror_step_gives_the_same_numbers_compiled_or_not(options: dict[str, Any]) -> None:
    mirrored, mode = mirror_pathways(network("wm")), MirrorMode(**options)
    activations, taught = activations_of(mirrored, mode), []
    born = [pathway.feedback_kernel.numpy() for pathway in mirrored]
    for jit_compile in (False, True):
        for pathway, kernel in zip(mirrored, born, strict=True):
            pathway.feedback_kernel.assign(kernel)
        step = functools.partial(mirror_step, mirrored, mode, activations)
        tf.function(step, jit_compile=jit_compile, autograph=False)(tf.constant(5))
        taught.append([pathway.feedback_kernel.numpy() for pathway in mirrored])
    for expected, found, before in zip(*taught, born, strict=True):
        assert relative(expected, before) > 0.01
        assert relative(found, expected) < 1e-6
