"""Updated random feedback whose error passes B after its update (Amit's released code)."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.rules import UpdatedRandomFeedback
from tfweightmirror.training import GlorotClip, Sparse, constrain

RATE, EPSILON = 0.25, 0.5
x, y = (np.random.default_rng(n).normal(size=(8, 4)).astype("float32") for n in (0, 1))


def network(*layers: Any, rule: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), *layers])
    return tfwm.convert_model(model, rule, seed=3)


def dense(rule: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(n, name=name) for name, n in (("a", 5), ("b", 4))]
    return network(*layers, rule=rule)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {"/".join(v.path.split("/")[-2:]): v.numpy() for v in model.variables}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_error_passes_b_as_the_optimizer_leaves_it(jit_compile: bool) -> None:
    model = dense(UpdatedRandomFeedback(epsilon=EPSILON, ahead=RATE))
    before = weights(model)
    model.compile(keras.optimizers.SGD(RATE), "mean_squared_error", jit_compile=jit_compile)
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    after = weights(model)
    w = {name: before[f"{name}/kernel"] for name in "ab"}
    error = 2 * (x @ w["a"] @ w["b"] - y) / y.size
    np.testing.assert_allclose(
        after["b/feedback_kernel"],
        before["b/feedback_kernel"] - RATE * EPSILON * (x @ w["a"]).T @ error,
        rtol=1e-5,
        atol=1e-7,
    )
    for order, close in (("after", True), ("before", False)):
        carrier = (after if order == "after" else before)["b/feedback_kernel"]
        expected = w["a"] - RATE * x.T @ (error @ carrier.T)
        assert np.allclose(after["a/kernel"], expected, rtol=1e-5, atol=1e-7) == close, order


def test_without_ahead_nothing_changes_by_a_bit() -> None:
    gradients = []
    for rule in ("updated_random_feedback", UpdatedRandomFeedback(ahead=0.0)):
        model = dense(rule)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        gradients.append(tape.gradient(loss, model.trainable_variables))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)


def test_option_is_saved_and_a_delta_angle_is_that_of_b_after_the_update(tmp_path: Any) -> None:
    model, plain = dense(UpdatedRandomFeedback(ahead=RATE)), dense("urfb")
    for one in (model, plain):
        one.compile("sgd", "mean_squared_error")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].rule == UpdatedRandomFeedback(ahead=RATE)
    found, late = tfwm.delta_angles(loaded, x, y), tfwm.delta_angles(plain, x, y)
    assert found["b"] == late["b"] == 0
    assert found["a"] != pytest.approx(late["a"], abs=0.1)


def test_what_cannot_be_updated_first_is_refused_in_one_sentence() -> None:
    ahead = UpdatedRandomFeedback(ahead=0.1)
    for constraint in (Sparse(0.5), GlorotClip()):
        with pytest.raises(ValueError, match=r"binds B after every update.*ahead=0"):
            constrain(dense(ahead), constraint)
        plain = constrain(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), constraint)
        with pytest.raises(ValueError, match=r"binds B after every update.*ahead=0"):
            tfwm.convert_model(plain, ahead)
        assert type(plain.layers[0]) is keras.layers.Dense
    recurrent = [keras.layers.Reshape((2, 2)), keras.layers.SimpleRNN(3), keras.layers.Dense(4)]
    with pytest.raises(ValueError, match=r"passes errors at every step.*ahead=0"):
        network(*recurrent, rule=ahead)
    with pytest.raises(ValueError, match=r"ahead of updated_random_feedback.*>= 0.*-1"):
        UpdatedRandomFeedback(ahead=-1)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = dense(ahead)
        model.compile("sgd", "mean_squared_error")
    with pytest.raises(ValueError, match=r"several replicas.*ahead=0"):
        model.fit(x, y, batch_size=8, verbose=0)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: keras.optimizers.SGD(0.01), r"is SGD with learning_rate=0.0"),
        (lambda: keras.optimizers.SGD(RATE, momentum=0.9), r"momentum=0.9"),
        (lambda: keras.optimizers.SGD(RATE, clipnorm=1.0), r"clipnorm=1.0"),
        (lambda: keras.optimizers.SGD(RATE, weight_decay=0.1), r"weight_decay=0.1"),
        (lambda: keras.optimizers.SGD(RATE, loss_scale_factor=64.0), r"loss_scale_factor=64"),
        (
            lambda: keras.optimizers.SGD(RATE, gradient_accumulation_steps=2),
            r"accumulation_steps=2",
        ),
        (lambda: keras.optimizers.Adam(RATE), r"is Adam with"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE)),
            r"is LossScaleOptimizer with",
        ),
        (
            lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(RATE, 10)),
            r"is SGD with learning_rate=.*Expected keras.optimizers.SGD\(0.25\)",
        ),
    ],
)
def test_another_step_than_the_one_that_was_said_is_refused(optimizer: Any, message: str) -> None:
    model = dense(UpdatedRandomFeedback(ahead=RATE))
    model.compile(optimizer(), "mean_squared_error")
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, batch_size=8, verbose=0)
    assert all(np.array_equal(before[name], value) for name, value in weights(model).items())


def test_a_layer_that_is_called_twice_is_refused() -> None:
    shared, inputs = keras.layers.Dense(4, name="shared"), keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    tfwm.convert_model(model, UpdatedRandomFeedback(ahead=RATE))
    model(x)  # nobody trains
    model.compile(keras.optimizers.SGD(RATE), "mean_squared_error")
    with pytest.raises(ValueError, match=r"called twice in a step.*ahead=0"):
        model.fit(x, y, verbose=0)
