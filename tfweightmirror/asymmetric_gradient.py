"""The custom gradient of this library: the error travels back on a tensor of its own.

A rule with a local loss has a second one behind it, which gives B the gradient of that loss.

Examples:
    >>> x, W, B = tf.ones((1, 2)), tf.constant([[1.0], [2.0]]), tf.constant([[5.0], [-5.0]])
    >>> f = tfwm.asymmetric_gradient.asymmetric(tf.matmul, tfwm.rules.KolenPollack())
    >>> with tf.GradientTape() as tape:
    ...     tape.watch([W, B])
    ...     y = f(x, W, B)
    >>> dW, dB = tape.gradient(y, [W, B])
    >>> bool(tf.reduce_all(dB == dW))  # what this rule makes of dW
    True
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfweightmirror._internals.docs import see
from tfweightmirror._internals.probe import errors_travel_on_w
from tfweightmirror._internals.tensorflow_hooks import custom_gradient, tape_records
from tfweightmirror.rules import DirectFeedbackAlignment, FeedbackRule, Signals

LinearMap: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def asymmetric(
    op: LinearMap,
    rule: FeedbackRule,
    *,
    jit_compile: bool = False,
    batch_axis: int = 0,
    linear_in_kernel: bool = False,
) -> Callable[..., tf.Tensor]:
    """Give `op` a backward pass that does not use the forward kernel to carry the error.

    With `y = op(x, kernel)` and `dy` the error at `y`:

        dx = (d op / d x at carrier)^T dy,   carrier = rule.backward_kernel(kernel, feedback, seed)
                                             (or what rule.carrier_after_update makes of it and dW)
        dW = (d op / d kernel at x)^T dy     (exactly backprop's)
        dB = rule.feedback_gradient(dW)
           + d rule.local_loss(x, y, feedback) / d feedback     (a gradient of its own, not of dy)

    Source: Lillicrap et al. 2016 for `dx` through a matrix other than the transposed weights.
    Where the rule's carrier is None there is no `dx`: under direct feedback alignment the error
    below comes another way, and anybody else who asks for it gets NaN.

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
        batch_axis: The axis of x along which examples stand (in y: the first), for a local loss.
        linear_in_kernel: Whether `op` is linear in the kernel, too, so that dW does not depend on
            what stands in the kernel's place. One forward pass then serves both products, which
            changes no bit and is cheaper to trace, and to run eagerly.

    Returns:
        `f(x, kernel, feedback=None, seed=None, carrier=None) -> y`. All arguments are tensors and
        never variables (a Keras variable inside a custom gradient fails): `x` and `kernel` as `op`
        wants them, `feedback` of the kernel's shape and dtype (None where the rule needs none),
        `seed` two int32 (None where the rule draws nothing), `carrier` what `rule.backward_kernel`
        makes of the three, if it is known: one for all steps of a loop.

    Raises:
        ValueError: The rule has a `local_loss` by which nothing would move B; in a call: B is
            missing; in a backward pass: a local loss that does not depend on B.

    Examples:
        >>> x, W, B = tf.ones((1, 2)), tf.constant([[1.0], [2.0]]), tf.constant([[5.0], [-5.0]])
        >>> f = tfwm.asymmetric(tf.matmul, tfwm.rules.FeedbackAlignment())
        >>> with tf.GradientTape() as tape:
        ...     tape.watch([x, W])
        ...     y = f(x, W, B)
        >>> dx, dW = tape.gradient(y, [x, W])
        >>> y.numpy().tolist(), dx.numpy().tolist(), dW.numpy().tolist()  # x W, dy B^T, x^T dy
        ([[3.0]], [[5.0, -5.0]], [[1.0], [1.0]])
    """

    is_direct = isinstance(rule, DirectFeedbackAlignment)  # whose B is read elsewhere
    taught = _taught_by_signals(op, rule, jit_compile, batch_axis) if rule.has_local_loss else None
    products = _products(op, rule)

    def f(
        x: tf.Tensor,
        kernel: tf.Tensor,
        feedback: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
        carrier: tf.Tensor | None = None,
    ) -> tf.Tensor:
        if feedback is carrier is None and rule.uses_feedback_kernel and not is_direct:
            raise ValueError(
                f"The error travels on B under the rule '{rule.name}', and f(x, kernel, feedback) "
                "received feedback=None. Expected a tensor of the kernel's shape."
            )
        optional = {"feedback": feedback, "seed": seed, "carrier": carrier}
        given = [name for name, tensor in optional.items() if tensor is not None]

        def backward(tensors: Sequence[tf.Tensor], dy: tf.Tensor) -> list[tf.Tensor | None]:
            x, kernel, *rest = tensors
            # A copy: in the gradient of a loop, a tape may watch the loop's own tensors in vain.
            x, more = tf.identity(x), dict(zip(given, rest, strict=True))
            feedback = more.get("feedback")
            carrier = more.get("carrier")
            if errors_travel_on_w():  # a measurement; no update comes of it
                carrier = kernel
            elif carrier is None:
                carrier = rule.backward_kernel(kernel, feedback, more.get("seed"))
            one_pass = linear_in_kernel and carrier is not None and not rule.updates_first
            factors = [
                None if k is None else _counting_as(k, kernel, feedback, rule)
                for k in (None if one_pass else kernel, carrier)
            ]
            take = tf.function(products, jit_compile=True) if jit_compile else products
            dx, kernel_gradient = take(x, factors[0], factors[1], dy)
            to_b = None if feedback is None else rule.feedback_gradient(kernel_gradient)
            return [dx, kernel_gradient, *(to_b if n == "feedback" else None for n in given)]

        function = custom_gradient(lambda x, kernel, *_: op(x, kernel), backward)
        y = function(x, kernel, *(optional[name] for name in given))
        return y if taught is None else taught(y, x, feedback, kernel)

    return f


def _products(op: LinearMap, rule: FeedbackRule) -> Callable[..., Any]:
    """`(x, kernel, carrier, dy) -> (dx, dW)`; kernel None: the carrier stands for it, too."""

    def products(
        x: tf.Tensor, kernel: tf.Tensor | None, carrier: tf.Tensor | None, dy: tf.Tensor
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        # Neither product depends on the output of `op`: the forward passes below are dead code,
        # which graph optimisation or XLA removes. (Eager code does run them.)
        if kernel is None:
            with tf.GradientTape() as tape:
                tape.watch([x, carrier])
                y = op(x, carrier)
            return tuple(tape.gradient(y, [x, carrier], dy, unconnected_gradients="zero"))

        def gradient_of_kernel() -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(kernel)
                y = op(x, kernel)
            return tape.gradient(y, kernel, dy, unconnected_gradients="zero")

        dx = kernel_gradient = None
        if rule.updates_first:
            kernel_gradient = gradient_of_kernel()
            if not errors_travel_on_w():
                carrier = rule.carrier_after_update(carrier, kernel_gradient)
        if carrier is not None:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = op(x, carrier)
            dx = tape.gradient(y, x, dy, unconnected_gradients="zero")
        elif not isinstance(
            rule, DirectFeedbackAlignment
        ):  # not None, which a tape would take for an error of 0
            dx = tf.fill(tf.shape(x), _nan_of(dy, kernel))
        return dx, gradient_of_kernel() if kernel_gradient is None else kernel_gradient

    return products


def _nan_of(*tensors: tf.Tensor) -> tf.Tensor:
    """A scalar NaN whose derivatives are NaN, too, and 0 for whoever does not ask for it."""
    nan = tf.constant(float("nan"), tensors[0].dtype)
    return nan + tf.math.multiply_no_nan(nan, tf.add_n([tf.reduce_sum(t) for t in tensors]))


def _taught_by_signals(
    op: LinearMap, rule: FeedbackRule, jit_compile: bool, batch_axis: int
) -> Callable[..., tf.Tensor]:
    """`f(y, x, feedback, kernel) -> y`, on whose way back B gets the gradient of the local loss.

    The signals are what went forward, and W is no input of it unless the rule says so: no update
    of B can read W (contract 5), whatever a rule computes.
    """
    if rule.learns_by != "optimizer" or not rule.uses_feedback_kernel:
        raise ValueError(
            f"Rule {type(rule).__name__} has a local_loss, learns_by={rule.learns_by!r} and "
            f"uses_feedback_kernel={rule.uses_feedback_kernel}, so that nothing would move B by "
            "it. Expected learns_by = 'optimizer' and uses_feedback_kernel = True."
            + see("a-rule-of-your-own", "guides/extend")
        )

    def gradient(
        y: tf.Tensor, x: tf.Tensor, feedback: tf.Tensor, kernel: tf.Tensor | None = None
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(feedback)
            loss = rule.local_loss(Signals(x, y, feedback, op, batch_axis, kernel))
        found = None if loss is None else tape.gradient(loss, feedback)
        if found is None:
            raise ValueError(
                f"The local_loss of rule {type(rule).__name__} does not depend on B: it should be "
                "made of signals.feedback, signals.forward(x) or signals.backward(y)."
                + see("a-rule-of-your-own", "guides/extend")
            )
        # Optimizers sum gradients over replicas, since losses are divided among them.
        return found / tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, found.dtype)

    def backward(tensors: Sequence[tf.Tensor], dy: tf.Tensor) -> list[tf.Tensor | None]:
        tensors = [tf.identity(tensor) for tensor in tensors]  # as in `asymmetric`
        take = tf.function(gradient, jit_compile=True) if jit_compile else gradient
        return [dy, None, take(*tensors), *[None] * len(tensors[3:])]

    function = custom_gradient(lambda y, *_: tf.identity(y), backward)
    return lambda y, x, feedback, kernel: function(
        y, x, feedback, *((kernel,) if rule.reads_kernel else ())
    )


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

    function = custom_gradient(
        lambda tensor, *_: tensor, backward, tangent_of=2, of_backward_pass=True
    )
    return function(tensor, kernel, *(() if feedback is None else (feedback,)))
