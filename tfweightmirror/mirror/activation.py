"""Which activation a pathway's response passes on its way to the next cells."""

import fnmatch
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfweightmirror._internals import look_hooks
from tfweightmirror._internals.docs import see
from tfweightmirror.layers.activations import SaturatedLinear
from tfweightmirror.mirror.mode import Activation, MirrorMode
from tfweightmirror.pathway import Pathway

# What may stand between a layer and its activation: in most networks a convolution, BatchNorm and
# ReLU are three layers. Its own effect (an affine map per cell, a sum with a silent shortcut) is
# left out of the response.
_PASSED = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Add,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
)
_ACTIVATION_LAYERS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    SaturatedLinear,
)


def activations_of(pathways: Iterable[Pathway], mode: MirrorMode) -> dict[str, Activation | None]:
    """The activation of each pathway, by name; None throughout unless `through_activation`.

    It is the one that `mode.activations` names; else the layer's own; else what stands first on
    every way from the layer through the graph, past normalization, dropout, pooling and sums, if
    that is an elementwise activation of Keras and the same one throughout. The linear response
    counts for a layer that the model never calls.

    Raises:
        ValueError: A pathway has none, or one that is not elementwise.
    """
    pathways = list(pathways)
    if not mode.through_activation:
        return dict.fromkeys(pathway.name for pathway in pathways)
    found: dict[str, Activation | None] = {}
    missing = []
    for pathway in pathways:
        activation = _named(pathway, mode) or pathway.activation or _behind(pathway.layer)
        if activation is None:
            missing += [pathway.name] * (pathway.called is not False)
        elif not _is_elementwise(activation):
            raise ValueError(
                f"through_activation needs an elementwise activation, but that of pathway "
                f"'{pathway.name}' ({_name(activation)}) mixes cells. Name another one: "
                f"activations={{'{pathway.name}': 'linear'}}."
                + see("an-activation-that-mixes-cells")
            )
        found[pathway.name] = activation
    if missing:
        raise ValueError(
            f"through_activation found no activation behind {', '.join(map(repr, missing))} (one "
            "elementwise activation, the same on every way through the graph). "
            f"Name one for each, by pattern: activations={{{missing[0]!r}: 'linear'}} listens to "
            "the linear response." + see("no-activation-to-listen-behind")
        )
    return found


def _named(pathway: Pathway, mode: MirrorMode) -> Activation | None:
    for pattern, activation in mode.activations:
        if fnmatch.fnmatchcase(pathway.name, pattern):
            function: Activation = keras.activations.get(activation)
            return function
    return None


def _behind(layer: Any) -> Activation | None:
    """The activation that follows `layer` in its functional graph, or None."""
    found: dict[Any, Activation | None] = {}
    stack, seen = _consumers(layer), set()
    while stack:
        operation = stack.pop()
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        if isinstance(operation, _PASSED) or type(operation).__name__ == "Add":
            stack.extend(_consumers(operation))
        elif isinstance(operation, keras.layers.Activation):
            found[operation.activation] = operation.activation
        elif isinstance(operation, _ACTIVATION_LAYERS):
            options = {**operation.get_config(), "name": None}
            found[type(operation), repr(options)] = operation
        elif look_hooks.is_activation(operation):
            found[type(operation), look_hooks.options_of(operation)] = operation
        else:
            found[None] = None
    return next(iter(found.values())) if len(found) == 1 else None


def _consumers(operation: Any) -> list[Any]:
    return [node.operation for node in getattr(operation, "_outbound_nodes", ())]


def _is_elementwise(activation: Activation) -> bool:
    """Whether each cell's output depends on that cell alone, seen on a few values."""
    values = np.array([-1.7, -0.3, 0.4, 2.1], "float32")
    # In row i all cells but cell i have other values.
    changed = np.where(np.eye(4, dtype=bool), values, values + 0.7).astype("float32")
    rows = np.concatenate([values[None], changed])
    answers = np.asarray(activation(keras.ops.convert_to_tensor(rows)))
    if answers.shape != rows.shape:
        return False
    return np.allclose(np.diagonal(answers[1:]), answers[0], atol=1e-6)


def _name(activation: Any) -> str:
    return getattr(activation, "__name__", None) or type(activation).__name__
