"""Whose error goes to all layers under direct feedback alignment, and whether it can reach them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.keras_hooks import LayerCall
from tfweightmirror._internals.walk import symbolic_call
from tfweightmirror.conversion import twins
from tfweightmirror.conversion.selection import Member, Target
from tfweightmirror.layers.carries_rule import no_direct_error
from tfweightmirror.layers.direct import is_direct
from tfweightmirror.rules import DirectFeedbackAlignment

_RULE = DirectFeedbackAlignment.name


def with_output_layer(
    model: keras.Model, members: list[Member], targets: list[Target]
) -> list[Target]:
    """`targets`, their rules of direct feedback alignment told whose error they are to hear of.

    The output layer is the last, in execution order, of those that can be converted.

    Raises:
        ValueError: There is no one output layer, it has another rule or no fixed number of cells,
            or its error cannot be sent to one of the others.
    """
    direct = [t for t in targets if isinstance(t[2], DirectFeedbackAlignment)]
    if not direct:
        return targets
    for path, layer, _ in direct:
        if not twins.TWINS[type(layer)].hears_output_error:
            raise ValueError(no_direct_error(layer, path))
    ours = {id(layer) for _, layer, _ in direct}
    for path, layer in members:
        if is_direct(layer):
            raise ValueError(
                f"Layer '{path}' of model '{model.name}' trains by {_RULE} already, and "
                "hears of another output layer. Call strip_feedback(model) first, and convert all "
                "layers together."
            )
    names = {id(layer): path for path, layer in members}
    calls, graph = _calls(model, [layer for _, layer in members if twins.has_twin(layer)])
    last = calls[-1].layer
    if id(last) not in ours:
        raise ValueError(
            f"The output layer of model '{model.name}', '{names[id(last)]}' "
            f"({type(last).__name__}), is left to another rule or to backprop, but under {_RULE} it "
            f"sends its error to all others. Give it the rule, too (its own dW is backprop's "
            "anyway), and other layers below another one if you like."
        )
    errors = [_tensor(call.outputs) for call in calls if call.layer is last]
    cells = _cells(errors, names[id(last)], last)
    below = _ancestors([_tensor(call.inputs) for call in calls if call.layer is last])
    for output in graph.outputs:
        if _ancestors([output]).isdisjoint({id(error.op) for error in errors}):
            raise ValueError(
                f"Model '{model.name}' has an output ({output.name}, of shape "
                f"{tuple(output.shape)}) that its last layer '{names[id(last)]}' has no part in, and "
                f"{_RULE} sends one error, of one output layer. Use 'feedback_alignment', or convert "
                "a model with that output alone."
            )
    for call in calls:
        if id(call.layer) in ours and call.layer is not last:
            _refuse_unreached(call, below, graph, names)
    return [
        (path, layer, _told(rule, cells, layer is last) if id(layer) in ours else rule)
        for path, layer, rule in targets
    ]


def _calls(model: keras.Model, layers: list[keras.layers.Layer]) -> tuple[list[LayerCall], Any]:
    """The calls of `layers` in one symbolic call of the model, and its graph."""
    graph = None
    if model.built:
        with keras_hooks.recording_calls_of(layers) as calls:
            graph = symbolic_call(model)
    if graph is None or not calls:
        raise ValueError(
            f"Under {_RULE} the output layer must be known, and model '{model.name}' is not built, "
            "or cannot be called on the shapes that it was built for. Build it first, by calling it "
            "on data."
        )
    return calls, graph


def _cells(errors: list[tf.Tensor], path: str, layer: keras.layers.Layer) -> int:
    """The cells of the output layer."""
    shapes = {tuple(error.shape[1:]) for error in errors}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 1 or None in shape:
        shown = ", ".join(str((None, *s)) for s in shapes)
        raise ValueError(
            f"The last layer '{path}' ({type(layer).__name__}) has outputs of shape {shown}. Under "
            f"{_RULE} it sends one error of a fixed size for each example, (batch, cells): end the "
            "model with pooling or Flatten and a Dense layer, or use 'feedback_alignment', which "
            "has an error for each position."
        )
    return int(shape[0])


def _refuse_unreached(
    call: LayerCall, below: set[int], graph: Any, names: dict[int, str]
) -> None:
    """Raise a ValueError for a layer that no error may come to, or to which none can be sent."""
    output = _tensor(call.outputs)
    path, kind = names[id(call.layer)], type(call.layer).__name__
    if output.graph is not graph:
        raise ValueError(
            f"Layer '{path}' ({kind}) is called inside a loop or a branch of the graph, where "
            f"{_RULE} cannot send it the error of the output layer. Leave it to backprop with a "
            f"pattern: {{'{path}': 'backprop', '*': ...}}."
        )
    if id(output.op) not in below:
        raise ValueError(
            f"No error of the output comes back to layer '{path}' ({kind}): a stop_gradient stands "
            f"behind it, or the output does not depend on it. {_RULE} would teach the layers below "
            f"it all the same: leave it to backprop with a pattern: {{'{path}': 'backprop', '*': "
            "...}."
        )


def _ancestors(tensors: Iterable[tf.Tensor]) -> set[int]:
    """The ids of the operations from which an error of `tensors` comes back."""
    stack, seen = [tensor.op for tensor in tensors], set[int]()
    while stack:
        operation = stack.pop()
        if id(operation) not in seen and operation.type not in ("StopGradient", "PreventGradient"):
            seen.add(id(operation))
            stack.extend(t.op for t in operation.inputs if t.dtype.is_floating)
    return seen


def _tensor(structure: Any) -> tf.Tensor:
    return keras.tree.flatten(structure)[0]


def _told(rule: Any, cells: int, is_output: bool) -> DirectFeedbackAlignment:
    if rule.error_cells not in (None, cells):
        raise ValueError(
            f"The rule {_RULE} was given error_cells={rule.error_cells}, and the output layer has "
            f"{cells} cells. Leave error_cells out: convert_model counts them."
        )
    told: DirectFeedbackAlignment = dataclasses.replace(
        rule, error_cells=cells, is_output=is_output
    )
    return told
