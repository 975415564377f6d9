"""What several networks share: checks, initializers, BatchNorm and its options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import keras

from tfweightmirror.layers import (
    MixedReLU,
    RunningBatchNormalization,
    SaturatedLinear,
    rectified_tanh,
)
from train.errors import UserError, see

# Names beside Keras' to layers. Amit 2018 has slope 1 in the paper, and 1/2 in the released code;
# MixedReLU is Khandwala and Bedi's; rectified tanh is named by Akrout et al. 2019.
OUR_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "saturated_linear": SaturatedLinear,
    "saturated_linear_half": functools.partial(SaturatedLinear, 0.5),
    "mixed_relu": MixedReLU,
    "rectified_tanh": functools.partial(keras.layers.Activation, rectified_tanh),
}


def check_activation(key: str, name: str) -> None:
    """Raises UserError unless Keras or this module has an activation of that name."""
    if name in OUR_ACTIVATIONS:
        return
    try:
        keras.activations.get(name)
    except ValueError as error:
        raise UserError(
            f"{key}={name} is not known. Expected the name of a Keras activation, such as relu, "
            f"tanh or sigmoid, or one of {', '.join(OUR_ACTIVATIONS)}."
            + see("a-name-that-is-not-known")
        ) from error


def activated(x: Any, activation: str, name: str) -> Any:
    """The activation of `x`, in a layer of that name."""
    if activation in OUR_ACTIVATIONS:
        return OUR_ACTIVATIONS[activation](name=name)(x)
    return keras.layers.Activation(activation, name=name)(x)


def fan_initializers(name: str, fans: int) -> dict[str, Any]:
    """Initializers of kernel and bias; `fans` is fan-in + fan-out."""
    if name == "akrout2019_code":
        return {
            f"{which}_initializer": keras.initializers.RandomNormal(stddev=fans**-0.5)
            for which in ("kernel", "bias")
        }
    return {"kernel_initializer": name}


# Initializers of papers' codes, beside those of Keras: scale, fans, distribution. Weights alone:
# biases are zero.
PAPERS_INITIALIZERS = {
    "xiao2018_code": (2.0, "fan_out", "untruncated_normal"),  # its convolutions
    "akrout2019_code": (0.5, "fan_avg", "untruncated_normal"),  # variance 1 / (fan-in + fan-out)
    "pytorch": (1 / 3, "fan_in", "uniform"),  # the default of 2018: on +-1 / sqrt(fan-in)
}


def initializer_of(name: str) -> keras.initializers.Initializer:
    """A Keras initializer, or one of a paper's code; every call gives one with a seed of its own.

    Raises:
        UserError: None has that name.
    """
    if name in PAPERS_INITIALIZERS:
        scale, fans, distribution = PAPERS_INITIALIZERS[name]
        return keras.initializers.VarianceScaling(scale, mode=fans, distribution=distribution)
    try:
        return keras.initializers.get(name)
    except ValueError as error:
        raise UserError(
            f"model.options.initializer={name} is not known. Expected the name of a Keras "
            f"initializer, such as glorot_uniform, or one of {', '.join(PAPERS_INITIALIZERS)}."
            + see("a-name-that-is-not-known")
        ) from error


# What a batch is normalized by in training.
Statistics = Literal["batch", "running", "earlier"]


def normalized(
    x: Any,
    name: str,
    scale: bool,
    momentum: float,
    *,
    statistics: Statistics = "batch",
    **options: Any,
) -> Any:
    """BatchNorm of `x`; without `scale` it has neither gamma nor beta."""
    options |= {"momentum": momentum, "scale": scale, "center": scale, "name": name}
    if statistics == "batch":
        return keras.layers.BatchNormalization(**options)(x)
    current = statistics == "running"
    return RunningBatchNormalization(include_current=current, **options)(x)
