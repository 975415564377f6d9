"""Networks of Keras and KerasCV, narrow enough for small images and few cores."""

from __future__ import annotations

import math
from typing import Any

import keras

from train.errors import UserError


def mobilenet(
    input_shape: tuple[int, ...], output_shape: tuple[int, ...], *, width: float = 0.25
) -> keras.Model:
    """MobileNet (Howard et al. 2017), of depthwise and 1x1 convolutions, which gives logits.

    Args:
        input_shape: (height, width, channels), at least 32 pixels a side.
        output_shape: (logits,).
        width: Times the published number of filters.
    """
    _check_size(input_shape, "mobilenet")
    body = keras.applications.MobileNet(
        input_shape, alpha=width, include_top=False, weights=None, pooling="avg"
    )
    return _with_head(body.input, body.output, output_shape, "mobilenet")


def densenet(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    blocks: tuple[int, ...] = (2, 4, 4, 2),
    growth: int = 16,
) -> keras.Model:
    """DenseNet (Huang et al. 2017), every layer of which sees all before it; it gives logits.

    Args:
        input_shape: (height, width, channels), at least 32 pixels a side.
        output_shape: (logits,).
        blocks: Pairs of convolutions in each dense block; of the published DenseNet-121: 6, 12, 24
            and 16.
        growth: Channels that each pair adds; published: 32.
    """
    _check_size(input_shape, "densenet")
    from keras_cv.models import DenseNetBackbone  # takes seconds, and no other model needs it

    body = DenseNetBackbone(
        stackwise_num_repeats=list(blocks),
        growth_rate=growth,
        include_rescaling=False,
        input_shape=input_shape,
    )
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(body.output)
    return _with_head(body.input, pooled, output_shape, "densenet")


def _with_head(images: Any, features: Any, output_shape: tuple[int, ...], name: str) -> keras.Model:
    logits = keras.layers.Dense(math.prod(output_shape), name="head")(features)
    return keras.Model(images, logits, name=name)


def _check_size(input_shape: tuple[int, ...], name: str) -> None:
    if len(input_shape) != 3 or min(input_shape[:2]) < 32:
        raise UserError(
            f"model={name} is given inputs of shape {input_shape}. Expected images of at least 32 "
            f"pixels a side, and channels: data.image_size enlarges smaller ones."
        )
