"""AlexNet, as Xiao et al. 2018 trained it."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras

from train.parts.models.layers import initializer_of, normalized


def alexnet(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    width: int = 64,
    units: int = 4096,
    stem: Literal["imagenet", "small"] = "imagenet",
    batch_norm_momentum: float = 0.9,
    initializer: str = "pytorch",
) -> keras.Model:
    """Five convolutions and three dense layers, BatchNorm before every ReLU, no dropout.

    torchvision's version (Krizhevsky 2014), changed as section 3.1 of Xiao et al. 2018 says; that
    no bias stands in front of a BatchNorm is of their code.

    Args:
        input_shape: (height, width, channels).
        output_shape: (logits,).
        width: Filters of the first convolution; the others have 3, 6, 4 and 4 times as many.
            Published: 64.
        units: Cells of both hidden dense layers. Published: 4096.
        stem: `imagenet` (11x11, stride 4) or, for images of about 32 pixels, `small` (5x5, stride
            2), which is ours.
        batch_norm_momentum: Of its moving averages.
        initializer: Keras name of the initializer of weights, or `pytorch`, as in their code: its
            default, uniform with variance 1 / (3 fan-in).
    """

    def block(x: Any, layer: keras.layers.Layer, name: str) -> Any:
        x = normalized(layer(x), f"norm_{name}", True, batch_norm_momentum, epsilon=1e-5)
        return keras.layers.ReLU(name=f"relu_{name}")(x)

    def conv(x: Any, number: int, filters: int, size: int, strides: int, pad: int) -> Any:
        # Not `same`: with strides, PyTorch's zeros stand at other places.
        x = keras.layers.ZeroPadding2D(pad, name=f"pad_{number}")(x)
        layer = keras.layers.Conv2D(
            filters,
            size,
            strides=strides,
            use_bias=False,
            kernel_initializer=initializer_of(initializer),
            name=f"conv_{number}",
        )
        return block(x, layer, f"conv_{number}")

    images = keras.Input(input_shape, name="image")
    size, strides, pad = (11, 4, 2) if stem == "imagenet" else (5, 2, 2)
    x = conv(images, 1, width, size, strides, pad)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool_1")(x)
    x = conv(x, 2, 3 * width, 5, 1, 2)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool_2")(x)
    for number, times in enumerate((6, 4, 4), start=3):
        x = conv(x, number, times * width, 3, 1, 1)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool_3")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        layer = keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=initializer_of(initializer),
            name=f"dense_{number}",
        )
        x = block(x, layer, f"dense_{number}")
    head = keras.layers.Dense(
        math.prod(output_shape), kernel_initializer=initializer_of(initializer), name="head"
    )
    return keras.Model(images, head(x), name="alexnet")
