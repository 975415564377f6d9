"""The custom gradient alone: tensors in, tensors out, for any linear `op` and any rule."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import relative_error
from tfweightmirror import rules
from tfweightmirror.asymmetric_gradient import LinearMap, asymmetric


def along_every_axis(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A map that no layer has: roll, multiply, sum over an axis in the middle."""
    return tf.einsum("abcde,cf->abfed", tf.roll(x, 1, axis=3), kernel)


# Name: the op, the shape of x, the shape of the kernel.
OPS: dict[str, tuple[LinearMap, tuple[int, ...], tuple[int, ...]]] = {
    "multiply_rank0": (tf.multiply, (), ()),
    "dot_rank1": (lambda x, w: tf.tensordot(x, w, 1), (5,), (5,)),
    "matmul_rank2": (tf.matmul, (4, 5), (5, 3)),
    "elementwise_rank3": (lambda x, w: x * w, (2, 3, 4), (3, 4)),
    "conv_rank4": (lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"), (2, 6, 5, 3), (3, 2, 3, 4)),
    "rank5": (along_every_axis, (2, 3, 4, 2, 3), (4, 5)),
}
every_op = pytest.mark.parametrize("name", OPS)
every_mode = pytest.mark.parametrize("mode", ["eager", "graph", "jit"])


def tensors(name: str, dtype: str = "float32") -> list[tf.Tensor]:
    """Random x, W and B."""
    _, x_shape, kernel_shape = OPS[name]
    random = np.random.default_rng(0)
    shapes = (x_shape, kernel_shape, kernel_shape)
    return [tf.constant(random.normal(size=shape), dtype) for shape in shapes]


def products(
    f: Callable[..., tf.Tensor], arguments: list[tf.Tensor], mode: str = "eager"
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """`f` at `arguments`, and its gradients with the error `sin(y)`."""

    def run(*arguments: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = f(*arguments)
        return y, tape.gradient(y, list(arguments), tf.sin(y))

    step = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    return step(*arguments)


@every_mode
@every_op
def test_error_travels_on_b_and_the_kernel_gradient_is_backprops(name: str, mode: str) -> None:
    op, x, kernel, feedback = OPS[name][0], *tensors(name)
    y, (dx, dw, db) = products(asymmetric(op, rules.get("kp")), [x, kernel, feedback], mode)
    expected_y, (_, expected_dw) = products(op, [x, kernel], mode)
    # The same op at B gives dx, but with the error of the op at W.
    with tf.GradientTape() as tape:
        tape.watch(x)
        at_feedback = op(x, feedback)
    expected_dx = tape.gradient(at_feedback, x, tf.sin(expected_y))
    np.testing.assert_array_equal(y, expected_y)
    assert relative_error(dx, expected_dx) < 1e-6
    assert relative_error(dw, expected_dw) < 1e-6
    np.testing.assert_array_equal(db, dw)


def test_error_through_matmul_is_dy_times_b_transposed() -> None:
    x, kernel, feedback = (array.numpy() for array in tensors("matmul_rank2"))
    arguments = [tf.constant(array) for array in (x, kernel, feedback)]
    y, (dx, dw, _) = products(asymmetric(tf.matmul, rules.get("fa")), arguments)
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5)
    np.testing.assert_allclose(dx, np.sin(y) @ feedback.T, rtol=1e-4)
    np.testing.assert_allclose(dw, x.T @ np.sin(y), rtol=1e-4)


@every_op
def test_without_a_feedback_kernel_and_under_backprop_it_is_plain_autodiff(name: str) -> None:
    op, x, kernel, _ = OPS[name][0], *tensors(name)
    found = products(asymmetric(op, rules.get("bp")), [x, kernel])
    expected = products(op, [x, kernel])
    np.testing.assert_array_equal(found[0], expected[0])
    for gradient, expected_gradient in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize("rule", ["fa", "wm", "frsf"])
def test_rules_that_do_not_teach_b_by_gradient_give_it_none(rule: str) -> None:
    arguments = tensors("matmul_rank2")
    _, (dx, dw, db) = products(asymmetric(tf.matmul, rules.get(rule)), arguments)
    assert dx is not None
    assert dw is not None
    assert db is None


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_urfb_gives_b_epsilon_times_the_gradient_of_w(epsilon: float) -> None:
    rule = rules.UpdatedRandomFeedback(epsilon=epsilon)
    _, (_, dw, db) = products(asymmetric(tf.matmul, rule), tensors("matmul_rank2"))
    np.testing.assert_array_equal(db, epsilon * dw)


@every_mode
def test_compiled_products_are_those_of_the_graph(mode: str) -> None:
    op, arguments = OPS["conv_rank4"][0], tensors("conv_rank4")
    expected = products(asymmetric(op, rules.get("kp")), arguments)
    found = products(asymmetric(op, rules.get("kp"), jit_compile=True), arguments, mode)
    for gradient, expected_gradient in zip(found[1], expected[1], strict=True):
        assert relative_error(gradient, expected_gradient) < 1e-6


class TwiceB(rules.FeedbackRule):
    """A rule that this package does not know: errors on 2 B, and B learns from -dW."""

    def backward_kernel(self, kernel, feedback, seed):
        return 2.0 * feedback

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        return -kernel_gradient


class RandomCarrier(rules.FeedbackRule):
    """A rule that carries errors on noise drawn from the seed it is given."""

    uses_feedback_kernel = False
    draws = True

    def backward_kernel(self, kernel, feedback, seed):
        return tf.random.stateless_normal(kernel.shape, seed)


@every_mode
def test_a_rule_of_ones_own_says_what_carries_the_error_and_how_b_learns(mode: str) -> None:
    arguments = tensors("matmul_rank2")
    x, _, feedback = arguments
    y, (dx, dw, db) = products(asymmetric(tf.matmul, TwiceB()), arguments, mode)
    assert relative_error(dx, tf.sin(y) @ tf.transpose(2.0 * feedback)) < 1e-6
    assert relative_error(dw, tf.transpose(x) @ tf.sin(y)) < 1e-6
    np.testing.assert_array_equal(db, -dw)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_rule_that_draws_is_given_the_seed(mode: str) -> None:
    x, kernel, _ = tensors("matmul_rank2")
    f = asymmetric(tf.matmul, RandomCarrier())
    errors = []
    for seed in ([1, 2], [1, 3]):
        y, (dx, _) = products(lambda x, w, s=seed: f(x, w, None, tf.constant(s)), [x, kernel], mode)
        drawn = tf.random.stateless_normal(kernel.shape, seed)
        assert relative_error(dx, tf.sin(y) @ tf.transpose(drawn)) < 1e-6
        errors.append(dx)
    assert relative_error(errors[0], errors[1]) > 0.1


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@every_mode
def test_under_mixed_precision_the_gradients_of_b_and_w_are_the_same_bits(
    dtype: str, mode: str
) -> None:
    policy = keras.dtype_policies.get(dtype)

    class Layer(keras.layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            normal = keras.initializers.RandomNormal
            self.kernel = self.add_weight((5, 3), initializer=normal(seed=1))
            self.feedback = self.add_weight((5, 3), initializer=normal(seed=2))

        def call(self, x: tf.Tensor) -> tf.Tensor:
            kernels = (tf.convert_to_tensor(v) for v in (self.kernel, self.feedback))
            return asymmetric(tf.matmul, rules.get("kp"))(x, *kernels)

    layer = Layer(dtype=policy)
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 5)), policy.compute_dtype)
    layer.build(x.shape)

    def run(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x)))
        return tape.gradient(loss, [x, layer.kernel.value, layer.feedback.value])

    step = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    dx, dw, db = step(x)
    assert dx.dtype == policy.compute_dtype
    assert dw.dtype == db.dtype == tf.float32
    assert np.any(dw)
    np.testing.assert_array_equal(db, dw)


# --- B carries the error, and W does not --------------------------------------------------------


@pytest.mark.parametrize("rule", ["fa", "wm", "kp", "urfb", "frsf"])
@every_op
def test_another_b_changes_the_error_sent_back_and_nothing_else(name: str, rule: str) -> None:
    x, kernel, feedback = tensors(name)
    f = asymmetric(OPS[name][0], rules.get(rule))
    y, (dx, dw, _) = products(f, [x, kernel, feedback])
    y2, (dx2, dw2, _) = products(f, [x, kernel, 3.0 - 2.0 * feedback])
    assert relative_error(dx2, dx) > 0.1
    np.testing.assert_array_equal(y2, y)
    np.testing.assert_array_equal(dw2, dw)


def seen_otherwise(rule: rules.FeedbackRule) -> rules.FeedbackRule:
    """`rule`, shown another kernel than W in the backward pass."""

    class Misled(type(rule)):
        def backward_kernel(self, kernel, feedback, seed):
            return super().backward_kernel(1.0 - 3.0 * kernel, feedback, seed)

    return Misled()


@pytest.mark.parametrize("rule", ["fa", "wm", "kp", "urfb"])
@every_op
def test_what_the_backward_pass_knows_of_w_changes_nothing(name: str, rule: str) -> None:
    arguments = tensors(name)
    _, expected = products(asymmetric(OPS[name][0], rules.get(rule)), arguments)
    misled = seen_otherwise(rules.get(rule))
    _, found = products(asymmetric(OPS[name][0], misled), arguments)
    for gradient, expected_gradient in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(gradient, expected_gradient)


def test_under_backprop_what_the_backward_pass_knows_of_w_changes_the_error() -> None:
    x, kernel, _ = tensors("matmul_rank2")
    _, expected = products(asymmetric(tf.matmul, rules.get("bp")), [x, kernel])
    _, found = products(asymmetric(tf.matmul, seen_otherwise(rules.get("bp"))), [x, kernel])
    assert relative_error(found[0], expected[0]) > 0.1


@pytest.mark.parametrize("rule", [rules.FeedbackAlignment(), rules.Backprop()])
def test_loops_of_the_graph_send_the_same_error_back_under_a_persistent_tape(rule: Any) -> None:
    f = asymmetric(tf.matmul, rule)
    w, b = (tf.random.stateless_normal((4, 4), (1, seed)) for seed in (2, 3))
    feedback = b if rule.uses_feedback_kernel else None

    @tf.function(autograph=False)
    def gradients(x: tf.Tensor, w: tf.Tensor, loop: bool) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, w])
            if loop:
                body = lambda count, y: (count + 1, f(y, w, feedback))  # noqa: E731
                y = tf.while_loop(lambda count, _: count < 2, body, (0, x))[1]
            else:
                y = f(f(x, w, feedback), w, feedback)
        return tape.gradient(y, [x, w])

    x = tf.random.stateless_normal((3, 4), (1, 4))
    for seen, expected in zip(gradients(x, w, True), gradients(x, w, False), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-5)
        assert np.abs(expected).max() > 0.1


def test_a_call_without_the_b_that_carries_the_error_is_refused() -> None:
    x, w = tf.ones((2, 3)), tf.ones((3, 4))
    with pytest.raises(ValueError, match=r"feedback_alignment.*received feedback=None"):
        asymmetric(tf.matmul, rules.FeedbackAlignment())(x, w)


@pytest.mark.parametrize("rule", ["fa", "usf", "kp", "bp"])
def test_a_pass_through_a_layers_map_serves_both_products(rule: str) -> None:
    """One forward pass, dx and dW behind the layer's own: what a trace, or an eager step, takes."""
    for layer, shape, product in (
        (tfwm.layers.FeedbackDense(3, rule=rule), (2, 5), "MatMul"),
        (tfwm.layers.FeedbackConv2D(3, 2, rule=rule), (2, 5, 5, 4), "Conv2D"),
    ):
        layer.build(shape)

        @tf.function(autograph=False)
        def step(layer: Any = layer, shape: Any = shape) -> Any:
            x = tf.ones(shape)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, training=True) ** 2)
            return tape.gradient(loss, [x, layer.kernel.value])

        kinds = [
            operation.type for operation in step.get_concrete_function().graph.get_operations()
        ]
        assert sum(kind.startswith(product) for kind in kinds) == 4, layer
