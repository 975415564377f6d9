"""Derivatives of gradients: gradient penalties, Hessians, equations of physics.

The carrier counts as W there, so with `B := W` they are those of the plain Keras layer.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import (
    KINDS,
    ONE_OF_EACH,
    Kind,
    carry_with_kernel,
    error_at,
    forward_weights,
    kinds_and_rules,
    relative_error,
    twins,
)
from tfweightmirror._internals.attendance import mirror_attends

Weights = list[keras.Variable]


def penalty(layer: Any, inputs: list[tf.Tensor]) -> tf.Tensor:
    """Of the errors at the inputs, as critics have it; the layer's outputs are not linear."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = tf.tanh(layer(*inputs, training=True))
        loss = tf.reduce_sum(y * error_at(y))
    return tf.add_n([tf.reduce_sum(tf.tanh(dx) ** 2) for dx in tape.gradient(loss, inputs)])


def taken_later(layer: Any, inputs: list[tf.Tensor], weights: Weights) -> list[Any]:
    """By a tape that the traced function knew nothing of."""
    traced = tf.function(lambda: penalty(layer, inputs))
    traced()
    with tf.GradientTape() as tape:
        value = traced()
    return tape.gradient(value, [weight.value for weight in weights])


def taken_at_once(layer: Any, inputs: list[tf.Tensor], weights: Weights) -> list[Any]:
    with tf.GradientTape() as tape:
        value = penalty(layer, inputs)
    return tape.gradient(value, [weight.value for weight in weights])


def traced(layer: Any, inputs: list[tf.Tensor], weights: Weights) -> list[Any]:
    return tf.function(lambda: taken_at_once(layer, inputs, weights))()


def compiled(layer: Any, inputs: list[tf.Tensor], weights: Weights) -> list[Any]:
    return tf.function(lambda: taken_at_once(layer, inputs, weights), jit_compile=True)()


def by_forward_mode(layer: Any, inputs: list[tf.Tensor], weights: Weights) -> list[Any]:
    """Products with the Hessian: an accumulator of tangents around a tape, in one function."""
    values = [weight.value for weight in weights]

    @tf.function
    def product() -> list[Any]:
        tangents = [tf.reshape(tf.range(tf.size(v), dtype=v.dtype) / 10, v.shape) for v in values]
        with tf.autodiff.ForwardAccumulator(values, tangents) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = tf.tanh(layer(*inputs, training=True))
                loss = tf.reduce_sum(y * error_at(y))
            gradients = tape.gradient(loss, [*values, *inputs])
        return [accumulator.jvp(gradient) for gradient in gradients]

    return product()


def assert_as_plain(kind: Kind, rule: str, how: Callable[..., list[Any]], **options: Any) -> None:
    plain, twin = twins(kind, rule, **options)
    carry_with_kernel(twin)
    for weight, other in zip(forward_weights(plain), forward_weights(twin), strict=True):
        weight.assign(other)
    inputs = kind.inputs()
    with mirror_attends():
        expected = how(plain, inputs, forward_weights(plain))
        found = how(twin, inputs, forward_weights(twin))
    assert any(gradient is not None and np.any(gradient) for gradient in expected)
    for gradient, expected_gradient in zip(found, expected, strict=True):
        if expected_gradient is None:  # a bias that no error depends on
            assert gradient is None or not np.any(gradient)
        else:
            assert relative_error(gradient, expected_gradient) < 1e-5


@kinds_and_rules(["kp"], kinds=KINDS)
def test_with_b_equal_to_w_a_gradient_penalty_is_backprops(kind: Kind, rule: str) -> None:
    assert_as_plain(kind, rule, taken_at_once)


@kinds_and_rules(["bp", "fa", "usf", "frsf", "brsf", "wm", "urfb"], kinds=ONE_OF_EACH[:2])
def test_with_w_as_the_carrier_a_gradient_penalty_is_backprops(kind: Kind, rule: str) -> None:
    assert_as_plain(kind, rule, taken_at_once)


@kinds_and_rules(
    ["fa"],
    kinds=ONE_OF_EACH,
    slow=lambda kind, rule: kind.name not in ("dense_rank2", "conv2d", "depthwise2d"),
)
def test_with_b_equal_to_w_forward_mode_is_backprops(kind: Kind, rule: str) -> None:
    # In loops of a graph TensorFlow has no forward mode, for plain layers either.
    assert_as_plain(kind, rule, by_forward_mode, **{"unroll": True} if kind.is_recurrent else {})


@pytest.mark.slow
@pytest.mark.parametrize("how", [traced, compiled])
@kinds_and_rules(["kp"], kinds=[kind for kind in KINDS if kind.is_recurrent])
def test_derivatives_of_errors_that_went_back_in_a_loop_are_backprops(
    kind: Kind, rule: str, how: Callable[..., list[Any]]
) -> None:
    assert_as_plain(kind, rule, how)


@pytest.mark.parametrize("how", [taken_later, traced, compiled])
def test_whoever_takes_the_derivative_and_whenever(how: Callable[..., list[Any]]) -> None:
    assert_as_plain(ONE_OF_EACH[0], "kp", how)


def test_what_a_penalty_owes_to_the_carrier_goes_to_w_and_by_the_rule_to_b() -> None:
    """`dx = dy B^T` and the penalty `|dx|^2 / 2`: its derivative in the carrier is `dx^T dy`."""
    random = np.random.default_rng(0)
    x, dy, w, b = (
        tf.constant(random.normal(size=shape), "float32")
        for shape in ((4, 5), (4, 3), (5, 3), (5, 3))
    )
    for name, share in (("kp", 1.0), ("urfb", 1.0), ("fa", None)):
        f = tfwm.asymmetric(tf.matmul, tfwm.rules.get(name))
        with tf.GradientTape() as outer:
            outer.watch([w, b])
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = f(x, w, b)
            loss = tf.reduce_sum(inner.gradient(y, x, dy) ** 2) / 2
        to_w, to_b = outer.gradient(loss, [w, b])
        dx = dy.numpy() @ b.numpy().T
        assert relative_error(to_w, dx.T @ dy.numpy()) < 1e-6
        if share is None:
            assert to_b is None
        else:
            np.testing.assert_array_equal(to_b, to_w)


def test_an_equation_of_physics_with_b_equal_to_w_is_backprops() -> None:
    """The residual of u'' = u: a third derivative where its gradient in the weights is taken."""

    def gradients(rule: str | None) -> list[tf.Tensor]:
        keras.utils.set_random_seed(3)
        dense = keras.layers.Dense
        model = keras.Sequential([keras.Input((1,)), dense(5, "tanh"), dense(5, "tanh"), dense(1)])
        if rule:
            tfwm.convert_model(model, rule)
            for pathway in tfwm.pathways(model):
                pathway.feedback_kernel.assign(pathway.kernel)
        x = tf.constant(np.linspace(-1, 1, 7)[:, None], "float32")
        with tf.GradientTape() as tape:
            with tf.GradientTape() as second:
                second.watch(x)
                with tf.GradientTape() as first:
                    first.watch(x)
                    u = model(x, training=True)
                slope = first.gradient(u, x)
            loss = tf.reduce_mean((second.gradient(slope, x) - u) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    for gradient, expected in zip(gradients("fa"), gradients(None), strict=True):
        assert relative_error(gradient, expected) < 1e-5
