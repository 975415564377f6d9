"""The multi-class hinge, against NumPy written from Amit 2018, eq. 3 and 4."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.training import MultiClassHinge

random = np.random.default_rng(2)
OUTPUTS = random.normal(scale=2, size=(7, 5))
LABELS = random.integers(0, 5, 7)
MU = 0.3


def hinge(outputs: np.ndarray, labels: np.ndarray, mu: float) -> np.ndarray:
    """Eq. 3, an example after the other."""
    losses = []
    for h, y in zip(outputs, labels, strict=True):
        others = sum(max(1 + h[c], 0.0) for c in range(len(h)) if c != y)
        losses.append(max(1 - h[y], 0.0) + mu * others)
    return np.array(losses)


def errors(outputs: np.ndarray, labels: np.ndarray, mu: float) -> np.ndarray:
    """Minus what W_c changes by per x: o_c while sign(o_c) h_c <= 1, o_y = 1, else o_c = -mu."""
    o = np.full(outputs.shape, -mu)
    o[np.arange(len(labels)), labels] = 1.0
    return -np.where(np.sign(o) * outputs <= 1, o, 0.0)


def loss_and_gradient(loss: Any, outputs: Any, labels: Any = LABELS, **options: Any) -> Any:
    @tf.function(**options)
    def both(h: tf.Tensor, y: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(h)
            value = loss(y, h)
        return value, tape.gradient(value, h)

    return [x.numpy() for x in both(tf.constant(outputs, tf.float32), tf.constant(labels))]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loss_and_gradient_are_those_of_the_corrected_equations(jit_compile: bool) -> None:
    loss = MultiClassHinge(MU)
    value, gradient = loss_and_gradient(loss, OUTPUTS, jit_compile=jit_compile)
    assert value == pytest.approx(hinge(OUTPUTS, LABELS, MU).mean(), rel=1e-6)
    expected = errors(OUTPUTS, LABELS, MU) / len(LABELS)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    # The slip of eq. 5, `h_c >= 1`, would be another gradient here.
    assert ((OUTPUTS > -1) & (OUTPUTS < 1)).any()


def test_gradient_is_the_slope_of_the_loss() -> None:
    gradient = loss_and_gradient(MultiClassHinge(MU, reduction="sum"), OUTPUTS)[1]
    step = 1e-4
    for place in np.ndindex(OUTPUTS.shape):
        shift = np.zeros_like(OUTPUTS)
        shift[place] = step
        rise = hinge(OUTPUTS + shift, LABELS, MU).sum() - hinge(OUTPUTS - shift, LABELS, MU).sum()
        assert gradient[place] == pytest.approx(rise / (2 * step), abs=1e-5)


def test_at_the_bound_the_error_is_still_sent() -> None:
    """Eq. 4: while sign(o_c) h_c <= 1."""
    outputs, labels = np.array([[1.0, -1.0, -1.0]]), np.array([0])
    value, gradient = loss_and_gradient(MultiClassHinge(MU), outputs, labels)
    assert value == 0
    np.testing.assert_allclose(gradient, [[-1, MU, MU]])


def test_without_mu_the_others_weigh_as_much_as_the_class_shown() -> None:
    value = loss_and_gradient(MultiClassHinge(), OUTPUTS)[0]
    assert value == pytest.approx(hinge(OUTPUTS, LABELS, 1 / 4).mean(), rel=1e-6)


def test_outputs_may_have_more_axes() -> None:
    outputs = np.stack([OUTPUTS, OUTPUTS + 0.3])
    labels = np.stack([LABELS, LABELS[::-1]])[..., None]
    losses = MultiClassHinge(MU, reduction="none")(labels, outputs.astype("float32"))
    expected = [hinge(o, y[:, 0], MU) for o, y in zip(outputs, labels, strict=True)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_what_is_not_a_number_or_not_a_class_is_not_hidden() -> None:
    outputs = np.array([[np.nan, 1, 1], [1, np.nan, 1], [3, -2, -2]], "float32")
    losses = MultiClassHinge(MU, reduction="none")(np.array([0, 2, 0]), outputs).numpy()
    np.testing.assert_array_equal(np.isnan(losses), [True, True, False])
    losses = MultiClassHinge(MU, reduction="none")(np.array([3, -1, 0]), outputs[[2, 2, 2]])
    np.testing.assert_array_equal(np.isnan(losses), [True, True, False])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_outputs_give_losses_in_float32(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    outputs = tf.cast(OUTPUTS, policy.removeprefix("mixed_"))
    loss = MultiClassHinge(MU)(LABELS, outputs)
    assert loss.dtype == tf.float32
    expected = hinge(outputs.numpy().astype("float64"), LABELS, MU).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_it_trains_on_two_replicas_as_on_one_device_and_is_saved(
    two_replicas: Any, tmp_path: Any
) -> None:
    def trained(scope: Any) -> keras.Model:
        keras.utils.set_random_seed(1)
        with scope:
            model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
            tfwm.convert_model(model, "fa")
            model.compile("sgd", MultiClassHinge(MU), jit_compile=False)
        inputs = np.tile(OUTPUTS, (4, 1)).astype("float32")
        model.fit(inputs, np.tile(LABELS, 4), batch_size=14, shuffle=False, verbose=0)
        return model

    model, mirrored = trained(tf.distribute.get_strategy().scope()), trained(two_replicas.scope())
    np.testing.assert_allclose(mirrored.get_weights()[0], model.get_weights()[0], atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, MultiClassHinge)
    assert loaded.loss.mu == MU


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: MultiClassHinge(-1), "mu of MultiClassHinge is -1. Expected a number >= 0"),
        (lambda: MultiClassHinge(float("nan")), "mu of MultiClassHinge is nan."),
        (
            lambda: MultiClassHinge()(np.eye(3), np.eye(3)),
            r"targets of shape \(3, 3\) for outputs of shape \(3, 3\). Expected one whole number",
        ),
        (
            lambda: MultiClassHinge()(np.zeros(3), np.zeros((3, 1))),
            r"outputs of shape \(3, 1\). Expected a last axis of two or more classes.",
        ),
    ],
)
def test_mistake_is_told_in_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
