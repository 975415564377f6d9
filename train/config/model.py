"""The network."""

from __future__ import annotations

import dataclasses
from typing import Literal

from train.config.checks import at_least_one
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class SmallConvConfig:
    """Options of `small_conv`: blocks of 3x3 convolution, BatchNorm and ReLU, then a dense head.

    Args:
        filters: Channels of each convolution.
        strides: Pixels between the fields of each convolution; one for each of `filters`.
    """

    filters: tuple[int, ...] = (16, 32, 32)
    strides: tuple[int, ...] = (1, 2, 2)

    def __post_init__(self) -> None:
        at_least_one("model.small_conv.filters", *self.filters)
        at_least_one("model.small_conv.strides", *self.strides)
        if len(self.filters) != len(self.strides):
            raise UserError(
                f"model.small_conv has {len(self.filters)} filters and {len(self.strides)} "
                f"strides. Expected one stride for every convolution."
            )


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """Options of `mlp`: hidden dense layers and a dense head.

    Args:
        units: Cells of each hidden layer.
        activation: Keras name of the hidden activation.
        initializer: Of weights, `glorot_uniform` (biases zero) or `akrout2019_code`: weights and
            biases normal with variance 1 / (fan-in + fan-out), as in the released code.
    """

    units: tuple[int, ...] = (500,)
    activation: str = "relu"
    initializer: Literal["glorot_uniform", "akrout2019_code"] = "glorot_uniform"

    def __post_init__(self) -> None:
        at_least_one("model.mlp.units", *self.units)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Options of `resnet18` and `resnet50`.

    Args:
        width: Filters of the first stage; the published networks have 64.
        stem: `cifar` (one 3x3 convolution) or `imagenet` (7x7, stride 2, and max pooling).
        batch_norm: Whether BatchNorm stands before or after each ReLU.
    """

    width: int = 64
    stem: Literal["cifar", "imagenet"] = "cifar"
    batch_norm: Literal["before_relu", "after_relu"] = "before_relu"

    def __post_init__(self) -> None:
        at_least_one("model.resnet.width", self.width)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Its last layer gives logits.

    Args:
        name: `small_conv`, `mlp`, `resnet18` or `resnet50`; only the options of its kind count.
        small_conv: Of the small convolutional network.
        mlp: Of the multilayer perceptron.
        resnet: Of the residual networks.
    """

    name: str = "small_conv"
    small_conv: SmallConvConfig = SmallConvConfig()
    mlp: MlpConfig = MlpConfig()
    resnet: ResNetConfig = ResNetConfig()
