"""ResNet-18 and ResNet-50 (He et al. 2016) as ordinary Keras functional models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from train.config import ResNetConfig

# A block: builder, incoming signal, width of the stage, strides, name.
Block = Callable[["_Builder", Any, int, int, str], Any]


def resnet18(options: ResNetConfig, image_shape: tuple[int, int, int], *, num_classes: int) -> Any:
    """Four stages of 2, 2, 2 and 2 basic blocks (two 3x3 convolutions). See `_resnet`."""
    return _resnet("resnet18", basic_block, (2, 2, 2, 2), options, image_shape, num_classes)


def resnet50(options: ResNetConfig, image_shape: tuple[int, int, int], *, num_classes: int) -> Any:
    """Four stages of 3, 4, 6 and 3 bottleneck blocks (1x1, 3x3, 1x1 convolutions). See `_resnet`.

    The stride stands in the 3x3 convolution, as in torchvision ("v1.5"); in the paper it stands in
    the first 1x1. The number of parameters is the same.
    """
    return _resnet("resnet50", bottleneck_block, (3, 4, 6, 3), options, image_shape, num_classes)


def _resnet(
    name: str,
    block: Block,
    blocks_per_stage: tuple[int, ...],
    options: ResNetConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Any:
    """A residual network of a given width, which gives logits.

    With BatchNorm before ReLU it is the published network, and that of Xiao et al. 2018. With
    BatchNorm after ReLU, the order in Akrout et al. 2019, every normalisation follows the
    activation (or, after the sum, the block's last activation), the convolutions have biases, and
    the projection has no normalisation of its own. The block is drawn in an appendix that we do not
    have; this is the plainest reading.

    Args:
        name: Of the model.
        block: Residual block.
        blocks_per_stage: Their number in each stage; a stage has twice the width of the one before.
        options: Width, stem and place of BatchNorm.
        image_shape: (height, width, channels).
        num_classes: Logits.
    """
    build = _Builder(options)
    images = keras.Input(image_shape, name="image")
    if options.stem == "imagenet":
        x = build.conv(images, options.width, 7, strides=2, name="stem")
        x = build.activate(x, name="stem")
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    else:
        x = build.conv(images, options.width, 3, name="stem")
        x = build.activate(x, name="stem")
    for stage, blocks in enumerate(blocks_per_stage, start=1):
        for number in range(1, blocks + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            width = options.width * 2 ** (stage - 1)
            x = block(build, x, width, strides, f"stage_{stage}_block_{number}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(num_classes, name="head")(x)
    return keras.Model(images, logits, name=name)


class _Builder:
    """The parts of the network, which share the place of BatchNorm."""

    def __init__(self, options: ResNetConfig) -> None:
        self.norm_first = options.batch_norm == "before_relu"

    def conv(self, x: Any, filters: int, size: int, *, strides: int = 1, name: str) -> Any:
        return keras.layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            use_bias=not self.norm_first,  # a BatchNorm right behind it would take it out again
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)

    def norm(self, x: Any, *, name: str) -> Any:
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)

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


def basic_block(build: _Builder, x: Any, width: int, strides: int, name: str) -> Any:
    """3x3 and 3x3."""
    y = build.conv(x, width, 3, strides=strides, name=f"{name}_a")
    y = build.activate(y, name=f"{name}_a")
    y = build.conv(y, width, 3, name=f"{name}_b")
    return build.add_shortcut(y, x, strides=strides, name=name, last=f"{name}_b")


def bottleneck_block(build: _Builder, x: Any, width: int, strides: int, name: str) -> Any:
    """1x1, 3x3, and 1x1 to four times the width."""
    y = build.conv(x, width, 1, name=f"{name}_a")
    y = build.activate(y, name=f"{name}_a")
    y = build.conv(y, width, 3, strides=strides, name=f"{name}_b")
    y = build.activate(y, name=f"{name}_b")
    y = build.conv(y, 4 * width, 1, name=f"{name}_c")
    return build.add_shortcut(y, x, strides=strides, name=name, last=f"{name}_c")
