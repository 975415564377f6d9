"""RetinaNet (Lin et al. 2018) on ResNet-18, as an ordinary Keras functional model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from train.detection import anchors
from train.errors import UserError
from train.parts.models.layers import initializer_of
from train.parts.models.resnet import Builder, backbone, basic_block

PRIOR = 0.01  # probability of an object at the begin


def retinanet(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    width: int = 64,
    filters: int = 256,
    depth: int = 4,
    batch_norm_momentum: float = 0.9,
    initializer: str = "he_normal",
    new_initializer: str = "lin2018",
) -> keras.Model:
    """RetinaNet on ResNet-18: a feature pyramid, and two subnets for classes and boxes.

    For each anchor of `train.detection.anchors` it gives the offsets of a box and the logits of the
    classes. The layers below the pyramid are those of `resnet18` (stem `imagenet`), by name too:
    `init_from.layers: [stem*, stage*]` takes them from a trained classifier. P3 to P5 are summed
    from the top down, P6 is a convolution of the last stage, P7 one of P6. The subnets, 3x3
    convolutions with ReLU between, are the same layers on all levels. The last layers are
    `class_subnet_last` and `box_subnet_last`.

    Args:
        input_shape: (side, side, channels), the side a multiple of 32.
        output_shape: (anchors, 4 + classes).
        width: Filters of the first stage, each later one has twice as many; published: 64.
        filters: Of the pyramid and the subnets; published: 256.
        depth: Convolutions of a subnet before its last layer; published: 4.
        batch_norm_momentum: Of BatchNorm's moving averages, in the stages: nothing else has one.
        initializer: Keras name of the initializer of the stages' weights, or a paper's code's, as
            in `resnet18`.
        new_initializer: The same of pyramid and subnets; `lin2018`: normal, standard deviation
            0.01, too small for few filters. The last layers always start so.
    """
    _check(input_shape, output_shape, {"width": width, "filters": filters, "depth": depth})

    def conv(outputs: int, size: int, name: str, **options: Any) -> keras.layers.Conv2D:
        normal = new_initializer == "lin2018" or name.endswith("_last")
        small = keras.initializers.RandomNormal(stddev=0.01) if normal else None
        start = small or initializer_of(new_initializer)
        return keras.layers.Conv2D(
            outputs, size, padding="same", kernel_initializer=start, name=name, **options
        )

    images = keras.Input(input_shape, name="image")
    parts = Builder("before_relu", True, batch_norm_momentum, initializer)
    stages = backbone(images, parts, basic_block, (2, 2, 2, 2), width=width, large=True)
    levels = _pyramid(stages, conv, filters)
    prior = keras.initializers.Constant(-math.log((1 - PRIOR) / PRIOR))
    found = []
    for subnet, numbers, bias in (("box", 4, "zeros"), ("class", output_shape[1] - 4, prior)):
        layers = [
            conv(filters, 3, f"{subnet}_subnet_{n + 1}", activation="relu") for n in range(depth)
        ]
        last = f"{subnet}_subnet_last"
        layers.append(conv(anchors.AT_A_PLACE * numbers, 3, last, bias_initializer=bias))
        given = []
        for number, x in enumerate(levels, 3):
            for layer in layers:
                x = layer(x)
            shape = (-1, numbers)
            given.append(keras.layers.Reshape(shape, name=f"{subnet}_of_level_{number}")(x))
        found.append(keras.layers.Concatenate(axis=1, name=f"{subnet}_of_all_levels")(given))
    outputs = keras.layers.Concatenate(axis=2, name="outputs")(found)
    return keras.Model(images, outputs, name="retinanet")


def _pyramid(
    stages: list[Any], conv: Callable[..., keras.layers.Conv2D], filters: int
) -> list[Any]:
    """P3 to P7, of the last four stages' outputs."""
    levels: list[Any] = []
    above = None
    for number, stage in zip((5, 4, 3), stages[:0:-1], strict=True):
        x = conv(filters, 1, f"pyramid_{number}_lateral")(stage)
        if above is not None:
            above = keras.layers.UpSampling2D(2, name=f"pyramid_{number}_from_above")(above)
            x = keras.layers.Add(name=f"pyramid_{number}_sum")([x, above])
        above = x
        levels.insert(0, conv(filters, 3, f"pyramid_{number}")(x))
    six = conv(filters, 3, "pyramid_6", strides=2)(stages[-1])
    seven = keras.layers.ReLU(name="pyramid_6_relu")(six)
    return [*levels, six, conv(filters, 3, "pyramid_7", strides=2)(seven)]


def _check(
    input_shape: tuple[int, ...], output_shape: tuple[int, ...], sizes: dict[str, int]
) -> None:
    """Raises UserError for shapes or sizes that no such network has."""
    side = input_shape[0]
    if len(input_shape) != 3 or input_shape[1] != side or side % 32:
        raise UserError(
            f"model=retinanet gets inputs of shape {input_shape}. Expected square images whose "
            f"side is a multiple of 32 pixels: set data.image_size, such as 512."
        )
    if len(output_shape) != 2 or output_shape[0] != anchors.count(side) or output_shape[1] <= 4:
        raise UserError(
            f"model=retinanet is to give outputs of shape {output_shape}. Expected data whose "
            f"targets are boxes: a folder in COCO's layout, a set of TensorFlow Datasets with "
            f"objects, or a function."
        )
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"model.options.{name} is {value}. Expected 1 or more.")
