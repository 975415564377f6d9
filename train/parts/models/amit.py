"""The networks of Amit 2018 (arXiv text, section 4), for images of 32x32 pixels.

`deepnet` is announced there, but its list of layers is neither in the text nor in the repository:
it cannot be had.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from train.parts.models.layers import activated, check_activation, initializer_of


class _Builder:
    """The parts, which share activation, initializer and whether they have biases."""

    def __init__(self, activation: str, initializer: str, use_bias: bool) -> None:
        check_activation("model.options.activation", activation)
        self.activation = activation
        self.initializer = initializer
        self.use_bias = use_bias

    def options(self, name: str) -> dict[str, Any]:
        initializer = initializer_of(self.initializer)
        return {"use_bias": self.use_bias, "kernel_initializer": initializer, "name": name}

    def conv(self, x: Any, filters: int, size: int, name: str) -> Any:
        x = keras.layers.Conv2D(filters, size, padding="same", **self.options(name))(x)
        return activated(x, self.activation, f"{name}_activation")

    def pair(self, x: Any, filters: int, size: int, name: str) -> Any:
        """Two convolutions, the second fed by the first, and the sum of their outputs."""
        a = self.conv(x, filters, size, f"{name}_a")
        b = self.conv(a, filters, size, f"{name}_b")
        return keras.layers.Add(name=f"{name}_sum")([a, b])

    def pool(self, x: Any, size: int, strides: int, name: str) -> Any:
        return keras.layers.MaxPooling2D(size, strides=strides, padding="same", name=name)(x)

    def dropped(self, x: Any, share: float, name: str) -> Any:
        return keras.layers.Dropout(share, name=name)(x) if share else x

    def dense(self, x: Any, units: int) -> Any:
        x = keras.layers.Dense(units, **self.options("dense"))(keras.layers.Flatten()(x))
        return activated(x, self.activation, "dense_activation")

    def model(self, images: Any, x: Any, output_shape: tuple[int, ...], name: str) -> keras.Model:
        logits = keras.layers.Dense(math.prod(output_shape), **self.options("head"))(x)
        return keras.Model(images, logits, name=name)


def simpnet(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    filters: int = 32,
    units: int = 500,
    activation: str = "saturated_linear",
    dropout: tuple[float, float] = (0.8, 0.3),
    initializer: str = "glorot_uniform",
    use_bias: bool = False,
) -> keras.Model:
    """A 5x5 convolution, pooling, a hidden dense layer and a dense head (Amit 2018, simpnet).

    Args:
        input_shape: (height, width, channels).
        output_shape: (logits,).
        filters: Of the convolution; published: 32.
        units: Of the hidden dense layer; published: 500.
        activation: Keras name, or saturated_linear (the paper's), saturated_linear_half (of the
            released code, slope 1/2) or mixed_relu.
        dropout: Shares that are dropped before and after the hidden dense layer.
        initializer: Keras name of the initializer of all weights; that of the code is Glorot's.
        use_bias: The code has no biases.
    """
    build = _Builder(activation, initializer, use_bias)
    images = keras.Input(input_shape, name="image")
    x = build.pool(build.conv(images, filters, 5, "conv"), 3, 2, "pool")
    x = build.dense(build.dropped(x, dropout[0], "dropout_1"), units)
    return build.model(images, build.dropped(x, dropout[1], "dropout_2"), output_shape, "simpnet")


def deepernet(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    filters: int = 16,
    units: int = 500,
    activation: str = "saturated_linear",
    dropout: tuple[float, float] = (0.5, 0.8),
    initializer: str = "glorot_uniform",
    use_bias: bool = False,
) -> keras.Model:
    """Four pairs of 3x3 convolutions, summed, and a hidden dense layer (Amit 2018, deepernet).

    Args:
        input_shape: (height, width, channels).
        output_shape: (logits,).
        filters: Of the first pair, the others have 2, 4 and 8 times as many; published: 16.
        units: Of the hidden dense layer; published: 500.
        activation: As of `simpnet`.
        dropout: Shares that are dropped after the second pair, and before the dense layer.
        initializer: As of `simpnet`.
        use_bias: The code has no biases.
    """
    build = _Builder(activation, initializer, use_bias)
    x = images = keras.Input(input_shape, name="image")
    x = build.pair(x, filters, 3, "pair_1")
    x = build.pool(build.pair(x, 2 * filters, 3, "pair_2"), 3, 2, "pool_2")
    x = build.dropped(x, dropout[0], "dropout_1")
    for number in (3, 4):
        x = build.pair(x, 2 ** (number - 1) * filters, 3, f"pair_{number}")
        x = build.pool(x, 3, 2, f"pool_{number}")
    x = build.dense(build.dropped(x, dropout[1], "dropout_2"), units)
    return build.model(images, x, output_shape, "deepernet")


def deepernet_s(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    filters: int = 16,
    units: int = 500,
    activation: str = "saturated_linear",
    dropout: tuple[float, float] = (0.5, 0.5),
    initializer: str = "glorot_uniform",
    use_bias: bool = False,
) -> keras.Model:
    """Three pairs of convolutions, summed, and a hidden dense layer (Amit 2018, deepernet_s).

    Args:
        input_shape: (height, width, channels).
        output_shape: (logits,).
        filters: Of the first pair, the others have 4 times as many; published: 16.
        units: Of the hidden dense layer; published: 500.
        activation: As of `simpnet`.
        dropout: Shares that are dropped after the first pair, and before the dense layer.
        initializer: As of `simpnet`.
        use_bias: The code has no biases.
    """
    build = _Builder(activation, initializer, use_bias)
    x = images = keras.Input(input_shape, name="image")
    x = build.pool(build.pair(x, filters, 3, "pair_1"), 3, 3, "pool_1")
    x = build.dropped(x, dropout[0], "dropout_1")
    x = build.pool(build.pair(x, 4 * filters, 3, "pair_2"), 2, 2, "pool_2")
    x = build.pool(build.pair(x, 4 * filters, 2, "pair_3"), 2, 2, "pool_3")
    x = build.dense(build.dropped(x, dropout[1], "dropout_2"), units)
    return build.model(images, x, output_shape, "deepernet_s")
