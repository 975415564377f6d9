"""A sparse autoencoder of dense layers."""

from __future__ import annotations

import math
from typing import Any

import keras

from train.parts.models.layers import initializer_of


def autoencoder(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    units: tuple[int, ...] = (100, 100),
    activation: str = "sigmoid",
    sparsity: float = 1e-4,
    initializer: str = "glorot_uniform",
) -> keras.Model:
    """Hidden dense layers whose activity is penalized, and a dense head that gives the inputs.

    Khandwala and Bedi (section 2.6) have two hidden layers; widths, activation and penalty are not
    stated. For `data.target=inputs` and a loss of values.

    Args:
        input_shape: Of one image or row of values.
        output_shape: The same.
        units: Cells of each hidden layer.
        activation: Keras name of the hidden activation.
        sparsity: Times the sum of the activities of an example (L1), beside the loss.
        initializer: Keras name of the initializer of weights.
    """
    inputs = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(inputs)
    for number, cells in enumerate(units, start=1):
        x = keras.layers.Dense(
            cells,
            activation=activation,
            kernel_initializer=initializer_of(initializer),
            activity_regularizer=keras.regularizers.L1(sparsity) if sparsity else None,
            name=f"hidden_{number}",
        )(x)
    outputs: Any = keras.layers.Dense(
        math.prod(output_shape), kernel_initializer=initializer_of(initializer), name="head"
    )(x)
    if len(output_shape) != 1:
        outputs = keras.layers.Reshape(output_shape, name="reshape")(outputs)
    return keras.Model(inputs, outputs, name="autoencoder")
