"""A small convolutional network for small images."""

from __future__ import annotations

import math

import keras

from train.errors import UserError
from train.parts.models.layers import Statistics, activated, check_activation, normalized


def small_conv(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    filters: tuple[int, ...] = (16, 32, 32),
    strides: tuple[int, ...] = (1, 2, 2),
    activation: str = "relu",
    initializer: str = "he_normal",
    batch_norm: bool = True,
    batch_norm_scale: bool = True,
    batch_norm_momentum: float = 0.9,
    batch_norm_statistics: Statistics = "batch",
    dropout: float = 0.0,
) -> keras.Model:
    """Blocks of 3x3 convolution, BatchNorm and ReLU, then a dense head that gives logits.

    Args:
        input_shape: (height, width, channels).
        output_shape: (logits,).
        filters: Channels of each convolution.
        strides: Pixels between the fields of each convolution; one for each of `filters`.
        activation: Keras name of the activation, or rectified_tanh, mixed_relu,
            saturated_linear or saturated_linear_half (slope 1/2).
        initializer: Keras name of the initializer of the convolutions' weights.
        batch_norm: Whether BatchNorm stands between a convolution and its activation.
        batch_norm_scale: Whether it has gamma and beta.
        batch_norm_momentum: Of its moving averages.
        batch_norm_statistics: What a batch is normalized by in training: its own (`batch`), running
            ones that include it (`running`) or those of earlier batches (`earlier`).
        dropout: Share of the head's inputs that are dropped in training.
    """
    check_activation("model.options.activation", activation)
    if len(filters) != len(strides):
        raise UserError(
            f"model.options of small_conv has {len(filters)} filters and {len(strides)} strides. "
            f"Expected one stride for every convolution."
        )
    x = images = keras.Input(input_shape, name="image")
    for number, (channels, stride) in enumerate(zip(filters, strides, strict=True), start=1):
        x = keras.layers.Conv2D(
            channels,
            3,
            strides=stride,
            padding="same",
            use_bias=not batch_norm,  # it would take it out again
            kernel_initializer=initializer,
            name=f"conv_{number}",
        )(x)
        if batch_norm:
            x = normalized(
                x,
                f"norm_{number}",
                batch_norm_scale,
                batch_norm_momentum,
                statistics=batch_norm_statistics,
            )
        x = activated(x, activation, f"{activation}_{number}")
    x = keras.layers.Flatten(name="flatten")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = keras.layers.Dense(math.prod(output_shape), name="head")(x)
    return keras.Model(images, logits, name="small_conv")
