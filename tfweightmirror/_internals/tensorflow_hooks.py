"""Every private hook of TensorFlow that this library uses, in one file.

`tests/_internals/test_tensorflow_hooks.py` is their canary; pyproject.toml pins the range of
TensorFlow.
"""

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops
from tensorflow.python.ops.parallel_for import pfor

from tfweightmirror._internals.docs import see

# From (inputs of the forward pass, error at its output) to the error at each input (None: none).
Backward: TypeAlias = Callable[[Sequence[tf.Tensor], tf.Tensor], Sequence[tf.Tensor | None]]

_NAME = "TfweightmirrorCustomGradient"
_BACKWARDS = "_tfweightmirror_backwards"  # on a graph: its operations' names to `Backward`s
_LOST = (
    "This graph has lost the backward pass of its feedback layers: it was loaded from a "
    "SavedModel. Train the Keras model itself, from a .keras file."
    + see("a-savedmodel-cannot-be-trained")
)
_REGISTERED = "_tfweightmirror_registered"  # on a graph: functions that TensorFlow has registered

_VECTORIZED = (
    "The error of a feedback layer inside tf.vectorized_map (keras.ops.vectorized_map, or a "
    "TimeDistributed that does not know the number of steps) would travel on W: TensorFlow keeps "
    "no custom gradient there. Call the layer on the whole batch, use tf.map_fn, or give "
    "TimeDistributed a number of steps." + see("no-path-for-the-error-through-vectorized_map")
)
_OF_FORWARD_PASSES = "_tfweightmirror_forward"  # on a graph: the names of those that errors meet

TracedFunction: Any = type(tf.function(lambda: None))


def forget_traces(function: Any) -> None:
    """Make a `tf.function` trace again when it is called."""
    vars(function).update(vars(function._clone(None)))


def tape_records() -> bool:
    """Whether a gradient tape records what is computed (or traced) now."""
    return bool(record.could_possibly_record())


def tape_watches(tensor: tf.Tensor) -> bool:
    """Whether a gradient tape records what is computed (or traced) now from `tensor`."""
    return bool(record.should_record_backprop([tensor]))


def custom_gradient(
    forward: Callable[..., tf.Tensor],
    backward: Backward,
    *,
    tangent_of: int = 0,
    of_backward_pass: bool = False,
) -> Callable[..., tf.Tensor]:
    """`tf.custom_gradient` for functions of tensors, whose traces are forgotten with their graph.

    TensorFlow's own registers the gradient of every trace under another name, for ever, and with it
    the graph and the model around it: megabytes for each model that was trained and is no more.
    Here one name is registered, and the function behind it hangs on the graph of the trace.

    Args:
        forward: Gives the output for tensors.
        backward: Should hold no tensors, which would keep the graph alive; it is given those of the
            forward pass. A bound method that it needs may be held by `weakly_bound`.
        tangent_of: Whose tangent the output has in forward mode (`tf.autodiff.ForwardAccumulator`)
            inside a traced function: that of what `forward` computes (0), or of the tensor in this
            place, counted from 1. Eagerly TensorFlow transposes `backward`, as its own does.
        of_backward_pass: Whether it is called in backward passes alone, which Jacobians vectorize.
    """

    def run(*tensors: tf.Tensor) -> tf.Tensor:
        tensors = tuple(tf.convert_to_tensor(tensor) for tensor in tensors)
        if tf.executing_eagerly():
            eager = tf.custom_gradient(
                lambda *tensors: (forward(*tensors), lambda error: backward(tensors, error))
            )
            return eager(*tensors)
        inputs = [forward(*tensors), *tensors]
        graph = tf.compat.v1.get_default_graph()
        with graph.gradient_override_map({"IdentityN": _NAME}), record.stop_recording():
            outputs = tf.identity_n(inputs)
        if not hasattr(graph, _BACKWARDS):
            setattr(graph, _BACKWARDS, {})
            setattr(graph, _OF_FORWARD_PASSES, set())
        getattr(graph, _BACKWARDS)[outputs[0].op.name] = backward
        if not of_backward_pass:
            getattr(graph, _OF_FORWARD_PASSES).add(outputs[0].op.name)
        # Of the one output that goes on: a tape would make zeros for the errors of the others.
        record.record_operation(
            _NAME,
            outputs[:1],
            inputs,
            lambda error: [None, *backward(tensors, error)],
            lambda *tangents: [tangents[tangent_of]],
        )
        return outputs[0]

    return run


@tf.RegisterGradient(_NAME)
def _backward_of(operation: Any, error: tf.Tensor, *inputs: tf.Tensor) -> list[tf.Tensor | None]:
    if operation is None:
        return _lost(inputs)  # traced for a SavedModel, of which one gradient serves all layers
    backwards: dict[str, Backward] = getattr(operation.graph, _BACKWARDS, {})
    if operation.name not in backwards:
        raise LookupError(_LOST)
    return [None, *backwards[operation.name](operation.inputs[1:], error)]


def _lost(inputs: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """Gradients that stop whoever asks for them; NaN where XLA drops the assertion.

    A layer of other shapes than the one they were traced for is refused by TensorFlow itself.
    """
    with tf.control_dependencies([tf.debugging.Assert(tf.zeros((), tf.bool), [_LOST])]):
        nan = [float("nan") * t if t.dtype.is_floating else None for t in inputs]
    return [None, *nan]


def refuse_errors_of_vectorized_calls() -> None:
    """Let `tf.vectorized_map` keep that a forward pass has a gradient of its own: a refusal.

    It makes other operations of those of its body, and plain identities of our custom gradients.
    """
    convert = pfor._pfor_converter_registry["IdentityN"]

    def keeping(inputs: Any) -> Any:
        operation = inputs.op
        if operation.name not in getattr(operation.graph, _OF_FORWARD_PASSES, ()):
            return convert(inputs)
        converted = [(given.t, given.is_stacked) for given in inputs.inputs]
        refusing = custom_gradient(lambda y, *_: tf.identity(y), _refuse_vectorized)
        y = refusing(*(tensor for tensor, _ in converted))
        return [
            pfor.wrap(tensor, stacked) for tensor, stacked in [(y, converted[0][1]), *converted[1:]]
        ]

    pfor._pfor_converter_registry["IdentityN"] = keeping


def _refuse_vectorized(tensors: Sequence[tf.Tensor], error: tf.Tensor) -> Sequence[tf.Tensor]:
    raise ValueError(_VECTORIZED)


def weakly_bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, without keeping the object alive that it is a method of."""
    if not inspect.ismethod(function):
        return function
    reference = weakref.WeakMethod(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        method = reference()
        if method is None:
            raise LookupError(
                "An error was sent back through a feedback layer that does not exist any more: "
                "keep the model as long as its traced functions."
            )
        return method(*args, **kwargs)

    return call


class _HangsOnItsGraph:
    """A registered gradient function, of which only the graph of its trace holds on to."""

    def __init__(self, function: Callable[..., Any], graph: tf.Graph) -> None:
        if not hasattr(graph, _REGISTERED):
            setattr(graph, _REGISTERED, [])
        getattr(graph, _REGISTERED).append(function)
        self.reference = weakref.ref(function)

    def __call__(self, *arguments: Any) -> Any:
        function = self.reference()
        if function is None:
            raise LookupError(
                "A gradient was asked for through a graph that does not exist any more."
            )
        return function(*arguments)


def let_go_of_graphs() -> None:
    """Make every custom gradient that TensorFlow has registered live as long as its graph only.

    `tf.custom_gradient` registers each trace for ever, and with it the graph. Keras' optimizers sum
    gradients over replicas by one, so that no train function that was ever traced is forgotten:
    with a mirror in it, megabytes for every `fit`. Called where a train function is made anew.
    """
    for name, entry in list(ops.gradient_registry._registry.items()):
        function = entry["type"]
        if name.startswith("CustomGradient-") and not isinstance(function, _HangsOnItsGraph):
            trace = inspect.getclosurevars(function).nonlocals.get("tape_grad_fn")
            result = inspect.getclosurevars(trace).nonlocals["result"] if trace else None
            graphs = [t.graph for t in tf.nest.flatten(result) if tf.is_symbolic_tensor(t)]
            if graphs:
                entry["type"] = _HangsOnItsGraph(function, graphs[0])
