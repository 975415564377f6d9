"""BatchNorm by running statistics, against NumPy and against Keras' own."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.slow import slow_but
from tfweightmirror.layers import RunningBatchNormalization

random = np.random.default_rng(3)
BATCHES = random.normal(1.0, 2.0, size=(4, 6, 3)).astype("float32")
ERRORS = random.normal(size=(4, 6, 3)).astype("float32")
EPSILON = 1e-3


def reference(include_current: bool, momentum: float) -> Any:
    """Outputs, input errors and final statistics, batch after batch, in double precision."""
    mean, variance = np.zeros(3), np.ones(3)
    outputs, errors = [], []
    for x, dy in zip(BATCHES.astype("float64"), ERRORS.astype("float64"), strict=True):
        size, now = len(x), 1 - momentum
        updated = momentum * mean + now * x.mean(0), momentum * variance + now * x.var(0)
        m, v = updated if include_current else (mean, variance)
        scale = 1 / np.sqrt(v + EPSILON)
        outputs.append((x - m) * scale)
        dx = dy * scale
        if include_current:
            dm = -(dy * scale).sum(0)
            dv = -(dy * (x - m)).sum(0) * scale**3 / 2
            dx = dx + now * dm / size + now * dv * 2 * (x - x.mean(0)) / size
        errors.append(dx)
        mean, variance = updated
    return np.array(outputs), np.array(errors), mean, variance


def run(layer: Any, jit_compile: bool = False) -> Any:
    layer.build((None, 3))

    @tf.function(jit_compile=jit_compile)
    def both(x: tf.Tensor, dy: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, output_gradients=dy)

    pairs = zip(BATCHES, ERRORS, strict=True)
    outputs, errors = zip(*[both(tf.constant(x), tf.constant(dy)) for x, dy in pairs], strict=True)
    return np.array(outputs), np.array(errors), layer.moving_mean, layer.moving_variance


@pytest.mark.parametrize("jit_compile", slow_but([False], [False, True]))
@pytest.mark.parametrize("momentum", slow_but([0.7], [0.0, 0.7]))
@pytest.mark.parametrize("include_current", [True, False])
def test_outputs_errors_and_statistics(
    include_current: bool, momentum: float, jit_compile: bool
) -> None:
    layer = RunningBatchNormalization(include_current=include_current, momentum=momentum)
    for found, expected in zip(
        run(layer, jit_compile), reference(include_current, momentum), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_momentum_0_with_the_current_batch_is_plain_batch_norm() -> None:
    ours = run(RunningBatchNormalization(momentum=0.0))
    of_keras = run(keras.layers.BatchNormalization(momentum=0.0))
    for found, expected in zip(ours, of_keras, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_evaluation_is_that_of_keras_and_moves_nothing() -> None:
    ours, of_keras = RunningBatchNormalization(), keras.layers.BatchNormalization()
    run(ours)
    of_keras.build((None, 3))
    of_keras.set_weights([w.numpy() for w in ours.weights])
    for training in (False, None):
        np.testing.assert_array_equal(ours(BATCHES[0], training=training), of_keras(BATCHES[0]))
    ours.trainable = False
    np.testing.assert_array_equal(ours(BATCHES[0], training=True), of_keras(BATCHES[0]))
    for one, other in zip(ours.weights, of_keras.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_channels_may_stand_first_and_in_half_precision() -> None:
    images = random.normal(size=(5, 3, 4, 4)).astype("float32")
    first, last = (RunningBatchNormalization(axis=axis) for axis in (1, -1))
    expected = np.moveaxis(last(np.moveaxis(images, 1, -1), training=True), -1, 1)
    np.testing.assert_allclose(first(images, training=True), expected, atol=1e-6)
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = RunningBatchNormalization(axis=1)
    outputs = half(images, training=True)
    assert outputs.dtype == tf.bfloat16
    assert half.moving_mean.dtype == "float32"
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.05)


def test_it_is_saved_and_kept_by_conversion(tmp_path: Any) -> None:
    norm = RunningBatchNormalization(
        include_current=False, momentum=0.3, scale=False, center=False, name="norm"
    )
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), norm])
    tfwm.convert_model(model, "fa")
    model(BATCHES[0], training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").get_config() == norm.get_config()
    for training in (False, True):
        np.testing.assert_array_equal(
            loaded(BATCHES[1], training=training), model(BATCHES[1], training=training)
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"momentum": 1.0}, "momentum of RunningBatchNormalization is 1.0. Expected 0 or more and"),
        ({"renorm": True}, "RunningBatchNormalization received renorm=True, which it does not"),
        ({"synchronized": True}, "received synchronized=True, which it does not have."),
    ],
)
def test_mistake_is_told_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RunningBatchNormalization(**options)
