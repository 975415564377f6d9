"""The warning that Kolen-Pollack trains without the weight decay that it learns by."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.gaps import COUPLED_SGD

SGD = keras.optimizers.SGD
X, Y = np.ones((4, 4), "float32"), np.ones((4, 3), "float32")


def network(optimizer: Any = None, **options: Any) -> keras.Model:
    """Two Kolen-Pollack layers, compiled if there is an optimizer."""
    dense, options = tfwm.layers.FeedbackDense, {"rule": "kolen_pollack", **options}
    layers = [dense(5, name="low", **options), dense(3, name="head", **options)]
    model = keras.Sequential([keras.Input((4,)), *layers], name="network")
    if optimizer is not None:
        model.compile(optimizer, "mse", run_eagerly=True)
    return model


def said(action: Callable[[], Any]) -> list[str]:
    """The warnings of `action` about decay."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(one.message) for one in caught if "'kolen_pollack'" in str(one.message)]


def fit(model: keras.Model, *callbacks: Any, epochs: int = 2) -> None:
    """A short training."""
    model.fit(X, Y, epochs=epochs, verbose=0, callbacks=list(callbacks))


def excluding(optimizer: Any, name: str) -> Any:
    """`optimizer` without decay for weights of that name."""
    optimizer.exclude_from_weight_decay(var_names=[name])
    return optimizer


@pytest.mark.parametrize("compiled_step", [False, True])
def test_a_training_without_decay_warns_once(compiled_step: bool) -> None:
    model = network(SGD(0.1))
    model.run_eagerly = not compiled_step
    assert not said(lambda: (model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)))
    assert not said(lambda: model(X, training=True))  # nobody asks for gradients
    (words,) = said(lambda: fit(model))
    for part in ("'network' trains", "decays the weights of layer 'low'", "weight_decay"):
        assert part in words
    assert not said(lambda: fit(model))


@pytest.mark.parametrize("compiled_step", [False, True])
def test_the_warning_points_at_the_code_that_trains(compiled_step: bool) -> None:
    model = network(SGD(0.1))
    model.run_eagerly = not compiled_step
    with pytest.warns(UserWarning, match="decays the weights of layer 'low'") as caught:
        fit(model)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("make", "warns"),
    [
        pytest.param(lambda: SGD(0.1, weight_decay=0.1), False, marks=pytest.mark.slow),
        (lambda: keras.optimizers.LossScaleOptimizer(SGD(0.1, weight_decay=0.1)), False),
        (lambda: COUPLED_SGD(0.1, coupled_weight_decay=0.1), False),
        pytest.param(lambda: SGD(0.1, weight_decay=0.0), True, marks=pytest.mark.slow),
        (lambda: excluding(SGD(0.1, weight_decay=0.1), "head"), True),
        (lambda: excluding(SGD(0.1, weight_decay=0.1), "bias"), False),
    ],
)
def test_it_is_the_decay_of_the_weights_that_counts(make: Any, warns: bool) -> None:
    assert len(said(lambda: fit(network(make())))) == warns
    # In mixed precision a layer's call sees its weights in 16 bits.
    assert len(said(lambda: fit(network(make(), dtype="mixed_bfloat16")))) == warns


@pytest.mark.parametrize("rule", ["kolen_pollack", "product_feedback_alignment"])
def test_b_left_out_of_decay_is_as_good_as_none(rule: str) -> None:
    with pytest.warns(UserWarning, match=f"'{rule}', but its optimizer decays W of layer 'low' by"):
        fit(network(excluding(SGD(0.1, weight_decay=0.125), "feedback"), rule=rule))
    with pytest.warns(UserWarning, match=r"'low' by 0 and B by 0.125: the gap between them"):
        fit(network(excluding(SGD(0.1, weight_decay=0.125), "/kernel"), rule=rule))


def test_frozen_layers_and_other_rules_need_no_decay() -> None:
    model = network(SGD(0.1))
    model.get_layer("low").trainable = model.get_layer("head").trainable = False
    model.add(keras.layers.Dense(3))
    assert not said(lambda: fit(model))
    assert not said(lambda: fit(network(SGD(0.1), rule="updated_random_feedback")))


def test_an_optimizer_that_comes_later_is_asked_anew() -> None:
    model = network(SGD(0.1, weight_decay=0.1))
    assert not said(lambda: fit(model))
    model.compile(SGD(0.1), "mse", run_eagerly=True)
    assert len(said(lambda: fit(model))) == 1


def loop(part: keras.Model, optimizer: Any, steps: int = 2) -> None:
    """A training loop of the user's own."""
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((part(X, training=True) - Y) ** 2)
        variables = part.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))


def test_in_a_loop_of_ones_own_the_optimizer_must_be_known() -> None:
    assert len(said(lambda: loop(network(), SGD(0.1)))) == 1
    (words,) = said(lambda: loop(network(), SGD(0.1, weight_decay=0.1)))
    assert "built with the model's variables before the first step" in words
    model, optimizer = network(), SGD(0.1, weight_decay=0.1)
    optimizer.build(model.trainable_variables)
    assert not said(lambda: loop(model, optimizer))
    model = network()
    model.optimizer = SGD(0.1, weight_decay=0.1)
    assert not said(lambda: loop(model, model.optimizer))


def test_a_part_is_trained_by_the_model_around_it() -> None:
    class Around(keras.Model):
        def __init__(self, optimizer: Any) -> None:
            super().__init__()
            self.part, self.its_optimizer = network(), optimizer

        def call(self, x: Any) -> Any:
            return self.part(x)

        def train_step(self, data: Any) -> dict[str, Any]:
            loop(self.part, self.its_optimizer, steps=1)
            return {"loss": tf.constant(0.0)}

    for optimizer, warns in ((SGD(0.1, weight_decay=0.1), False), (SGD(0.1), True)):
        model = Around(optimizer)
        model.compile(run_eagerly=True)
        assert len(said(lambda model=model: fit(model))) == warns


def test_with_the_callback_there_is_nothing_to_warn_of(
    two_replicas: tf.distribute.Strategy,
) -> None:
    model = network(SGD(0.1, weight_decay=0.1))
    assert not said(lambda: fit(model, tfwm.callbacks.KolenPollack()))
    with two_replicas.scope():
        model = network()
        model.compile(SGD(0.1), "mse")
    assert len(said(lambda: fit(model))) == 1
