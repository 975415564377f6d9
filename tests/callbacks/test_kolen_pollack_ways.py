"""Kolen-Pollack with one increment and without, in turns: no way of training leaves B behind."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.gaps import LAW, Optimizer, gaps, law
from tests.callbacks.training import SGD, Fails, compiled, dense, fit, images, kernels
from tests.slow import slow_but
from tfweightmirror.callbacks import KolenPollack

o = keras.optimizers

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "momentum": lambda: SGD(0.1, momentum=0.9, weight_decay=0.6),
    "AdamW": lambda: o.AdamW(0.01, weight_decay=6.0),
    "accumulation": lambda: SGD(0.1, momentum=0.9, weight_decay=2.0, gradient_accumulation_steps=3),
    "loss scale": lambda: o.LossScaleOptimizer(SGD(0.1, momentum=0.9, weight_decay=0.6)),
}


def everything(model: keras.Model) -> dict[str, np.ndarray]:
    """All weights and the optimizer's state."""
    state = [*model.weights, *model.optimizer.variables]
    return {f"{place} {v.path}": np.array(v.numpy()) for place, v in enumerate(state)}


def assert_same(one: keras.Model, other: keras.Model) -> None:
    """Equal to the bit, B and its state included."""
    values = everything(other)
    for (path, value), expected in zip(everything(one).items(), values.values(), strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=path)


def distinct_state(model: keras.Model) -> int:
    """How many variables the optimizer really has."""
    return len({id(v._value) for v in model.optimizer.variables})


class CountsState(keras.callbacks.Callback):
    """Notes how many variables the optimizer has in the course of a batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.counted = distinct_state(self.model)


@pytest.mark.parametrize(
    ("name", "replicas"),
    slow_but([("momentum", 1)], [("momentum", 2), *((n, 1) for n in OPTIMIZERS)], unpack=True),
)
def test_with_the_callback_and_without_it_in_turns_is_as_always_without(
    name: str, replicas: int, two_replicas: tf.distribute.Strategy
) -> None:
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        one, other = (compiled(dense("kolen_pollack"), OPTIMIZERS[name]()) for _ in range(2))
    for turn in range(4):  # four batches: accumulated gradients are handed over, too
        fit(one, *([KolenPollack()] if turn % 2 == 0 else []), batches=4)
        fit(other, batches=4)
        assert_same(one, other)


@pytest.mark.parametrize("built", [True, False])
def test_with_the_callback_the_optimizer_has_no_state_for_b(built: bool) -> None:
    plain, model = (compiled(dense(rule), OPTIMIZERS["AdamW"]()) for rule in (None, "kp"))
    plain.optimizer.build(plain.trainable_variables)
    if built:
        model.optimizer.build(model.trainable_variables)
        assert distinct_state(model) == distinct_state(plain) + 4
    counts = CountsState()
    fit(model, KolenPollack(), counts, batches=1)
    assert counts.counted == distinct_state(plain)
    assert distinct_state(model) == distinct_state(plain) + 4


@pytest.mark.slow
def test_a_fit_that_failed_goes_on_in_a_loop_of_ones_own_and_without_the_callback() -> None:
    one, other = (compiled(dense("kolen_pollack"), OPTIMIZERS["momentum"]()) for _ in range(2))
    for model, callbacks in ((one, [KolenPollack()]), (other, [])):
        with pytest.raises(KeyboardInterrupt):
            fit(model, *callbacks, Fails())
        own_loop(model, traced=False, batches=2)
        fit(model, batches=2)
    assert_same(one, other)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("began_with", "goes_on_with"),
    slow_but([(True, False)], itertools.product((True, False), repeat=2), unpack=True),
)
def test_a_file_of_mid_training_goes_on_either_way(
    began_with: bool, goes_on_with: bool, tmp_path: Path
) -> None:
    """A file that was written without the callback is what every file was before."""
    whole = compiled(dense("kolen_pollack"), OPTIMIZERS["momentum"]())
    fit(whole, batches=8, epochs=2)
    first = compiled(dense("kolen_pollack"), OPTIMIZERS["momentum"]())
    saves = keras.callbacks.ModelCheckpoint(tmp_path / "after-{epoch}.keras")
    fit(first, *([KolenPollack()] if began_with else []), saves, batches=8)
    model = keras.models.load_model(tmp_path / "after-1.keras")
    fit(model, *([KolenPollack()] if goes_on_with else []), batches=8)
    assert_same(model, whole)


# --- ways of training that know nothing of the callback -----------------------------------------


def own_loop(model: keras.Model, *, traced: bool, batches: int = 8) -> None:
    """Trains as a user's own loop does."""
    x, y = images(batches)

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
            loss = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)

    run = tf.function(step, autograph=False) if traced else step
    for batch in range(batches):
        part = slice(batch * 8, batch * 8 + 8)
        run(tf.constant(x[part]), tf.constant(y[part]))


def on_batches(model: keras.Model) -> None:
    """Trains by `train_on_batch`."""
    x, y = images(8)
    for batch in range(8):
        model.train_on_batch(x[batch * 8 : batch * 8 + 8], y[batch * 8 : batch * 8 + 8])


WAYS: dict[str, Callable[[keras.Model], Any]] = {
    "fit": fit,
    "fit, eagerly": lambda model: fit(compiled(model, model.optimizer, run_eagerly=True)),
    "train_on_batch": on_batches,
    "own loop": lambda model: own_loop(model, traced=False),
    "own loop, traced": lambda model: own_loop(model, traced=True),
}


@pytest.mark.parametrize("name", slow_but(["own loop", "own loop, traced"], WAYS))
def test_without_the_callback_b_learns_all_the_same(name: str) -> None:
    model = compiled(dense("kolen_pollack"), OPTIMIZERS["loss scale"]())
    model.optimizer.build(model.trainable_variables)
    before, start = gaps(model), kernels(model)
    WAYS[name](model)
    for pathway, gap in gaps(model).items():
        expected = law(model.optimizer, 0.6, updates=8)
        assert gap / before[pathway] == pytest.approx(expected, rel=LAW), pathway
        assert not np.allclose(kernels(model)[pathway], start[pathway], atol=1e-3)


# --- rules of users -----------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class HalfPollack(tfwm.rules.KolenPollack):
    """B gets half the gradient of W."""

    name = "half_pollack"

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        return 0.5 * kernel_gradient


def test_a_rule_with_a_gradient_of_its_own_keeps_it_and_the_callback_refuses_it() -> None:
    model = compiled(dense(HalfPollack()), SGD(0.1, weight_decay=0.6))
    with pytest.raises(ValueError, match="rule HalfPollack gives B a gradient of its own"):
        fit(model, KolenPollack())
    compiled(model, SGD(0.1))
    w, b = (v.numpy() for v in model.get_layer("head").trainable_variables[::2])
    with pytest.warns(UserWarning, match="no optimizer .* decays"):
        fit(model, batches=1)
    moved_w, moved_b = (v.numpy() for v in model.get_layer("head").trainable_variables[::2])
    np.testing.assert_allclose(moved_b - b, 0.5 * (moved_w - w), atol=1e-7)
    assert not np.array_equal(moved_w, w)


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class SignsOfPollack(tfwm.rules.KolenPollack):
    """B's signs alone carry the error."""

    name = "signs_of_pollack"

    def backward_kernel(self, kernel: Any, feedback: Any, seed: Any) -> tf.Tensor:
        return tf.sign(feedback)


def test_a_rule_that_derives_from_kolen_pollack_is_moved_with_w() -> None:
    model = compiled(dense(SignsOfPollack()), SGD(0.1, weight_decay=0.6))
    before = gaps(model)
    fit(model, KolenPollack())
    for pathway, gap in gaps(model).items():
        expected = law(model.optimizer, 0.6, updates=8)
        assert gap / before[pathway] == pytest.approx(expected, rel=LAW), pathway
