"""What several networks share: checks, initializers, BatchNorm and its options."""

from __future__ import annotations

from typing import Any

import keras

from train.errors import UserError


def check_activation(key: str, name: str) -> None:
    """Raises UserError unless Keras has an activation of that name."""
    try:
        keras.activations.get(name)
    except ValueError as error:
        raise UserError(
            f"{key}={name} is not known. Expected the name of a Keras activation, such as relu, "
            f"tanh or sigmoid."
        ) from error


def fan_initializers(name: str, fans: int) -> dict[str, Any]:
    """Initializers of kernel and bias; `fans` is fan-in + fan-out."""
    if name == "akrout2019_code":
        return {
            f"{which}_initializer": keras.initializers.RandomNormal(stddev=fans**-0.5)
            for which in ("kernel", "bias")
        }
    return {"kernel_initializer": name}


def normalized(x: Any, name: str, scale: bool, momentum: float, **options: Any) -> Any:
    """BatchNorm of `x`; without `scale` it has neither gamma nor beta."""
    norm = keras.layers.BatchNormalization(
        momentum=momentum, scale=scale, center=scale, name=name, **options
    )
    return norm(x)
