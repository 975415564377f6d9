"""Direct feedback alignment in a forward pass: who waits for the output error, and who sends it.

Every layer leaves its input and its B in the present call of the outermost model. The output layer
takes them as further inputs of a custom gradient: forward it is the identity of that layer's linear
output, backward `e` goes on as it is, and `e B^T` to each input. So no state outlives the call, and
whatever differentiates the model finds an ordinary gradient.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.probe import errors_travel_on_w
from tfweightmirror._internals.tensorflow_hooks import custom_gradient, tape_records
from tfweightmirror.asymmetric_gradient import LinearMap, asymmetric
from tfweightmirror.rules import DirectFeedbackAlignment

_AGAIN = (
    "Under direct_feedback_alignment a second derivative was asked for (of a gradient penalty, "
    "say), or a gradient was taken while another tape records. Its errors are no gradients of the "
    "loss, and have no derivatives. Take the gradient outside of other tapes, or train this model "
    "with 'feedback_alignment' or 'backprop'." + see("a-second-derivative")
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Called(DirectFeedbackAlignment):
    """The rule in one call of a layer, which knows whether an output layer will send the error."""

    layer: str = ""
    senders: list[str] = dataclasses.field(default_factory=list)

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> None:
        """None, if the error comes another way; no layer may learn from half of the errors."""
        if not self.senders:
            raise ValueError(
                f"Layer '{self.layer}' trains by direct_feedback_alignment, but no output layer "
                "sends it the error: none was called after it, in the same graph and in the same "
                "call of the outermost model, or the call was traced for evaluation. Train the "
                "whole converted model, without keras.remat and without loops or functions of its "
                "own around layers; a part of it, or another model around that part, wants "
                "strip_feedback, or a conversion of its own."
                + see("no-output-layer-sends-an-error")
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting:
    """A call of a layer that waits for the error."""

    called: _Called
    layer: int  # its id
    inputs: tf.Tensor  # (batch, ...)
    feedback: tf.Tensor  # (cells of one input, error cells)
    place: tuple[Any, bool]  # the graph that computes the outputs, and whether a tape records
    operation: Any  # that gives the outputs; None in eager calls


@dataclasses.dataclass(eq=False)
class _Pass:
    """One forward pass: the calls since the last output layer, and whom which has reached."""

    waiting: list[_Waiting] = dataclasses.field(default_factory=list)
    reached: dict[int, list[int]] = dataclasses.field(default_factory=dict)


def carry(
    layer: Any,
    op: LinearMap,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    feedback: tf.Tensor,
    *,
    jit_compile: bool,
) -> tf.Tensor:
    """`op(inputs, kernel)` of a layer whose rule is `DirectFeedbackAlignment`.

    Args:
        layer: The layer.
        op: Its linear map.
        inputs: (batch, ...).
        kernel: W.
        feedback: B (cells of one input, error cells).
        jit_compile: As in `asymmetric`.

    Raises:
        ValueError: Inputs of another size than B's; an output of an output layer that is not
            (batch, error_cells); an output layer that is called again, and it cannot be told which
            of the layers before it hear of which call. On the way back: nobody sends the error.
    """
    cells = inputs.shape[1:].num_elements()
    if cells is not None and cells != feedback.shape[0]:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has a B for {feedback.shape[0]} input "
            f"cells and received inputs of shape {tuple(inputs.shape)}. Under direct_feedback_"
            "alignment a layer takes inputs of one size: call it on that, or leave it to backprop "
            "with a pattern." + see("direct-feedback-alignment", "science")
        )
    called = _Called(layer=layer.name)
    outputs = asymmetric(op, called, jit_compile=jit_compile)(inputs, kernel)
    forward_pass = keras_hooks.kept_in_call("direct_feedback", _Pass)
    if forward_pass is None or not _may_be_differentiated():
        return outputs
    # Not of the inputs, which may be constants in a graph.
    place = getattr(outputs, "graph", None), tape_records()
    operation = None if place[0] is None else outputs.op
    forward_pass.waiting.append(_Waiting(called, id(layer), inputs, feedback, place, operation))
    return _send(layer, outputs, forward_pass) if layer.rule.is_output else outputs


def _may_be_differentiated() -> bool:
    """Not so in evaluation, where all inputs would be kept to the end for nobody."""
    if tape_records():
        return True
    return not tf.executing_eagerly() and keras_hooks.training_of_call() is not False


def _send(layer: Any, outputs: tf.Tensor, forward_pass: _Pass) -> tf.Tensor:
    """`outputs`, whose error also goes to all that wait."""
    if outputs.shape.rank != 2 or outputs.shape[1] != layer.rule.error_cells:
        raise ValueError(
            f"Output layer '{layer.name}' ({type(layer).__name__}) gives outputs of shape "
            f"{tuple(outputs.shape)}. Expected (batch, {layer.rule.error_cells}): one error of "
            "that size for each example. Put pooling or Flatten before it."
            + see("direct-feedback-alignment", "science")
        )
    here = forward_pass.waiting[-1].place
    reached = [each for each in forward_pass.waiting if each.place == here]
    if here[0] is not None:
        below = _below(outputs.op)
        for each in reached:
            if each.operation not in below:
                raise ValueError(
                    f"Output layer '{layer.name}' would send its error to layer "
                    f"'{each.called.layer}', which was called before it and does not lead to it. "
                    "Call one network after the other, each as a model of its own: a model over "
                    "the tensors of several calls their layers in turns."
                    + see("direct-feedback-alignment", "science")
                )
    those = sorted(each.layer for each in reached)
    if forward_pass.reached.setdefault(id(layer), those) != those:
        raise ValueError(crossed(layer.name))
    for each in reached:
        each.called.senders.append(layer.name)
    forward_pass.waiting.clear()
    count = len(reached)

    def backward(tensors: Sequence[tf.Tensor], error: tf.Tensor) -> list[tf.Tensor | None]:
        nothing: list[tf.Tensor | None] = [None] * count
        if errors_travel_on_w():  # a measurement; no update comes of it
            return [error, *nothing, *nothing]
        if tape_records():  # of whoever wants to differentiate again
            raise ValueError(_AGAIN)
        inputs, feedback = tensors[1 : count + 1], tensors[count + 1 :]
        sent = [_sent(error, x, b) for x, b in zip(inputs, feedback, strict=True)]
        return [error, *sent, *nothing]

    send = custom_gradient(lambda outputs, *_: tf.identity(outputs), backward)
    inputs, feedback = [each.inputs for each in reached], [each.feedback for each in reached]
    return send(outputs, *inputs, *feedback)


def _sent(error: tf.Tensor, inputs: tf.Tensor, feedback: tf.Tensor) -> tf.Tensor:
    """`e B^T`, in the shape of `inputs`."""
    dx = tf.matmul(tf.cast(error, feedback.dtype), feedback, transpose_b=True)
    dx = tf.cast(tf.reshape(dx, tf.shape(inputs)), inputs.dtype)
    # Without a tape that records, eagerly nobody can differentiate it; a graph may be, later.
    return dx if tf.executing_eagerly() else _once(dx)


def _refuse_again(tensors: Sequence[tf.Tensor], error: tf.Tensor) -> list[tf.Tensor | None]:
    raise ValueError(_AGAIN)


_once = custom_gradient(tf.identity, _refuse_again)


def _below(operation: Any) -> set[Any]:
    """The operations of a graph that lead to `operation`, and itself."""
    stack, seen = [operation], set()
    while stack:
        each = stack.pop()
        if each not in seen:
            seen.add(each)
            stack.extend(tensor.op for tensor in each.inputs)
    return seen


def crossed(path: str) -> str:
    """What is said where it cannot be told which calls lead to which call of an output layer."""
    return (
        f"Output layer '{path}' is called again, after other calls of layers of direct_feedback_"
        "alignment than before its first call: it cannot be told which of them hear of which error."
        " Call the layers below it and it for one input after the other, as one model, or once on "
        "all inputs together, one batch behind the other."
        + see("direct-feedback-alignment", "science")
    )


def kernel_options(
    layer: Any, site: Any, input_shape: Sequence[int | None] | None
) -> dict[str, Any]:
    """What `add_weight` is given for B (cells of one input, error cells) of its own.

    Raises:
        ValueError: The number of cells is not known, or W has a constraint that masks B, too.
    """
    rule, name = layer.rule, f"Layer '{layer.name}' ({type(layer).__name__})"
    if rule.error_cells is None:
        raise ValueError(
            f"{name} does not know whose error it is to hear of under direct_feedback_alignment. "
            "Convert the whole model once it is built, or, in layers made by hand, give "
            "rule=DirectFeedbackAlignment(error_cells=...), and is_output=True to the last."
            + see("direct-feedback-alignment", "science")
        )
    if hasattr(getattr(layer, site.constraint, None), "mask_feedback"):
        raise ValueError(masked(layer, layer.name))
    if input_shape is None:
        input_shape = layer.get_build_config()["input_shape"]
    cells = layer.site_shape(site, tuple(input_shape))[1:]
    if None in cells:
        raise ValueError(
            f"{name} is built for inputs of shape {tuple(input_shape)}. Under direct_feedback_"
            "alignment B has a row for each input cell: give keras.Input the whole shape, or leave "
            "the layer to backprop with a pattern." + see("direct-feedback-alignment", "science")
        )
    shape = (math.prod(cells), rule.error_cells)
    return {"shape": shape, "initializer": layer.initial_feedback(site)}


def masked(layer: Any, path: str) -> str:
    """What is said where B would have to have a mask of W's shape."""
    return (
        f"Layer '{path}' ({type(layer).__name__}) is to have a constraint that masks B as it masks "
        "W (Sparse), but under direct_feedback_alignment B has another shape. Leave it out there, "
        "or use 'feedback_alignment'." + see("direct-feedback-alignment", "science")
    )


def is_direct(layer: keras.layers.Layer) -> bool:
    """Whether the rule of a feedback layer is `DirectFeedbackAlignment`."""
    return isinstance(getattr(layer, "rule", None), DirectFeedbackAlignment)
