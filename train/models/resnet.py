"""ResNet-18 (He et al. 2016) as an ordinary Keras functional model."""

from __future__ import annotations

from typing import Any

import keras

from train.config import ResNetConfig

BLOCKS_PER_STAGE = (2, 2, 2, 2)


def resnet18(options: ResNetConfig, image_shape: tuple[int, int, int], *, num_classes: int) -> Any:
    """ResNet-18 of a given width, which gives logits.

    With BatchNorm before ReLU it is the published network. With BatchNorm after ReLU every
    normalisation follows the activation (or, after the sum, the block's last activation), the
    convolutions have biases, and the projection has no normalisation of its own. The papers that
    use this order do not draw their block; this is the plainest reading.

    Args:
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
    for stage, blocks in enumerate(BLOCKS_PER_STAGE, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            filters = options.width * 2 ** (stage - 1)
            x = build.basic_block(x, filters, strides=strides, name=f"stage_{stage}_block_{block}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(num_classes, name="head")(x)
    return keras.Model(images, logits, name="resnet18")


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

    def basic_block(self, x: Any, filters: int, *, strides: int, name: str) -> Any:
        shortcut = x
        y = self.conv(x, filters, 3, strides=strides, name=f"{name}_a")
        y = self.activate(y, name=f"{name}_a")
        y = self.conv(y, filters, 3, name=f"{name}_b")
        if strides != 1 or x.shape[-1] != filters:
            shortcut = self.conv(x, filters, 1, strides=strides, name=f"{name}_shortcut")
            if self.norm_first:
                shortcut = self.norm(shortcut, name=f"{name}_shortcut")
        if self.norm_first:
            total = keras.layers.Add(name=f"{name}_sum")([self.norm(y, name=f"{name}_b"), shortcut])
            return keras.layers.ReLU(name=f"{name}_b_relu")(total)
        return self.activate(keras.layers.Add(name=f"{name}_sum")([y, shortcut]), name=f"{name}_b")
