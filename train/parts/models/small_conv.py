"""A small convolutional network for small images."""

from __future__ import annotations

from typing import Any

import keras

from train.config import SmallConvConfig


def small_conv(
    options: SmallConvConfig, image_shape: tuple[int, int, int], *, num_classes: int
) -> Any:
    """Blocks of 3x3 convolution, BatchNorm and ReLU, then a dense head that gives logits.

    Args:
        options: Channels and stride of every convolution.
        image_shape: (height, width, channels).
        num_classes: Logits.
    """
    x = images = keras.Input(image_shape, name="image")
    for number, (filters, stride) in enumerate(
        zip(options.filters, options.strides, strict=True), start=1
    ):
        x = keras.layers.Conv2D(
            filters,
            3,
            strides=stride,
            padding="same",
            use_bias=False,  # BatchNorm has its own
            kernel_initializer="he_normal",
            name=f"conv_{number}",
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    logits = keras.layers.Dense(num_classes, name="head")(x)
    return keras.Model(images, logits, name="small_conv")
