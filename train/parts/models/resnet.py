"""ResNet-18 and ResNet-50 (He et al. 2016) as ordinary Keras functional models."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from train.errors import UserError
from train.parts.models.layers import initializer_of, normalized

# A block: builder, incoming signal, width of the stage, strides, name.
Block = Callable[["Builder", Any, int, int, str], Any]


class Builder:
    """The parts of the network, which share BatchNorm, its place and the initializer."""

    def __init__(self, batch_norm: str, scale: bool, momentum: float, initializer: str) -> None:
        self.has_norm = batch_norm != "none"
        self.norm_first = batch_norm == "before_relu"
        self.scale = scale
        self.momentum = momentum
        self.initializer = initializer

    def conv(self, x: Any, filters: int, size: int, *, strides: int = 1, name: str) -> Any:
        return keras.layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            use_bias=not self.norm_first,  # a BatchNorm right behind it would take it out again
            kernel_initializer=initializer_of(self.initializer),
            name=f"{name}_conv",
        )(x)

    def norm(self, x: Any, *, name: str) -> Any:
        if not self.has_norm:
            return x
        return normalized(x, f"{name}_norm", self.scale, self.momentum, epsilon=1e-5)

    def activate(self, x: Any, *, name: str) -> Any:
        """BatchNorm and ReLU, in the chosen order."""
        relu = keras.layers.ReLU(name=f"{name}_relu")
        return relu(self.norm(x, name=name)) if self.norm_first else self.norm(relu(x), name=name)

    def add_shortcut(self, y: Any, x: Any, *, strides: int, name: str, last: str) -> Any:
        """The block's input `x`, projected where shapes differ, added to its branch `y`.

        `last` names the branch's last convolution, whose BatchNorm and ReLU stand here.
        """
        filters = y.shape[-1]
        if strides != 1 or x.shape[-1] != filters:
            x = self.conv(x, filters, 1, strides=strides, name=f"{name}_shortcut")
            if self.norm_first:
                x = self.norm(x, name=f"{name}_shortcut")
        add = keras.layers.Add(name=f"{name}_sum")
        if self.norm_first:
            return keras.layers.ReLU(name=f"{last}_relu")(add([self.norm(y, name=last), x]))
        return self.activate(add([y, x]), name=last)


def basic_block(build: Builder, x: Any, width: int, strides: int, name: str) -> Any:
    """3x3 and 3x3."""
    y = build.conv(x, width, 3, strides=strides, name=f"{name}_a")
    y = build.activate(y, name=f"{name}_a")
    y = build.conv(y, width, 3, name=f"{name}_b")
    return build.add_shortcut(y, x, strides=strides, name=name, last=f"{name}_b")


def bottleneck_block(build: Builder, x: Any, width: int, strides: int, name: str) -> Any:
    """1x1, 3x3, and 1x1 to four times the width."""
    y = build.conv(x, width, 1, name=f"{name}_a")
    y = build.activate(y, name=f"{name}_a")
    y = build.conv(y, width, 3, strides=strides, name=f"{name}_b")
    y = build.activate(y, name=f"{name}_b")
    y = build.conv(y, 4 * width, 1, name=f"{name}_c")
    return build.add_shortcut(y, x, strides=strides, name=name, last=f"{name}_c")


def backbone(
    images: Any, build: Builder, block: Block, stages: Sequence[int], *, width: int, large: bool
) -> list[Any]:
    """What the stages give; `large` images meet 7x7 at stride 2, and max pooling, before them."""
    x = build.conv(images, width, 7 if large else 3, strides=2 if large else 1, name="stem")
    x = build.activate(x, name="stem")
    if large:
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    found = []
    for stage, blocks in enumerate(stages):
        for number in range(blocks):
            strides = 2 if stage > 0 and number == 0 else 1
            place = f"stage_{stage + 1}_block_{number + 1}"
            x = block(build, x, width * 2**stage, strides, place)
        found.append(x)
    return found


def _resnet(name: str, block: Block, stages: Sequence[int], about: str) -> Callable[..., Any]:
    """The function that builds a network, documented by `about` and the options that all have."""

    def build(
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        width: int = 64,
        stem: Literal["cifar", "imagenet"] = "cifar",
        batch_norm: Literal["before_relu", "after_relu", "none"] = "before_relu",
        batch_norm_scale: bool = True,
        batch_norm_momentum: float = 0.9,
        initializer: str = "he_normal",
        head_initializer: str = "glorot_uniform",
    ) -> keras.Model:
        """The network.

        Args:
            input_shape: (height, width, channels).
            output_shape: (logits,).
            width: Filters of the first stage, each later one has twice as many; published: 64.
            stem: `cifar` (one 3x3 convolution) or `imagenet` (7x7, stride 2, and max pooling).
            batch_norm: Whether BatchNorm stands before or after each ReLU, or nowhere.
            batch_norm_scale: Whether it has gamma and beta.
            batch_norm_momentum: Of its moving averages.
            initializer: Keras name of the initializer of the convolutions' weights, or
                `xiao2018_code` (normal, variance 2 / fan-out), `akrout2019_code` (normal, variance
                1 / (fan-in + fan-out): that of its MLPs; its ResNets' is not known) or `pytorch`.
            head_initializer: The same of the classifier's; that of Xiao's code is `pytorch`.
        """
        if width < 1:
            raise UserError(f"model.options.width is {width}. Expected 1 or more.")
        parts = Builder(batch_norm, batch_norm_scale, batch_norm_momentum, initializer)
        images = keras.Input(input_shape, name="image")
        *_, x = backbone(images, parts, block, stages, width=width, large=stem == "imagenet")
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        start = initializer_of(head_initializer)
        logits = keras.layers.Dense(math.prod(output_shape), kernel_initializer=start, name="head")(
            x
        )
        return keras.Model(images, logits, name=name)

    build.__doc__ = str(inspect.getdoc(build)).replace("The network.", about)
    build.__name__ = build.__qualname__ = name
    return build


resnet18 = _resnet(
    "resnet18",
    basic_block,
    (2, 2, 2, 2),
    """Four stages of 2, 2, 2 and 2 basic blocks (two 3x3 convolutions), which give logits.

With BatchNorm before ReLU it is the published network (He et al. 2016), and that of Xiao et al.
2018. With BatchNorm after ReLU, the order in Akrout et al. 2019, every normalisation follows the
activation (or, after the sum, the block's last activation), the convolutions have biases, and the
projection has no normalisation of its own. The block is drawn in an appendix that we do not have;
this is the plainest reading.""",
)

resnet50 = _resnet(
    "resnet50",
    bottleneck_block,
    (3, 4, 6, 3),
    """Four stages of 3, 4, 6 and 3 bottleneck blocks (1x1, 3x3, 1x1 convolutions).

The stride stands in the 3x3 convolution, as in torchvision ("v1.5"); in the paper it stands in the
first 1x1. The number of parameters is the same. For the rest see `resnet18`.""",
)
