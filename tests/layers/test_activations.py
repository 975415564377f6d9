"""Saturated linearity, rectified tanh and MixedReLU, against NumPy."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.layers import (
    MixedReLU,
    SaturatedLinear,
    rectified_tanh,
    saturated_linear,
)

VALUES = np.array([-3, -1, -0.999, -0.5, 0, 0.25, 1, 1.001, 2], "float32")


def value_and_gradient(function: Any, values: np.ndarray, jit_compile: bool = False) -> Any:
    @tf.function(jit_compile=jit_compile)
    def both(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    return [t.numpy() for t in both(tf.constant(values))]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_saturated_linear_is_amits(slope: float, jit_compile: bool) -> None:
    def activation(x: tf.Tensor) -> tf.Tensor:
        return saturated_linear(x, slope)

    value, gradient = value_and_gradient(activation, VALUES, jit_compile)
    np.testing.assert_array_equal(value, [min(max(slope * x, -1.0), 1.0) for x in VALUES])
    np.testing.assert_array_equal(gradient, [slope * (abs(slope * x) <= 1) for x in VALUES])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_rectified_tanh_is_silent_below_0_and_bounded_above(jit_compile: bool) -> None:
    value, gradient = value_and_gradient(rectified_tanh, VALUES, jit_compile)
    tanh = np.tanh(VALUES)
    np.testing.assert_allclose(value, np.maximum(tanh, 0), rtol=1e-6)
    np.testing.assert_allclose(gradient, (VALUES > 0) * (1 - tanh**2), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_mixed_relu_fires_with_one_sign_a_cell(jit_compile: bool) -> None:
    layer = MixedReLU(seed=3)
    layer.build((None, 40))
    signs = layer.signs.numpy()
    assert set(np.unique(signs)) == {-1, 1}
    assert not layer.trainable_weights
    inputs = np.random.default_rng(1).normal(size=(6, 40)).astype("float32")
    inputs[0] = 0
    value, gradient = value_and_gradient(layer, inputs, jit_compile)
    expected = np.where(signs > 0, np.maximum(inputs, 0), np.minimum(inputs, 0))
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, expected != 0)


def test_signs_belong_to_the_axes_named() -> None:
    def shape(axis: Any) -> tuple[int, ...]:
        layer = MixedReLU(axis)
        layer.build((None, 4, 5, 6))
        return tuple(layer.signs.shape)

    assert shape(-1) == (1, 1, 1, 6)
    assert shape([1, 2, 3]) == (1, 4, 5, 6)


def test_half_of_the_signs_are_positive_and_each_layer_has_its_own() -> None:
    layers = [MixedReLU() for _ in range(2)]
    for layer in layers:
        layer.build((None, 4000))
    signs = [layer.signs.numpy() for layer in layers]
    assert abs(signs[0].mean()) < 4 / 4000**0.5  # four standard errors
    assert 0.4 < (signs[0] == signs[1]).mean() < 0.6


def network() -> keras.Model:
    k = keras.layers
    return keras.Sequential(
        [
            keras.Input((6,)),
            k.Dense(8),
            MixedReLU(),
            k.Dense(5, activation=saturated_linear),
            k.Dense(5, activation=rectified_tanh),
            k.Dense(3, activation=SaturatedLinear(0.5)),
        ]
    )


def test_signs_and_slopes_are_saved_and_kept_by_conversion(tmp_path: Any) -> None:
    inputs = np.random.default_rng(1).normal(scale=2, size=(9, 6)).astype("float32")
    model = network()
    outputs = model(inputs).numpy()
    tfwm.convert_model(model, "fa")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for other in (model, loaded, tfwm.strip_feedback(loaded)):
        np.testing.assert_array_equal(other(inputs), outputs)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(inputs), outputs)


@pytest.mark.slow
def test_signs_are_not_trained_and_alike_on_two_replicas(two_replicas: Any) -> None:
    with two_replicas.scope():
        model = network()
        tfwm.convert_model(model, "urfb")
        model.compile("sgd", "mse", jit_compile=False)
    signs = model.layers[1].signs
    before = signs.numpy().copy()
    model.fit(np.ones((8, 6)), np.ones((8, 3)), verbose=0)
    for copy in signs.value.values:
        np.testing.assert_array_equal(copy.numpy(), before)


@pytest.mark.parametrize("layer", [MixedReLU, SaturatedLinear])
def test_half_precision_stays_half_precision(layer: Any) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    outputs = layer()(tf.constant([[-2.0, 0.5, 3.0]]))
    assert outputs.dtype == tf.bfloat16
    assert np.isin(np.abs(outputs.numpy().astype("float32")), [0, 0.5, 1, 2, 3]).all()


@pytest.mark.slow
def test_mirror_mode_listens_through_saturated_linearity() -> None:
    k = keras.layers
    model = keras.Sequential([keras.Input((6,)), k.Dense(8), SaturatedLinear(), k.Dense(3)])
    tfwm.convert_model(model, "wm")
    head = {model.layers[-1].name: "linear"}
    before = model.layers[0].feedback_kernel.numpy().copy()
    tfwm.mirror_model(model, "gaussian", through_activation=True, activations=head)
    assert (model.layers[0].feedback_kernel.numpy() != before).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: SaturatedLinear(0), "slope of SaturatedLinear is 0. Expected a number above 0"),
        (lambda: MixedReLU(0).build((None, 3)), r"axis of MixedReLU .* is 0 for inputs of shape"),
        (lambda: MixedReLU([]).build((None, 3)), r"is \[\] for inputs of shape \(None, 3\)"),
        (lambda: MixedReLU(1).build((None, None, 3)), "Expected axes of known length, without 0"),
    ],
)
def test_mistake_is_told_in_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
