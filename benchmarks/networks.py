"""The networks that costs are measured on: each with the shape of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras

from train.parts.models.resnet import resnet18

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Network:
    """A network for classification.

    Attributes:
        make: Gives the model, with logits.
        input_shape: Of one example.
        batch: Examples in a batch.
    """

    make: Callable[[], keras.Model]
    input_shape: tuple[int, ...]
    batch: int


def mlp() -> keras.Model:
    """784-500-10."""
    layers = [keras.layers.Dense(500, activation="relu"), keras.layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input((784,)), *layers])


def transformer(
    blocks: int = 4, width: int = 128, *, tokens: int = 64, heads: int = 4, classes: int = CLASSES
) -> keras.Model:
    """An encoder: attention and an MLP in every block, the mean over tokens, and logits."""
    x = inputs = keras.Input((tokens, width))
    for block in range(blocks):
        y = keras.layers.LayerNormalization()(x)
        x = x + keras.layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = keras.layers.Dense(4 * width, activation="gelu")(keras.layers.LayerNormalization()(x))
        x = x + keras.layers.Dense(width, name=f"narrow_{block}")(y)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(classes, name="head")(x))


def mobilenet() -> keras.Model:
    """MobileNetV2 on 64x64 images."""
    return keras.applications.MobileNetV2(
        (64, 64, 3), weights=None, classes=CLASSES, classifier_activation=None
    )


NETWORKS = {
    "resnet18": Network(lambda: resnet18((32, 32, 3), (CLASSES,), width=16), (32, 32, 3), 128),
    "resnet18_wide": Network(lambda: resnet18((32, 32, 3), (CLASSES,)), (32, 32, 3), 128),
    "mlp": Network(mlp, (784,), 128),
    "mobilenet": Network(mobilenet, (64, 64, 3), 16),
    "transformer": Network(transformer, (64, 128), 32),
}
