"""Batches as functions of the seed and the training step, so that any run can be entered anywhere.

What stands at place p of the whole training is a function of (seed, p) alone, whatever the number
of replicas: the example, its crop and whether it is flipped. No stream has to be replayed, and any
step is entered in the same time (what can only be streamed apart, see `splits.streamed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from train.config import DataConfig
from train.data import images
from train.data.datasets import DataSet
from train.data.splits import Plan, Share, Split, View, mapped
from train.errors import UserError

BATCHES_AHEAD = 2


def steps_per_epoch(data: DataSet, batch_size: int) -> int:
    """Whole batches in one pass over the training examples."""
    if batch_size > data.train.count:
        raise UserError(
            f"training.batch_size is {batch_size}, but {data.name} has {data.train.count} "
            f"training examples. Expected at most that many."
        )
    return data.train.count // batch_size


def evaluation_steps(data: DataSet, batch_size: int) -> int:
    """Global batches in one pass over the test examples."""
    return -(-data.test.count // batch_size)


def training_batches(
    data: DataSet,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    share: Share = Share(),
) -> Any:
    """Training batches of the steps `first_step`, ..., `last_step - 1` over the whole training.

    Batches are whole: an uneven one would change the gradient's scale. The examples that an epoch
    leaves over change from epoch to epoch with its order.

    Returns:
        A `tf.data.Dataset` of (inputs (batch_size / replicas_in_all, *input_shape) float32,
        targets: classes (same,) int32, values (same, *output_shape) float32, or boxes (same, n, 5)
        float32): step after step, and in a step replica after replica.
    """
    epoch_steps, order_seed = steps_per_epoch(data, batch_size), seed if config.shuffle else None
    plan = Plan(batch_size, epoch_steps, last_step, first_step, order_seed, share)
    is_resized = config.augmentation == "random_resized_crop"

    def random_part(image: Any, target: Any, position: Any) -> tuple[Any, Any]:
        size, _, channels = data.input_shape
        key = images.key_of(seed, position // batch_size, position % batch_size)
        return images.random_resized_crop(image, key, size=size, channels=channels), target

    def inputs_and_targets(batch: Any, position: Any) -> tuple[Any, Any]:
        inputs, targets = data.normalization(batch[0]), batch[1]
        if config.augmentation != "none":
            place, key = position % batch_size, images.key_of(seed, position[0] // batch_size)
            pad = config.pad if config.augmentation == "pad_crop_flip" else 0
            inputs = images.pad_crop_flip(inputs, place, key, batch_size=batch_size, pad=pad)
            if data.target.kind == "boxes":
                flipped = images.are_flipped(place, key, batch_size)
                boxes = images.flipped_boxes(tf.cast(targets["boxes"], tf.float32), flipped)
                targets = targets | {"boxes": boxes}
        return inputs, data.target.prepared(targets, inputs)

    view = random_part if is_resized else _whole_or_middle(data, data.train)
    return _made(data.train.batches(plan, view), inputs_and_targets, share)


def evaluation_batches(data: DataSet, batch_size: int, share: Share = Share()) -> Any:
    """Every test example once with weight 1, in order, and padding of weight 0.

    All batches are whole, so that no replica is left without rows and all shapes are static.

    Returns:
        A `tf.data.Dataset` of (inputs, targets, weights (batch_size / replicas_in_all,) float32).
    """

    def with_weights(batch: Any, position: Any) -> tuple[Any, Any, Any]:
        inputs = data.normalization(batch[0])
        weights = tf.cast(position < data.test.count, tf.float32)
        return inputs, data.target.prepared(batch[1], inputs), weights

    steps = evaluation_steps(data, batch_size)
    plan = Plan(batch_size, steps, steps, share=share)
    return _made(data.test.batches(plan, _whole_or_middle(data, data.test)), with_weights, share)


def _whole_or_middle(data: DataSet, split: Split) -> View | None:
    """What is seen of an image that is not cropped at random; null: it needs no look at each."""

    def view(image: Any, target: Any, _: Any) -> tuple[Any, Any]:
        pixels = images.decode(image, data.input_shape[-1])
        if data.image_size is None:
            return tf.ensure_shape(pixels, data.input_shape), target
        if data.target.kind == "boxes":
            boxes, around = tf.cast(target["boxes"], tf.float32), data.normalization.offset
            pixels, boxes = images.fitted(pixels, boxes, data.image_size, around=around)
            return tf.ensure_shape(pixels, data.input_shape), target | {"boxes": boxes}
        return images.single_crop(pixels, data.image_size), target

    return None if data.image_size is None and split.open is None else view


def _made(batches: Any, function: Callable[..., Any], share: Share) -> Any:
    return mapped(batches, function).prefetch(BATCHES_AHEAD * share.replicas)
