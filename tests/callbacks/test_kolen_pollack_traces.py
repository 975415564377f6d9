"""Traces of a user's own around fits under `KolenPollack`: made before, used after, and left."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import SGD, Fails, compiled, dense, fit, images, same
from tests.slow import slow_but
from tfweightmirror.callbacks import KolenPollack


def momentum() -> keras.optimizers.Optimizer:
    """Whose state a wrong step shows."""
    return SGD(0.05, momentum=0.9, weight_decay=0.01)


def adam() -> keras.optimizers.Optimizer:
    """With two slots a weight."""
    return keras.optimizers.AdamW(0.01, weight_decay=0.01)


def state(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of all that training moves."""
    variables = [*model.variables, *model.optimizer.variables]
    return {str(i): np.array(v.numpy()) for i, v in enumerate(variables)}


@tf.function
def gradients(model: keras.Model, x: tf.Tensor, y: tf.Tensor) -> Any:
    """Known to no layer, so that nobody finds its traces."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x, training=True))
    return loss, tape.gradient(loss, model.trainable_variables)


class ByAFunction(keras.Sequential):
    """Takes its gradients from a function of a module."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        loss, found = gradients(self, *data)
        self.optimizer.apply_gradients(zip(found, self.trainable_variables, strict=True))
        return {"loss": loss}


class ByItself(keras.Sequential):
    """The whole step is a `tf.function`."""

    @tf.function
    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        found = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(found, self.trainable_variables, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("cls", slow_but([ByAFunction], [ByAFunction, ByItself]))
@pytest.mark.parametrize("taught", slow_but([(True, False)], [(True, False), (False, True, False)]))
def test_functions_that_were_traced_for_the_other_kind_of_step(
    cls: type[keras.Sequential], taught: tuple[bool, ...]
) -> None:
    ends = []
    for callback in (True, False):
        model = compiled(cls(dense("kolen_pollack").layers), momentum())
        for with_it in taught:
            fit(model, *([KolenPollack()] if with_it and callback else []), batches=3)
        ends.append(state(model))
    assert same(*ends)


@pytest.mark.parametrize("optimizer", slow_but([momentum], [momentum, adam]))
@pytest.mark.parametrize("end", slow_but([fit], [fit, None]))
def test_a_compiled_loop_of_before_goes_on_with_the_state_of_b(
    optimizer: Callable[[], Any], end: Any
) -> None:
    ends = []
    for callbacks in ([], [KolenPollack()]):
        model = compiled(dense("kolen_pollack"), optimizer())
        model.optimizer.build(model.trainable_variables)
        step = tf.function(lambda x, y, model=model: apply(model, x, y))
        step(*images(1))
        if end is None:  # an exception, after which the next `fit` gives all back
            with contextlib.suppress(KeyboardInterrupt):
                fit(model, *callbacks, Fails(), batches=4)
        fit(model, *callbacks, batches=3)
        step(*images(1))
        ends.append(state(model))
    assert same(*ends)


def apply(model: keras.Model, x: tf.Tensor, y: tf.Tensor) -> None:
    """A step of a loop of the user's own."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x, training=True))
    found = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))


def test_a_model_around_leaves_the_optimizer_of_the_one_inside_as_it_was() -> None:
    inner = compiled(dense("kolen_pollack"), momentum())
    fit(inner, batches=2)
    outer = compiled(keras.Sequential([keras.Input((8, 8, 1)), inner]), momentum())
    fit(outer, KolenPollack(), batches=2)
    fit(inner, batches=2)
    slots = {v.path.partition("/")[2]: v.numpy() for v in inner.optimizer.variables}
    for layer in ("hidden", "head"):
        np.testing.assert_array_equal(
            slots[f"dense_{layer}_kernel_momentum"],
            slots[f"dense_{layer}_feedback_kernel_momentum"],
        )


@pytest.mark.slow
def test_a_failed_fit_of_another_model_with_the_same_optimizer() -> None:
    first = compiled(dense("kolen_pollack"), momentum())
    with pytest.raises(KeyboardInterrupt):
        fit(first, KolenPollack(), Fails(), batches=4)
    second = compiled(keras.Model(first.inputs, first.outputs), first.optimizer)
    before = {p.name: (p.kernel.numpy(), p.feedback_kernel.numpy()) for p in tfwm.pathways(second)}
    history = fit(second, KolenPollack(), batches=4)
    fit(first, batches=1)
    for pathway in tfwm.pathways(second):
        w, b = before[pathway.name]
        gap = np.linalg.norm(pathway.feedback_kernel.numpy() - pathway.kernel.numpy())
        assert gap < np.linalg.norm(b - w)
    assert history["feedback_gap"] == pytest.approx(history["feedback_gap_predicted"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("rule", slow_but(["weight_mirror"], ["weight_mirror", "kolen_pollack"]))
def test_a_frozen_layer_without_weights_that_train_is_met(rule: str) -> None:
    make = KolenPollack if rule == "kolen_pollack" else tfwm.callbacks.WeightMirror
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    model = compiled(keras.Sequential([*dense(rule).layers, norm]), momentum())
    fit(model, make(), batches=2)
    norm.trainable, held = False, norm.moving_mean.numpy()
    fit(model, make(), batches=2)
    np.testing.assert_array_equal(norm.moving_mean.numpy(), held)
