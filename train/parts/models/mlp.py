"""The multilayer perceptron."""

from __future__ import annotations

import math
from typing import Any

import keras

from train.parts.models.layers import (
    OUR_ACTIVATIONS,
    Statistics,
    activated,
    check_activation,
    fan_initializers,
    normalized,
)


def mlp(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    units: tuple[int, ...] = (500,),
    activation: str = "relu",
    initializer: str = "glorot_uniform",
    batch_norm: bool = False,
    batch_norm_scale: bool = True,
    batch_norm_momentum: float = 0.9,
    batch_norm_statistics: Statistics = "batch",
    dropout: float = 0.0,
) -> keras.Model:
    """Hidden dense layers and a dense head that gives logits.

    Args:
        input_shape: Of one image or row of values.
        output_shape: Of its logits or values.
        units: Cells of each hidden layer.
        activation: Keras name of the hidden activation, or rectified_tanh, mixed_relu,
            saturated_linear or saturated_linear_half (slope 1/2).
        initializer: Keras name of the initializer of weights (biases zero), or `akrout2019_code`:
            weights and biases normal with variance 1 / (fan-in + fan-out), as in the released code.
        batch_norm: Whether BatchNorm stands between each hidden layer and its activation.
        batch_norm_scale: Whether it has gamma and beta.
        batch_norm_momentum: Of its moving averages.
        batch_norm_statistics: What a batch is normalized by in training: its own (`batch`), running
            ones that include it (`running`) or those of earlier batches (`earlier`).
        dropout: Share of hidden cells that are dropped in training.
    """
    check_activation("model.options.activation", activation)
    images = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(images)
    separate = batch_norm or activation in OUR_ACTIVATIONS
    for number, cells in enumerate(units, start=1):
        x = keras.layers.Dense(
            cells,
            activation=None if separate else activation,
            use_bias=not batch_norm,  # it would take it out again
            name=f"hidden_{number}",
            **fan_initializers(initializer, x.shape[-1] + cells),
        )(x)
        if batch_norm:
            x = normalized(
                x,
                f"norm_{number}",
                batch_norm_scale,
                batch_norm_momentum,
                statistics=batch_norm_statistics,
            )
        if separate:
            x = activated(x, activation, f"activation_{number}")
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{number}")(x)
    cells = math.prod(output_shape)
    head = fan_initializers(initializer, x.shape[-1] + cells)
    outputs: Any = keras.layers.Dense(cells, name="head", **head)(x)
    if len(output_shape) != 1:
        outputs = keras.layers.Reshape(output_shape, name="reshape")(outputs)
    return keras.Model(images, outputs, name="mlp")
