"""Keras' hook `convolution_op`: a convolution of a user's own, on the class or on the instance."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import relative_error


def standardized(kernel: tf.Tensor) -> tf.Tensor:
    """Weight standardization: mean 0 and variance 1 of the weights of each output channel."""
    axes = tuple(range(len(kernel.shape) - 1))
    mean, variance = tf.nn.moments(kernel, axes, keepdims=True)
    return (kernel - mean) * tf.math.rsqrt(variance + 1e-5)


def standardizing(base: type[Any]) -> type[Any]:
    class Standardized(base):
        def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
            return super().convolution_op(inputs, standardized(kernel))

    return Standardized


def gradients(layer: Any, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(y))
    return y, *tape.gradient(loss, [x, layer.kernel.value])


@pytest.mark.parametrize("where", ["class", "instance"])
@pytest.mark.parametrize("options", [{}, {"padding": "causal"}, {"groups": 2}], ids=str)
def test_w_and_b_pass_the_users_own_convolution(options: dict[str, Any], where: str) -> None:
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 7, 4)), "float32")
    twin_class = tfwm.layers.FeedbackConv1D
    if where == "class":
        layer = standardizing(twin_class)(4, 3, rule="fa", **options)
    else:
        layer = twin_class(4, 3, rule="fa", **options)
        usual = layer.convolution_op
        layer.convolution_op = lambda inputs, kernel: usual(inputs, standardized(kernel))
    layer(x)
    layer.kernel.assign(layer.kernel * 3.0 + 1.0)
    layer.feedback_kernel.assign(layer.feedback_kernel * 2.0 - 1.0)
    y, dx, dw = gradients(layer, x)

    plain = keras.layers.Conv1D(4, 3, **options)
    plain.build(x.shape)
    plain.kernel.assign(standardized(layer.kernel))
    expected_y, _, to_standardized = gradients(plain, x)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
    # dW: through the standardization, as backprop has it.
    with tf.GradientTape() as tape:
        kernel = tf.convert_to_tensor(layer.kernel)
        tape.watch(kernel)
        through = standardized(kernel)
    assert relative_error(dw, tape.gradient(through, kernel, to_standardized)) < 1e-5
    # dx: the same convolution, at B.
    plain.kernel.assign(standardized(layer.feedback_kernel))
    with tf.GradientTape() as tape:
        tape.watch(x)
        at_b = plain(x)
    assert relative_error(dx, tape.gradient(at_b, x, tf.cos(y))) < 1e-5


def test_an_instance_of_one_rank_whose_hook_keras_ignores_is_refused() -> None:
    """Keras' Conv1D does not call the hook: converted, it would, and outputs would change."""
    model = keras.Sequential([keras.Input((7, 4)), keras.layers.Conv1D(3, 3, name="conv")])
    model.layers[0].convolution_op = lambda inputs, kernel: inputs
    with pytest.raises(ValueError, match="convolution_op"):
        tfwm.convert_model(model, "fa")
