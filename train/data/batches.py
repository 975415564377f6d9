"""Batches as functions of the seed and the training step, so that any run can be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from train.data.datasets import ImageSet
from train.errors import UserError


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


def training_batches(images: ImageSet, batch_size: int, *, seed: int, epochs: int) -> Any:
    """Batch after batch of shuffled training images, over all epochs.

    Every epoch runs through a permutation of its own, a function of (seed, epoch) alone. Batches
    are whole: an uneven one would change the gradient's scale.

    Args:
        images: The data set.
        batch_size: Images in a batch.
        seed: Of the permutations.
        epochs: Passes over the training images.

    Returns:
        A `tf.data.Dataset` of (images (batch, height, width, channels) float32, labels (batch,)).
    """
    pixels, labels = tf.constant(images.train.images), tf.constant(images.train.labels)
    count = len(images.train.labels)
    normalize = _normalizer(images)

    def indices_of_epoch(epoch: Any) -> Any:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)

    def batch(indices: Any) -> tuple[Any, Any]:
        return normalize(tf.gather(pixels, indices)), tf.gather(labels, indices)

    batches_of_indices = tf.data.Dataset.range(epochs).flat_map(indices_of_epoch)
    return batches_of_indices.map(batch, num_parallel_calls=2, deterministic=True).prefetch(2)


def test_batches(images: ImageSet, batch_size: int) -> Any:
    """Every test image once, in order; the last batch may be smaller.

    Args:
        images: The data set.
        batch_size: Images in a batch.

    Returns:
        A `tf.data.Dataset` as that of `training_batches`.
    """
    dataset = tf.data.Dataset.from_tensor_slices((images.test.images, images.test.labels))
    normalize = _normalizer(images)
    return dataset.batch(batch_size).map(lambda x, y: (normalize(x), y)).cache().prefetch(1)


def _normalizer(images: ImageSet) -> Any:
    offset = images.pixel_offset.astype(np.float32)
    scale = images.pixel_scale.astype(np.float32)
    return lambda pixels: (tf.cast(pixels, tf.float32) - offset) / scale
