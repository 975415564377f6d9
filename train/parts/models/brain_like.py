"""A network of what Akrout et al. 2019 name for more brain-like ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from tfweightmirror.layers import LocallyConnected2D
from train.errors import UserError
from train.parts.models.layers import activated, check_activation


def brain_like(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    filters: tuple[int, ...] = (8, 16, 16),
    strides: tuple[int, ...] = (2, 2, 2),
    activation: str = "rectified_tanh",
    incoming_norm: float | None = 2.0,
) -> keras.Model:
    """Local connections that share no weights, a bounded activation, synaptic scaling.

    Akrout et al. 2019 (section 6): "more brain-like implementations would have to replace BatchNorm
    with some kind of synaptic scaling, ReLU with a bounded function such as rectified tanh, and
    convolution with non-weight-sharing local connections". Sizes and norm are ours, and that the
    scaling is to a norm, not to a rate of firing.

    Args:
        input_shape: (height, width, channels).
        output_shape: (logits,).
        filters: Cells of each layer at every position, which see a field of 3x3.
        strides: Pixels between the fields of each layer; one for each of `filters`.
        activation: Keras name of the activation, or rectified_tanh, mixed_relu,
            saturated_linear or saturated_linear_half (slope 1/2).
        incoming_norm: Synaptic scaling: behind every update each cell scales its incoming weights,
            all by one factor, to this Euclidean norm (a constraint of W, not of B, so
            kolen_pollack refuses it); their first values have it on average. null: norms are free.
    """
    check_activation("model.options.activation", activation)
    if len(filters) != len(strides):
        raise UserError(
            f"model.options of brain_like has {len(filters)} filters and {len(strides)} strides. "
            f"Expected one stride for every layer."
        )
    if incoming_norm is not None and not incoming_norm > 0:
        raise UserError(
            f"model.options.incoming_norm={incoming_norm}. Expected a number above 0, or null."
        )
    x = images = keras.Input(input_shape, name="image")
    for number, (cells, stride) in enumerate(zip(filters, strides, strict=True), start=1):
        x = LocallyConnected2D(
            cells,
            3,
            strides=stride,
            padding="same",
            name=f"local_{number}",
            **_incoming(incoming_norm, axes=(2, 3, 4)),  # of (..positions, ..taps, c_in, cells)
        )(x)
        x = activated(x, activation, f"{activation}_{number}")
    x = keras.layers.Flatten(name="flatten")(x)
    options = _incoming(incoming_norm, axes=(0,))
    logits = keras.layers.Dense(math.prod(output_shape), name="head", **options)(x)
    return keras.Model(images, logits, name="brain_like")


def _incoming(norm: float | None, axes: Sequence[int]) -> dict[str, Any]:
    """How a layer's kernel begins and is held; `axes` are those of one cell's incoming weights."""
    scale = 1.0 if norm is None else norm**2
    options: dict[str, Any] = {
        "kernel_initializer": keras.initializers.VarianceScaling(scale, "fan_in")
    }
    if norm is not None:
        options["kernel_constraint"] = keras.constraints.MinMaxNorm(norm, norm, axis=list(axes))
    return options
