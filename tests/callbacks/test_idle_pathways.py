"""Mirror mode leaves out pathways on which no error travels, and only those."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import compiled, dense, feedback, fit, kernels, same
from tests.slow import slow_but
from tfweightmirror.callbacks import FeedbackMonitor, WeightMirror
from tfweightmirror.mirror import Schedule
from tfweightmirror.mirror.noise import Impulse

LAYERS = {"hidden": 6, "middle": 5, "head": 4}


def in_three_layers(rule: str | None = "weight_mirror", frozen: bool = False) -> keras.Model:
    """Dense layers, of which the first may be frozen: then no error passes the second."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(cells, name=name) for name, cells in LAYERS.items()]
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])
    if rule is not None:
        tfwm.convert_model(model, rule, seed=1)
    compiled(model)
    model.optimizer.build(model.trainable_variables)
    layers[0].trainable = not frozen
    return model


class Equal(keras.callbacks.Callback):
    """Which layers have B equal to W, to the bit, after every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[set[str]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        paths = tfwm.pathways(self.model)
        self.after.append({p.name for p in paths if np.array_equal(p.kernel, p.feedback_kernel)})


def equal_after_batches(model: keras.Model, mirror: WeightMirror, **options: Any) -> list[set[str]]:
    """Layers whose B is W after each batch of a `fit`."""
    equal = Equal()
    fit(model, mirror, equal, batches=2, **options)
    return equal.after


@pytest.mark.parametrize(
    "options",
    slow_but([{"steps_per_execution": 2}], [{}, {"steps_per_execution": 2}, {"jit_compile": True}]),
    ids=str,
)
def test_what_no_error_passes_is_taught_at_the_end_of_the_epoch(options: dict[str, Any]) -> None:
    model = compiled(dense("weight_mirror"), **options)
    mirror = WeightMirror("impulse")
    assert set(map(frozenset, equal_after_batches(model, mirror))) == {frozenset({"head"})}
    assert same(feedback(model), kernels(model))
    assert mirror.samples_per_step(model) == {"hidden": 0, "head": 6}


def test_on_replicas_it_is_left_out_too(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        model = compiled(dense("weight_mirror"))
    assert equal_after_batches(model, WeightMirror("impulse")) == [{"head"}] * 2
    assert same(feedback(model), kernels(model))


def test_training_is_what_it_is_with_all_pathways() -> None:
    def trained(**options: Any) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
        model = compiled(dense("weight_mirror"))
        history = fit(model, WeightMirror(**options), FeedbackMonitor(), epochs=2)
        return kernels(model) | {f"B {k}": v for k, v in feedback(model).items()}, history

    (weights, logs), (every, all_logs) = trained(), trained(all_pathways=True)
    assert same(weights, every)
    left_out = "weight_angle_before_mirror/hidden"
    assert {k: v for k, v in all_logs.items() if k != left_out} == logs
    assert left_out in all_logs


@pytest.mark.parametrize(
    "options",
    slow_but(
        [{"noise": Impulse(decay=0.5)}],
        [
            {"noise": Impulse(decay=0.5)},
            {"noise": "impulse", "all_pathways": True},
            {"noise": "impulse", "schedule": Schedule(every_batches=2)},
            {"noise": "gaussian"},
        ],
    ),
)
def test_b_that_remembers_or_is_asked_for_is_taught_after_every_batch(
    options: dict[str, Any],
) -> None:
    model, callback = compiled(dense("weight_mirror")), WeightMirror(**options)
    fit(model, callback, batches=2)
    assert not callback._idle


# --- an error that the model alone does not show -----------------------------------------------


class Watched(keras.Sequential):
    """Wants the gradient of its inputs, as gradient penalties do."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.compute_loss(x, y, self(x, training=True))
        *gradients, self.seen = tape.gradient(loss, [*self.trainable_variables, x])
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class Adversaries(keras.Model):
    """A generator whose error passes all of the critic, whose own training does not want it."""

    def __init__(self, in_a_function: bool = False) -> None:
        super().__init__(name="adversaries")
        self.critic = dense(None)
        self.generator = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Dense(1)])
        self.tries = tf.function(self.deceive) if in_a_function else self.deceive

    def call(self, x: Any) -> Any:
        return self.critic(x)

    def deceive(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        """The generator's gradients."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.critic(self.generator(x)))
        gradients: list[tf.Tensor] = tape.gradient(loss, self.generator.trainable_variables)
        return gradients

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.critic(x, training=True))
        learned = self.critic.trainable_variables
        gradients = [*tape.gradient(loss, learned), *self.tries(x, y)]
        learned = [*learned, *self.generator.trainable_variables]
        self.optimizer.apply_gradients(zip(gradients, learned, strict=True))
        return {"loss": loss}


def test_an_error_at_the_inputs_is_carried_by_b_as_it_is_taught() -> None:
    model = Watched(dense(None).layers)
    model.build((None, 8, 8, 1))
    tfwm.convert_model(model, "weight_mirror")
    assert equal_after_batches(compiled(model), WeightMirror("impulse")) == [{"hidden", "head"}] * 2


@pytest.mark.parametrize("in_a_function", slow_but([True], [False, True]))
def test_an_error_of_another_network_passes_the_first_layer(in_a_function: bool) -> None:
    model = Adversaries(in_a_function)
    model.build((None, 8, 8, 1))
    tfwm.convert_model(model.critic, "weight_mirror")
    compiled(model)
    for _ in range(2):  # in the second, a function of the model's own has its trace already
        after = equal_after_batches(model, WeightMirror("impulse"))
        assert [len(names) for names in after] == [2, 2]


def test_what_is_computed_again_on_the_way_back_is_taught() -> None:
    with keras.RematScope(mode="list_of_layers", layer_names=list(LAYERS)):
        model = in_three_layers()
    for taught in equal_after_batches(model, WeightMirror("impulse")):
        assert taught >= {"middle", "head"}


# --- an error that comes later ------------------------------------------------------------------


@pytest.mark.parametrize("steps_per_execution", slow_but([2], [1, 2]))
def test_above_frozen_layers_nothing_is_fired(steps_per_execution: int) -> None:
    model = in_three_layers(frozen=True)
    model.steps_per_execution = steps_per_execution
    taught = equal_after_batches(model, WeightMirror("impulse"))
    # The frozen W stands still, and B with it.
    assert set(map(frozenset, taught)) == {frozenset({"hidden", "head"})}


class Unfreezes(keras.callbacks.Callback):
    """Lets the first layer learn from the second epoch on."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.get_layer("hidden").trainable = True
            self.model.make_train_function(force=True)


def test_layer_unfrozen_in_mid_training_meets_a_b_that_is_w() -> None:
    def trained(rule: str | None, *callbacks: Any) -> list[np.ndarray]:
        model = in_three_layers(rule, frozen=True)
        fit(model, *callbacks, Unfreezes(), epochs=3)
        return [model.get_layer(name).kernel.numpy() for name in LAYERS]

    plain, mirrored = trained(None), trained("weight_mirror", WeightMirror("impulse"))
    for one, other in zip(plain, mirrored, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_that_comes_to_pass_unannounced_is_refused() -> None:
    model = in_three_layers(frozen=True)
    x, y = tf.ones((8, 8, 8, 1)), tf.zeros(8, tf.int32)
    mirror = WeightMirror("impulse")
    mirror.set_model(model)
    mirror.on_train_begin()
    step = tf.function(lambda x, y: model.train_step((x, y)))
    step(x, y)
    model.get_layer("hidden").trainable = True
    with pytest.raises(ValueError, match=r"(?s)come to pass layer 'middle'.*make_train_function"):
        step(x[:5], y[:5])  # of another shape, so that the step is traced again
    mirror.on_train_end()
