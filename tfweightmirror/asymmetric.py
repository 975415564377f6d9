"""The one custom gradient of this library: the error travels back on a tensor of its own."""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from tfweightmirror.probe import errors_travel_on_w
from tfweightmirror.rules import FeedbackRule

LinearMap: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def asymmetric(
    op: LinearMap, rule: FeedbackRule, *, jit_compile: bool = False
) -> Callable[..., tf.Tensor]:
    """Give `op` a backward pass that does not use the forward kernel to carry the error.

    With `y = op(x, kernel)` and `dy` the error at `y`:

        dx = (d op / d x at carrier)^T dy,   carrier = rule.backward_kernel(kernel, feedback, seed)
        dW = (d op / d kernel at x)^T dy     (exactly backprop's)
        dB = rule.feedback_gradient(dW)

    Source: Lillicrap et al. 2016 for `dx` through a matrix other than the transposed weights.

    Args:
        op: A map `(x, kernel) -> y`, linear in each argument. It is given tensors.
        rule: The rule that says which tensor carries the error and what gradient B gets.
        jit_compile: Take both products in one XLA-compiled function. Needed where `op` itself is
            compiled by Keras (grouped convolutions, channels-first Conv3D): graph pruning cannot
            see the unused forward passes inside a compiled function, XLA can.

    Returns:
        `f(x, kernel, feedback=None, seed=None) -> y`. All arguments are tensors, never variables
        (a Keras variable inside `tf.custom_gradient` fails): `x` and `kernel` as `op` wants them,
        `feedback` of the kernel's shape and dtype (None where the rule needs none), `seed` two
        int32 (None where the rule draws nothing).
    """

    def products(
        x: tf.Tensor, kernel: tf.Tensor, carrier: tf.Tensor, dy: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # `op` is linear in each argument, so neither product depends on its output: the two
        # forward passes below are dead code, which graph optimisation or XLA removes. (Eager code
        # does run them.)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x, carrier)
        dx = tape.gradient(y, x, dy, unconnected_gradients="zero")
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = op(x, kernel)
        return dx, tape.gradient(y, kernel, dy, unconnected_gradients="zero")

    def f(
        x: tf.Tensor,
        kernel: tf.Tensor,
        feedback: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        @tf.custom_gradient
        def forward(x: tf.Tensor, kernel: tf.Tensor, *feedback: tf.Tensor) -> Any:
            def backward(dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
                if errors_travel_on_w():  # a measurement; no update comes of it
                    carrier = kernel
                else:
                    carrier = rule.backward_kernel(kernel, feedback[0] if feedback else None, seed)
                take = tf.function(products, jit_compile=True) if jit_compile else products
                dx, kernel_gradient = take(x, kernel, carrier, dy)
                if not feedback:
                    return dx, kernel_gradient
                return dx, kernel_gradient, rule.feedback_gradient(kernel_gradient)

            return op(x, kernel), backward

        return forward(x, kernel, *(() if feedback is None else (feedback,)))

    return f
