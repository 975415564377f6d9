"""The one custom gradient: any linear map, every way to run it, B alone on the way back."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror import asymmetric, rules


def tensor(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


# name -> (op, shape of x, shape of the kernel): linear in each argument, of several ranks.
MAPS = {
    "matmul": (tf.matmul, (4, 3), (3, 5)),
    "outer": (lambda x, k: x[:, None] * k[None, :], (4,), (5,)),
    "rank_5": (lambda x, k: tf.einsum("abcde,ef->abcdf", x, k), (2, 3, 2, 2, 4), (4, 3)),
    "conv": (lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"), (2, 6, 6, 3), (3, 3, 3, 4)),
    "no_dense_form": (lambda x, k: tf.cumsum(x, 0) * k, (4, 3), (3,)),
}
RUNS = {
    "eager": lambda f: f,
    "graph": lambda f: tf.function(f, autograph=False),
    "jit": lambda f: tf.function(f, autograph=False, jit_compile=True),
}
CARRIED_BY_B = ("fa", "wm", "kp", "urfb")


def gradients(op, rule, x, kernel, feedback, dy, *, seed=None, run="eager", jit_compile=False):
    """(y, dx, dW, dB)."""
    f = asymmetric(op, rules.get(rule), jit_compile=jit_compile)

    def step(x, kernel, feedback, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel, feedback])
            y = f(x, kernel, feedback, seed)
        return y, *tape.gradient(y, [x, kernel, feedback], dy)

    return RUNS[run](step)(x, kernel, feedback, dy)


def reference(op, x, kernel, carrier, dy):
    """(y, dx at the carrier, dW) by autodiff of the plain map."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel, carrier])
        y, back = op(x, kernel), op(x, carrier)
    return y, tape.gradient(back, x, dy), tape.gradient(y, kernel, dy)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", MAPS)
def test_error_travels_on_b_and_weights_learn_as_in_backprop(name, run):
    op, x_shape, k_shape = MAPS[name]
    x, kernel, feedback = tensor(0, *x_shape), tensor(1, *k_shape), tensor(2, *k_shape)
    dy = tensor(3, *op(x, kernel).shape)
    y, dx, dw, db = gradients(op, "kp", x, kernel, feedback, dy, run=run)
    for ours, theirs in zip((y, dx, dw), reference(op, x, kernel, feedback, dy), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(db, dw)


def test_error_through_matmul_is_dy_times_b_transposed():
    x, kernel, feedback, dy = tensor(0, 4, 3), tensor(1, 3, 5), tensor(2, 3, 5), tensor(3, 4, 5)
    _, dx, dw, _ = gradients(tf.matmul, "fa", x, kernel, feedback, dy)
    np.testing.assert_allclose(dx, dy.numpy() @ feedback.numpy().T, rtol=1e-5)
    np.testing.assert_allclose(dw, x.numpy().T @ dy.numpy(), rtol=1e-5)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("rule", CARRIED_BY_B)
def test_the_carrier_is_b_and_never_w(rule, run):
    """Proof (a): perturb B, the error below changes; perturb W on the way back only, it does not."""
    x, kernel, feedback = tensor(0, 4, 3), tensor(1, 3, 5), tensor(2, 3, 5)
    dy = tensor(3, 4, 5)
    _, dx, *_ = gradients(tf.matmul, rule, x, kernel, feedback, dy, run=run)
    _, moved, *_ = gradients(tf.matmul, rule, x, kernel, feedback + 0.1, dy, run=run)
    assert not np.allclose(dx, moved, atol=1e-3)
    # `dy` is given, so another W enters on the way back alone.
    _, same, *_ = gradients(tf.matmul, rule, x, kernel + 0.1, feedback, dy, run=run)
    np.testing.assert_array_equal(dx, same)


def test_backprop_has_no_feedback_tensor():
    x, kernel, dy = tensor(0, 4, 3), tensor(1, 3, 5), tensor(3, 4, 5)
    f = asymmetric(tf.matmul, rules.get("bp"))
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = f(x, kernel)
    ours = (y, *tape.gradient(y, [x, kernel], dy))
    for a, b in zip(ours, reference(tf.matmul, x, kernel, kernel, dy), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("rule", "factor"), [("fa", None), ("wm", None), ("kp", 1), ("urfb", 1)])
def test_gradient_of_b_is_the_rules(rule, factor):
    x, kernel, feedback, dy = tensor(0, 4, 3), tensor(1, 3, 5), tensor(2, 3, 5), tensor(3, 4, 5)
    *_, dw, db = gradients(tf.matmul, rule, x, kernel, feedback, dy)
    if factor is None:
        assert db is None
    else:
        np.testing.assert_array_equal(db, factor * dw)


def test_epsilon_scales_the_gradient_of_b():
    x, kernel, feedback, dy = tensor(0, 4, 3), tensor(1, 3, 5), tensor(2, 3, 5), tensor(3, 4, 5)
    rule = rules.UpdatedRandomFeedback(epsilon=0.25)
    *_, dw, db = gradients(tf.matmul, rule, x, kernel, feedback, dy)
    np.testing.assert_array_equal(db, 0.25 * dw)


def test_compiled_products_are_the_same():
    op, x_shape, k_shape = MAPS["conv"]
    x, kernel, feedback = tensor(0, *x_shape), tensor(1, *k_shape), tensor(2, *k_shape)
    dy = tensor(3, *op(x, kernel).shape)
    plain = gradients(op, "kp", x, kernel, feedback, dy)
    compiled = gradients(op, "kp", x, kernel, feedback, dy, jit_compile=True)
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_gradients_of_w_and_b_stay_bit_equal_in_mixed_precision(policy):
    layer = tfwm.layers.FeedbackDense(7, rule="kp", dtype=policy)
    x = tensor(0, 4, 3)
    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    dw, db = tape.gradient(loss, [layer.kernel.value, layer.feedback_kernel.value])
    assert y.dtype == keras.dtype_policies.get(policy).compute_dtype
    assert dw.dtype == db.dtype == tf.float32
    np.testing.assert_array_equal(dw, db)
    assert np.any(dw != 0)


def test_a_rule_of_ones_own_carries_the_error():
    @dataclasses.dataclass(frozen=True)
    class Halved(rules.FeedbackRule):
        def backward_kernel(self, kernel, feedback, seed):
            return feedback / 2

        def feedback_gradient(self, kernel_gradient):
            return -kernel_gradient

    x, kernel, feedback, dy = tensor(0, 4, 3), tensor(1, 3, 5), tensor(2, 3, 5), tensor(3, 4, 5)
    _, dx, dw, db = gradients(tf.matmul, Halved(), x, kernel, feedback, dy)
    np.testing.assert_allclose(dx, dy.numpy() @ feedback.numpy().T / 2, rtol=1e-5)
    np.testing.assert_array_equal(db, -dw)
