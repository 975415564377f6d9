"""The multilayer perceptron."""

from __future__ import annotations

from typing import Any

import keras

from train.config import MlpConfig
from train.errors import UserError


def mlp(options: MlpConfig, image_shape: tuple[int, int, int], *, num_classes: int) -> Any:
    """Hidden dense layers and a dense head that gives logits.

    Args:
        options: Cells and activation of the hidden layers.
        image_shape: (height, width, channels).
        num_classes: Logits.
    """
    try:
        keras.activations.get(options.activation)
    except ValueError as error:
        raise UserError(
            f"model.mlp.activation={options.activation} is not known. Expected the name of a Keras "
            f"activation, such as relu, tanh or sigmoid."
        ) from error
    images = keras.Input(image_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(images)
    for number, units in enumerate(options.units, start=1):
        x = keras.layers.Dense(
            units,
            activation=options.activation,
            name=f"hidden_{number}",
            **_initializers(options, x.shape[-1] + units),
        )(x)
    head = _initializers(options, x.shape[-1] + num_classes)
    logits = keras.layers.Dense(num_classes, name="head", **head)(x)
    return keras.Model(images, logits, name="mlp")


def _initializers(options: MlpConfig, fans: int) -> dict[str, Any]:
    """Of kernel and bias; `fans` is fan-in + fan-out."""
    if options.initializer == "glorot_uniform":
        return {}
    return {
        f"{name}_initializer": keras.initializers.RandomNormal(stddev=fans**-0.5)
        for name in ("kernel", "bias")
    }
