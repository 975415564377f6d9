"""How a layer knows that errors will be sent back: with and without Keras' `training`."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import vectors


class WithoutTraining(keras.Model):
    """Its `call` takes no `training`, so Keras passes None to its layers, in `fit`, too."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.head = keras.layers.Dense(4), keras.layers.Dense(3)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.head(self.low(x))


def converted(rule: str) -> keras.Model:
    model = WithoutTraining()
    model(vectors()[0])
    model.compile("sgd", "mse")
    return tfwm.convert_model(model, rule)


def draws(model: keras.Model) -> list[int]:
    """How often the magnitudes of each pathway were drawn anew."""
    return [int(pathway.state.numpy()[1]) for pathway in tfwm.pathways(model)]


def own_loop(model: keras.Model, x: Any, y: Any) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    model.optimizer.apply_gradients(
        zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
    )


WAYS: dict[str, Callable[..., Any]] = {
    "fit": lambda model, x, y: model.fit(x, y, batch_size=len(y), verbose=0),
    "own loop": own_loop,
    "own loop, traced": lambda model, x, y: tf.function(own_loop)(model, x, y),
}


@pytest.mark.parametrize("way", WAYS)
def test_magnitudes_are_redrawn_where_nobody_says_training(way: str) -> None:
    model, (x, y) = converted("brsf"), vectors()
    WAYS[way](model, x, y)
    assert draws(model) == [1, 1]
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x)
    assert draws(model) == [1, 1]
    WAYS[way](model, x, y)
    assert draws(model) == [2, 2]


@pytest.mark.parametrize("way", WAYS)
def test_a_mirror_that_nobody_holds_is_missed_where_nobody_says_training(way: str) -> None:
    model, (x, y) = converted("wm"), vectors()
    model.evaluate(x, y, verbose=0)
    with pytest.warns(UserWarning, match="nothing teaches"):
        WAYS[way](model, x, y)


@pytest.mark.parametrize("rule", ["wm", "kp"])
def test_a_look_is_no_training_to_warn_of(rule: str) -> None:
    model, (x, y) = converted(rule), vectors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tfwm.convert_model(tfwm.strip_feedback(model), rule)
        tfwm.weight_angles(model)
        tfwm.delta_angles(model, x, y)
    with pytest.warns(UserWarning, match="nothing teaches" if rule == "wm" else "decay"):
        model.fit(x, y, verbose=0)


def test_training_false_is_no_training_under_a_tape() -> None:
    layer = tfwm.layers.FeedbackDense(3, rule="brsf")
    with tf.GradientTape():
        layer(vectors()[0], training=False)
    assert layer.feedback_state.numpy()[1] == 0


@pytest.mark.parametrize("rule", ["fa", "kp"])
def test_rematerialized_layers_train_as_others(rule: str) -> None:
    """Keras' rematerialization takes no keyword such as `training` in a compiled step."""

    def trained(scope: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        with scope:
            model = keras.Sequential(
                [
                    keras.Input((6, 2)),
                    keras.layers.Conv1D(3, 3, activation="tanh", name="conv"),
                    keras.layers.Conv1D(3, 3, activation="tanh", name="upper"),
                    keras.layers.Flatten(),
                    keras.layers.Dense(3),
                ]
            )
            tfwm.convert_model(model, rule)
            model.compile(keras.optimizers.SGD(0.1), "mse")
            x = np.random.default_rng(0).normal(size=(8, 6, 2))
            model.fit(x, vectors()[1], verbose=0)
        return [weight.numpy() for weight in model.weights]

    some = keras.RematScope(mode="list_of_layers", layer_names=["conv", "upper"])
    for weight, expected in zip(trained(some), trained(keras.RematScope(mode=None)), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["kp", "wm"])
def test_an_unbuilt_model_is_built_by_fit_with_all_its_rules(rule: str) -> None:
    """Keras tries its shapes out in the first step: an error there would be passed over."""

    class Late(WithoutTraining):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            if not hasattr(self, "top"):
                self.top = keras.layers.Dense(3)  # exists from the first call on
            return self.top(super().call(x))

    model, (x, y) = tfwm.convert_model(Late(), rule), vectors()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.warns(UserWarning, match="nothing teaches" if rule == "wm" else "decay"):
        model.fit(x, y, verbose=0)
    assert [type(layer).__name__ for layer in model.layers] == ["FeedbackDense"] * 3
    model.get_config()  # refused while layers wait for their build
