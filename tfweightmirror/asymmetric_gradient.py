"""The one custom gradient of this library: the error travels back on a tensor of its own."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfweightmirror._internals.probe import errors_travel_on_w
from tfweightmirror._internals.tensorflow_hooks import custom_gradient, tape_records
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
    Where the rule's carrier is None there is no `dx`: the error below comes another way.

    In higher derivatives (gradient penalties, Jacobian regularization, learning to learn) the
    carrier counts as W: what they owe to the carrier goes to `kernel`, and to `feedback` nothing
    but what the rule makes of the kernel's gradient. So where B equals W, derivatives of every
    order are backprop's, by tapes and by `tf.autodiff.ForwardAccumulator` alike. Nothing is
    computed for them unless they are asked for.

    Args:
        op: A map `(x, kernel) -> y`, linear in `x`. It is given tensors. Where it is not linear in
            the kernel (weights that it standardizes, say), carrier and W pass the same map.
        rule: The rule that says which tensor carries the error and what gradient B gets.
        jit_compile: Take both products in one XLA-compiled function. Needed where `op` itself is
            compiled by Keras (grouped convolutions, channels-first Conv3D): graph pruning cannot
            see the unused forward passes inside a compiled function, XLA can.

    Returns:
        `f(x, kernel, feedback=None, seed=None, carrier=None) -> y`. All arguments are tensors and
        never variables (a Keras variable inside a custom gradient fails): `x` and `kernel` as `op`
        wants them, `feedback` of the kernel's shape and dtype (None where the rule needs none),
        `seed` two int32 (None where the rule draws nothing), `carrier` what `rule.backward_kernel`
        makes of the three, if it is known: one for all steps of a loop.
    """

    def products(
        x: tf.Tensor, kernel: tf.Tensor, carrier: tf.Tensor | None, dy: tf.Tensor
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        # Neither product depends on the output of `op`: the two forward passes below are dead code,
        # which graph optimisation or XLA removes. (Eager code does run them.)
        dx = None
        if carrier is not None:
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
        carrier: tf.Tensor | None = None,
    ) -> tf.Tensor:
        optional = {"feedback": feedback, "seed": seed, "carrier": carrier}
        given = [name for name, tensor in optional.items() if tensor is not None]

        def backward(tensors: Sequence[tf.Tensor], dy: tf.Tensor) -> list[tf.Tensor | None]:
            # Copies: in the gradient of a loop, a tape may watch the loop's own tensors in vain.
            x, kernel, *rest = (tf.identity(tensor) for tensor in tensors)
            more = dict(zip(given, rest, strict=True))
            feedback = more.get("feedback")
            carrier = more.get("carrier")
            if errors_travel_on_w():  # a measurement; no update comes of it
                carrier = kernel
            elif carrier is None:
                carrier = rule.backward_kernel(kernel, feedback, more.get("seed"))
            factors = [
                None if k is None else _counting_as(k, kernel, feedback, rule)
                for k in (kernel, carrier)
            ]
            take = tf.function(products, jit_compile=True) if jit_compile else products
            dx, kernel_gradient = take(x, factors[0], factors[1], dy)
            taught = None if feedback is None else rule.feedback_gradient(kernel_gradient)
            return [dx, kernel_gradient, *(taught if n == "feedback" else None for n in given)]

        function = custom_gradient(lambda x, kernel, *_: op(x, kernel), backward)
        return function(x, kernel, *(optional[name] for name in given))

    return f


def _counting_as(
    tensor: tf.Tensor, kernel: tf.Tensor, feedback: tf.Tensor | None, rule: FeedbackRule
) -> tf.Tensor:
    """`tensor`, whose derivatives are the kernel's, with what the rule makes of them for B."""
    if tf.executing_eagerly() and not tape_records():
        return tensor  # Nobody can differentiate it. A graph may be, later, by whoever calls it.

    def backward(tensors: Sequence[tf.Tensor], gradient: tf.Tensor) -> list[tf.Tensor | None]:
        if len(tensors) == 2:
            return [None, gradient]
        return [None, gradient, rule.feedback_gradient(gradient)]

    function = custom_gradient(lambda tensor, *_: tf.identity(tensor), backward, tangent_of=2)
    return function(tensor, kernel, *(() if feedback is None else (feedback,)))
