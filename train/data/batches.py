"""Batches as functions of the seed and the training step, so that any run can be entered anywhere.

What stands at place p of the whole training is a function of (seed, p) alone, whatever the number
of replicas: the example, its crop and whether it is flipped. No stream has to be replayed, and any
step is entered in the same time (what can only be streamed apart, see `splits.Streamed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from train.config import DataConfig
from train.data import augmentation, decoding
from train.data.datasets import DataSet
from train.data.plan import WHOLE_BATCH, Example, Plan, Share
from train.data.splits import Split
from train.errors import UserError

__all__ = [
    "Share",
    "evaluation_batches",
    "evaluation_steps",
    "steps_per_epoch",
    "training_batches",
]

BATCHES_AHEAD = 2


def steps_per_epoch(data: DataSet, batch_size: int) -> int:
    """Whole batches in one pass over the training examples.

    Raises:
        UserError: If there is none.
    """
    if batch_size > data.train_count:
        raise UserError(
            f"training.batch_size is {batch_size}, but {data.name} has {data.train_count} "
            f"training examples. Expected at most that many."
        )
    return data.train_count // batch_size


def training_batches(
    data: DataSet,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    share: Share = WHOLE_BATCH,
) -> Any:
    """Training batches of the steps `first_step`, ..., `last_step - 1`.

    Batches are whole: an uneven one would change the gradient's scale. The examples that an epoch
    leaves over change from epoch to epoch with its order.

    Args:
        data: The data set.
        config: Shuffling and augmentation.
        batch_size: Examples in a global batch, a multiple of the replicas.
        seed: Of order and augmentation.
        first_step: Counted from 0 over the whole training.
        last_step: The step to stop before.
        share: The rows to make.

    Returns:
        A `tf.data.Dataset` of (inputs (batch_size / replicas_in_all, *input_shape) float32,
        targets: classes (same,) int32, or values (same, *output_shape) float32): step after step,
        and in a step replica after replica.

    Raises:
        UserError: If there are fewer examples than `batch_size`.
    """
    plan = Plan(
        count=data.train_count,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch(data, batch_size),
        first_step=first_step,
        last_step=last_step,
        order_seed=seed if config.shuffle else None,
        share=share,
    )

    def inputs_and_targets(batch: Example) -> tuple[Any, Any]:
        key = augmentation.step_key(seed, batch.step[0])
        inputs, targets = batch.record
        pixels = data.normalization(inputs)
        if config.augmentation == "pad_crop_flip":
            pixels = augmentation.pad_crop_flip(
                pixels, batch.place, key, batch_size=batch_size, pad=config.pad
            )
        elif config.augmentation == "random_resized_crop":
            pixels = augmentation.random_flip(pixels, batch.place, key, batch_size=batch_size)
        return pixels, data.target.prepared(targets, pixels)

    batches = _replica_batches(data.train, plan, _training_view(data, config, seed))
    mapped = batches.map(
        inputs_and_targets, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return mapped.prefetch(BATCHES_AHEAD * share.replicas)


def evaluation_batches(data: DataSet, batch_size: int, share: Share = WHOLE_BATCH) -> Any:
    """Every test example once with weight 1, in order, and padding of weight 0.

    All batches are whole, so that no replica is left without rows and all shapes are static.
    Images of sets with an `image_size` are cropped in the middle, once.

    Args:
        data: The data set.
        batch_size: Examples in a global batch, a multiple of the replicas.
        share: The rows to make.

    Returns:
        A `tf.data.Dataset` of (inputs, targets, weights (batch_size / replicas_in_all,) float32).
    """
    steps = evaluation_steps(data, batch_size)
    plan = Plan(
        count=data.test_count,
        batch_size=batch_size,
        steps_per_epoch=steps,
        first_step=0,
        last_step=steps,
        share=share,
    )

    def with_weights(batch: Example) -> tuple[Any, Any, Any]:
        inputs, targets = batch.record
        inputs = data.normalization(inputs)
        return inputs, data.target.prepared(targets, inputs), batch.weight

    batches = _replica_batches(data.test, plan, _evaluation_view(data))
    mapped = batches.map(with_weights, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return mapped.prefetch(BATCHES_AHEAD * share.replicas)


def evaluation_steps(data: DataSet, batch_size: int) -> int:
    """Global batches in one pass over the test examples."""
    return -(-data.test_count // batch_size)


# What is done to one image by itself, before it is put into a batch.
View = Callable[[Any, Example], Any]


def _training_view(data: DataSet, config: DataConfig, seed: int) -> View | None:
    """Of training images; None: nothing."""
    if config.augmentation != "random_resized_crop":
        return _evaluation_view(data)
    size, channels = data.input_shape[1:]

    def view(image: Any, example: Example) -> Any:
        key = augmentation.place_key(seed, example.step, example.place)
        window = augmentation.random_window(*decoding.size(image), key)
        return augmentation.resize(decoding.decode_window(image, window, channels), size)

    return view


def _evaluation_view(data: DataSet) -> View | None:
    """Of test images."""
    size, channels = data.image_size, data.input_shape[-1]

    def view(image: Any, _: Example) -> Any:
        pixels = decoding.decode(image, channels)
        if size is None:
            return tf.ensure_shape(pixels, data.input_shape)
        return augmentation.single_crop(pixels, size)

    return None if size is None and data.train.open is None else view


def _replica_batches(split: Split, plan: Plan, view: View | None) -> Any:
    """Batches of one replica after the other; a view works on many images at once."""
    batches = split.batches(plan)
    if view is None:
        return batches

    def seen(example: Example) -> Example:
        image, target = split.open(example.record) if split.open else example.record
        return example._replace(record=(view(image, example), target))

    examples = batches.unbatch().map(seen, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(plan.rows, drop_remainder=True)
