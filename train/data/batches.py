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
from train.data.splits import Plan, Share, Split
from train.errors import UserError

BATCHES_AHEAD = 2


def steps_per_epoch(data: DataSet, batch_size: int) -> int:
    """Whole batches in one pass over the training examples.

    Raises:
        UserError: If there is none.
    """
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
    """Training batches of the steps `first_step`, ..., `last_step - 1`.

    Batches are whole: an uneven one would change the gradient's scale. The examples that an epoch
    leaves over change from epoch to epoch with its order.

    Returns:
        A `tf.data.Dataset` of (inputs (batch_size / replicas_in_all, *input_shape) float32,
        targets: classes (same,) int32, or values (same, *output_shape) float32): step after step,
        and in a step replica after replica.
    """
    plan = Plan(
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch(data, batch_size),
        first_step=first_step,
        last_step=last_step,
        order_seed=seed if config.shuffle else None,
        share=share,
    )
    is_resized = config.augmentation == "random_resized_crop"

    def random_part(image: Any, position: Any) -> Any:
        size, _, channels = data.input_shape
        key = images.place_key(seed, position // batch_size, position % batch_size)
        return images.random_resized_crop(image, key, size=size, channels=channels)

    def inputs_and_targets(batch: Any, position: Any) -> tuple[Any, Any]:
        inputs, targets = batch
        inputs = data.normalization(inputs)
        if config.augmentation != "none":
            inputs = images.pad_crop_flip(
                inputs,
                position % batch_size,
                images.step_key(seed, position[0] // batch_size),
                batch_size=batch_size,
                pad=0 if is_resized else config.pad,
            )
        return inputs, data.target.prepared(targets, inputs)

    view = random_part if is_resized else _whole_or_middle(data, data.train)
    return _ahead(data.train.batches(plan, view), inputs_and_targets, share)


def evaluation_batches(data: DataSet, batch_size: int, share: Share = Share()) -> Any:
    """Every test example once with weight 1, in order, and padding of weight 0.

    All batches are whole, so that no replica is left without rows and all shapes are static.
    Images of sets with an `image_size` are cropped in the middle, once.

    Returns:
        A `tf.data.Dataset` of (inputs, targets, weights (batch_size / replicas_in_all,) float32).
    """
    steps = evaluation_steps(data, batch_size)

    def with_weights(batch: Any, position: Any) -> tuple[Any, Any, Any]:
        inputs = data.normalization(batch[0])
        weights = tf.cast(position < data.test.count, tf.float32)
        return inputs, data.target.prepared(batch[1], inputs), weights

    plan = Plan(batch_size, steps, steps, share=share)
    return _ahead(data.test.batches(plan, _whole_or_middle(data, data.test)), with_weights, share)


def _whole_or_middle(data: DataSet, split: Split) -> Callable[[Any, Any], Any] | None:
    """What the model sees of an image without a random crop; null: it needs no look at each."""

    def view(image: Any, _: Any) -> Any:
        pixels = images.decode(image, data.input_shape[-1])
        if data.image_size is None:
            return tf.ensure_shape(pixels, data.input_shape)
        return images.single_crop(pixels, data.image_size)

    return None if data.image_size is None and split.open is None else view


def _ahead(batches: Any, function: Callable[..., Any], share: Share) -> Any:
    mapped = batches.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return mapped.prefetch(BATCHES_AHEAD * share.replicas)
