"""Whose error goes to all layers under direct feedback alignment, and whether it can reach them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.keras_hooks import LayerCall
from tfweightmirror._internals.walk import symbolic_call
from tfweightmirror.conversion import twins
from tfweightmirror.conversion.selection import Member, Target
from tfweightmirror.layers.carries_rule import no_direct_error
from tfweightmirror.layers.direct import crossed, is_direct
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
    ours = {id(layer) for _, layer, rule in targets if isinstance(rule, DirectFeedbackAlignment)}
    if not ours:
        return targets
    for path, layer, _ in targets:
        if id(layer) in ours and not twins.TWINS[type(layer)].hears_output_error:
            raise ValueError(no_direct_error(layer, path))
    _refuse_another(model, members)
    names = {id(layer): path for path, layer in members}
    calls, graph = _calls(model, [layer for _, layer in members if twins.has_twin(layer)])
    last = calls[-1].layer
    path = names[id(last)]
    if id(last) not in ours:
        raise ValueError(
            f"The last layer of model '{model.name}', '{path}' ({type(last).__name__}), is left to "
            f"another rule or to backprop, but under {_RULE} it is the output layer, which sends "
            "its error to all others. Give it the rule, too: its own dW is backprop's anyway."
            + see("the-output-layer-keeps-another-rule")
        )
    of_last = [call for call in calls if call.layer is last]
    cells = _cells(of_last, path)
    _refuse_outputs_beside(model, graph, of_last, path)
    below = _ancestors(_tensor(call.inputs) for call in of_last)
    others = [c for c in calls if id(c.layer) in ours and c.layer is not last]
    _refuse_crossed([c for c in calls if id(c.layer) in ours], last, path)
    for refuse in (_refuse_in_a_loop, _refuse_unreached):
        for call in others:
            refuse(call, names[id(call.layer)], graph, below)
    return [
        (path, layer, _told(rule, cells, is_output=layer is last))
        if isinstance(rule, DirectFeedbackAlignment)
        else (path, layer, rule)
        for path, layer, rule in targets
    ]


def _refuse_another(model: keras.Model, members: list[Member]) -> None:
    """Raise a ValueError if layers hear of an output layer already."""
    for path, layer in members:
        if is_direct(layer):
            raise ValueError(
                f"Layer '{path}' of model '{model.name}' trains by {_RULE} already, and hears of "
                "an output layer of its own. Call strip_feedback(model) first, and convert all "
                "layers together." + see("direct-feedback-alignment", "science")
            )


def _calls(model: keras.Model, layers: list[keras.layers.Layer]) -> tuple[list[LayerCall], Any]:
    """The calls of `layers` in one symbolic call of the model, and its graph."""
    graph = None
    if model.built:
        with keras_hooks.recording_calls_of(layers) as calls:
            graph = symbolic_call(model)
    if graph is None or not calls:
        raise ValueError(
            f"Under {_RULE} the output layer must be known, and model '{model.name}' is not built, "
            "or cannot be called on shapes alone. Build it first, by calling it on data."
            + see("the-model-is-not-built")
        )
    return calls, graph


def _cells(of_last: list[LayerCall], path: str) -> int:
    """The cells of the output layer."""
    shapes = {tuple(_tensor(call.outputs).shape[1:]) for call in of_last}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 1 or None in shape:
        shown = ", ".join(str((None, *shape)) for shape in shapes)
        raise ValueError(
            f"The last layer '{path}' ({type(of_last[0].layer).__name__}) has outputs of shape "
            f"{shown}. Under {_RULE} it sends one error of a fixed size for each example, (batch, "
            "cells): end the model with pooling or Flatten and a Dense layer, or use "
            "'feedback_alignment', under which each position has an error."
            + see("direct-feedback-alignment", "science")
        )
    return int(shape[0])


def _refuse_outputs_beside(
    model: keras.Model, graph: Any, of_last: list[LayerCall], path: str
) -> None:
    """Raise a ValueError if not all outputs come from the output layer."""
    sources = {id(_tensor(call.outputs).op) for call in of_last}
    for output in graph.outputs:
        if _ancestors([output]).isdisjoint(sources):
            raise ValueError(
                f"Model '{model.name}' has an output of shape {tuple(output.shape)} that its last "
                f"layer '{path}' has no part in, and under {_RULE} there is one error, of one "
                "output layer. Convert a model with one output, or use 'feedback_alignment'."
                + see("more-than-one-output")
            )


def _refuse_crossed(calls: list[LayerCall], last: keras.layers.Layer, path: str) -> None:
    """Raise a ValueError if the output layer is called again, and not after the same calls."""
    reached: list[list[int]] = [[]]
    for call in calls:
        reached[-1].append(id(call.layer))
        if call.layer is last:
            reached.append([])
    if any(sorted(one) != sorted(reached[0]) for one in reached[1:-1]):
        raise ValueError(crossed(path))


def _refuse_in_a_loop(call: LayerCall, path: str, graph: Any, below: set[int]) -> None:
    if _tensor(call.outputs).graph is not graph:
        raise ValueError(
            f"Layer '{path}' ({type(call.layer).__name__}) is called inside a loop or a branch of "
            f"the graph, where {_RULE} cannot send it the error of the output layer. Leave it to "
            f"backprop with a pattern: {{'{path}': 'backprop', '*': ...}}."
            + see("direct-feedback-alignment", "science")
        )


def _refuse_unreached(call: LayerCall, path: str, graph: Any, below: set[int]) -> None:
    if id(_tensor(call.outputs).op) not in below:
        raise ValueError(
            f"No error of the output comes back to layer '{path}' ({type(call.layer).__name__}): a "
            f"stop_gradient stands behind it, or the output does not depend on it. {_RULE} would "
            "teach the layers below it all the same: leave it to backprop with a pattern: "
            f"{{'{path}': 'backprop', '*': ...}}." + see("direct-feedback-alignment", "science")
        )


def _ancestors(tensors: Iterable[tf.Tensor]) -> set[int]:
    """The ids of the operations from which an error of `tensors` comes back."""
    stack, seen = [tensor.op for tensor in tensors], set[int]()
    while stack:
        operation = stack.pop()
        if id(operation) not in seen and operation.type not in ("StopGradient", "PreventGradient"):
            seen.add(id(operation))
            # Variants: the lists of tensors that loops keep.
            errors = (t for t in operation.inputs if t.dtype.is_floating or t.dtype == tf.variant)
            stack.extend(tensor.op for tensor in errors)
    return seen


def _tensor(structure: Any) -> tf.Tensor:
    return keras.tree.flatten(structure)[0]


def _told(rule: DirectFeedbackAlignment, cells: int, *, is_output: bool) -> DirectFeedbackAlignment:
    if rule.error_cells not in (None, cells):
        raise ValueError(
            f"The rule {_RULE} was given error_cells={rule.error_cells}, and the output layer has "
            f"{cells} cells. Leave error_cells out: convert_model counts them."
        )
    if rule.is_output and not is_output:
        raise ValueError(
            f"The rule {_RULE} was given is_output=True for layers that are not the last. Leave it "
            "out: convert_model finds the output layer."
        )
    return dataclasses.replace(rule, error_cells=cells, is_output=is_output)
