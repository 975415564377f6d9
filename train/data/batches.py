"""Batches as functions of the seed and the training step, so that any run can be entered anywhere.

What stands at place p of the whole training is a function of (seed, p) alone, whatever the number
of replicas: the image, its crop and whether it is flipped. No stream has to be replayed, and any
step is entered in the same time (TFRecord files on the disk apart, see `disk.StreamedSplit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from train.config import DataConfig
from train.data import augmentation, decoding
from train.data.datasets import ImageSet, Split
from train.data.memory import MemorySplit
from train.data.plan import WHOLE_BATCH, Example, Plan, Share
from train.errors import UserError

__all__ = [
    "Share",
    "evaluation_batches",
    "evaluation_steps",
    "steps_per_epoch",
    "training_batches",
]

BATCHES_AHEAD = 2


def steps_per_epoch(images: ImageSet, batch_size: int) -> int:
    """Whole batches in one pass over the training images.

    Raises:
        UserError: If there is none.
    """
    if batch_size > images.train_count:
        raise UserError(
            f"training.batch_size is {batch_size}, but {images.name} has {images.train_count} "
            f"training images. Expected at most that many."
        )
    return images.train_count // batch_size


def training_batches(
    images: ImageSet,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    share: Share = WHOLE_BATCH,
) -> Any:
    """Training batches of the steps `first_step`, ..., `last_step - 1`.

    Batches are whole: an uneven one would change the gradient's scale. The images that an epoch
    leaves over change from epoch to epoch with its order.

    Args:
        images: The data set.
        config: Shuffling and augmentation.
        batch_size: Images in a global batch, a multiple of the replicas.
        seed: Of order and augmentation.
        first_step: Counted from 0 over the whole training.
        last_step: The step to stop before.
        share: The rows to make.

    Returns:
        A `tf.data.Dataset` of (images (batch_size / replicas_in_all, height, width, channels)
        float32, labels (same,) int32): step after step, and in a step replica after replica.

    Raises:
        UserError: If there are fewer images than `batch_size`.
    """
    plan = Plan(
        count=images.train_count,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch(images, batch_size),
        first_step=first_step,
        last_step=last_step,
        order_seed=seed if config.shuffle else None,
        share=share,
    )
    normalize = _normalizer(images)

    def image_and_label(batch: Example) -> tuple[Any, Any]:
        key = augmentation.step_key(seed, batch.step[0])
        pixels = normalize(batch.image)
        if config.augmentation == "pad_crop_flip":
            pixels = augmentation.pad_crop_flip(
                pixels, batch.place, key, batch_size=batch_size, pad=config.pad
            )
        elif config.augmentation == "random_resized_crop":
            pixels = augmentation.random_flip(pixels, batch.place, key, batch_size=batch_size)
        return pixels, batch.label

    batches = _replica_batches(images.train, plan, _training_view(images, config, seed))
    mapped = batches.map(image_and_label, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return mapped.prefetch(BATCHES_AHEAD * share.replicas)


def evaluation_batches(images: ImageSet, batch_size: int, share: Share = WHOLE_BATCH) -> Any:
    """Every test image once with weight 1, in order, and padding of weight 0.

    All batches are whole, so that no replica is left without images and all shapes are static.
    Images of sets with an `image_size` are cropped in the middle, once.

    Args:
        images: The data set.
        batch_size: Images in a global batch, a multiple of the replicas.
        share: The rows to make.

    Returns:
        A `tf.data.Dataset` of (images, labels, weights (batch_size / replicas_in_all,) float32).
    """
    steps = evaluation_steps(images, batch_size)
    plan = Plan(
        count=images.test_count,
        batch_size=batch_size,
        steps_per_epoch=steps,
        first_step=0,
        last_step=steps,
        share=share,
    )
    normalize = _normalizer(images)

    def image_label_and_weight(batch: Example) -> tuple[Any, Any, Any]:
        return normalize(batch.image), batch.label, batch.weight

    batches = _replica_batches(images.test, plan, _evaluation_view(images))
    mapped = batches.map(
        image_label_and_weight, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return mapped.prefetch(BATCHES_AHEAD * share.replicas)


def evaluation_steps(images: ImageSet, batch_size: int) -> int:
    """Global batches in one pass over the test images."""
    return -(-images.test_count // batch_size)


View = Callable[[Example], Any]


def _training_view(images: ImageSet, config: DataConfig, seed: int) -> View | None:
    """What is done to every image by itself, before it is put into a batch; null: nothing."""
    if config.augmentation != "random_resized_crop":
        return _evaluation_view(images)
    size, channels = images.image_shape[1:]

    def view(example: Example) -> Any:
        key = augmentation.place_key(seed, example.step, example.place)
        window = augmentation.random_window(*decoding.size(example.image), key)
        pixels = decoding.decode_window(example.image, window, channels)
        return augmentation.resize(pixels, size)

    return view


def _evaluation_view(images: ImageSet) -> View | None:
    """As `_training_view`."""
    size, channels = images.image_size, images.image_shape[-1]

    def view(example: Example) -> Any:
        pixels = decoding.decode(example.image, channels)
        if size is None:
            return tf.ensure_shape(pixels, images.image_shape)
        return augmentation.single_crop(pixels, size)

    as_it_is = size is None and isinstance(images.train, MemorySplit)
    return None if as_it_is else view


def _replica_batches(split: Split, plan: Plan, view: View | None) -> Any:
    """Batches of one replica after the other; a view works on many images at once."""
    batches = split.batches(plan)
    if view is None:
        return batches

    def seen(example: Example) -> Example:
        opened = split.opened(example)
        return opened._replace(image=view(opened))

    examples = batches.unbatch().map(seen, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(plan.rows, drop_remainder=True)


def _normalizer(images: ImageSet) -> Callable[[Any], Any]:
    # Spelt out for a whole line of pixels: broadcasting over 3 channels takes four times as long.
    line = images.image_shape[1:]
    offset = np.broadcast_to(images.pixel_offset, line)
    scale = np.broadcast_to(images.pixel_scale, line)
    return lambda pixels: (tf.cast(pixels, tf.float32) - offset) / scale
