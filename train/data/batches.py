"""Batches as functions of the seed and the training step, so that any run can be entered anywhere.

What stands at place p of the whole training is a function of (seed, p) alone, whatever the number
of replicas: epoch p // images, and there the image that a permutation of the epoch's own puts at
p % images. No stream has to be replayed, and any step is entered in the same time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from train.config import DataConfig
from train.data.datasets import ImageSet
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of every global batch that one process makes: those of its replicas.

    Args:
        first_replica: Number of this process' first replica among all.
        replicas: Replicas of this process.
        replicas_in_all: Of all processes.
    """

    first_replica: int = 0
    replicas: int = 1
    replicas_in_all: int = 1


def steps_per_epoch(images: ImageSet, batch_size: int) -> int:
    """Whole batches in one pass over the training images.

    Raises:
        UserError: If there is none.
    """
    count = len(images.train.labels)
    if batch_size > count:
        raise UserError(
            f"training.batch_size is {batch_size}, but {images.name} has {count} training images. "
            f"Expected at most that many."
        )
    return count // batch_size


def training_batches(
    images: ImageSet,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    share: Share = Share(),
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
    """
    pixels, labels = tf.constant(images.train.images), tf.constant(images.train.labels)
    normalize = _normalizer(images)
    count = len(images.train.labels)
    per_epoch = count // batch_size
    rows = batch_size // share.replicas_in_all

    def replica_batch(number: Any) -> tuple[Any, Any]:
        step, replica = number // share.replicas, number % share.replicas + share.first_replica
        epoch, step_in_epoch = step // per_epoch, step % per_epoch
        places = step_in_epoch * batch_size + replica * rows + tf.range(rows, dtype=tf.int64)
        order = _order_of_epoch(places, epoch, seed=seed, count=count) if config.shuffle else places
        return normalize(tf.gather(pixels, order)), tf.gather(labels, order)

    numbers = tf.data.Dataset.range(first_step * share.replicas, last_step * share.replicas)
    batches = numbers.map(replica_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(images: ImageSet, batch_size: int, share: Share = Share()) -> Any:
    """Every test image once with weight 1, in order, and padding of weight 0.

    All batches are whole, so that no replica is left without images and all shapes are static.

    Args:
        images: The data set.
        batch_size: Images in a global batch, a multiple of the replicas.
        share: The rows to make.

    Returns:
        A `tf.data.Dataset` of (images, labels, weights (batch_size / replicas_in_all,) float32).
    """
    pixels, labels = tf.constant(images.test.images), tf.constant(images.test.labels)
    normalize = _normalizer(images)
    count = len(images.test.labels)
    rows = batch_size // share.replicas_in_all

    def replica_batch(number: Any) -> tuple[Any, Any, Any]:
        step, replica = number // share.replicas, number % share.replicas + share.first_replica
        places = step * batch_size + replica * rows + tf.range(rows, dtype=tf.int64)
        real = places < count
        places = tf.where(real, places, 0)
        weights = tf.cast(real, tf.float32)
        return normalize(tf.gather(pixels, places)), tf.gather(labels, places), weights

    numbers = tf.data.Dataset.range(evaluation_steps(images, batch_size) * share.replicas)
    return numbers.map(replica_batch, num_parallel_calls=2, deterministic=True).prefetch(2)


def evaluation_steps(images: ImageSet, batch_size: int) -> int:
    """Global batches in one pass over the test images."""
    return -(-len(images.test.labels) // batch_size)


def _order_of_epoch(places: Any, epoch: Any, *, seed: int, count: int) -> Any:
    """The images at `places` of the epoch's permutation, a function of (seed, epoch, place)."""
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(places, key, count - 1)


def _normalizer(images: ImageSet) -> Any:
    offset = tf.constant(images.pixel_offset, tf.float32)
    scale = tf.constant(images.pixel_scale, tf.float32)
    return lambda pixels: (tf.cast(pixels, tf.float32) - offset) / scale
