"""Splits that fit into memory, as arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.data.decoding import decode
from train.data.disk import IndexedSplit, StreamedSplit
from train.data.plan import Example, Plan


@dataclasses.dataclass(frozen=True)
class MemorySplit:
    """A split in memory.

    Args:
        images: (count, height, width, channels) uint8.
        labels: (count,) int32.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]

    @property
    def count(self) -> int:
        return len(self.labels)

    def batches(self, plan: Plan) -> Any:
        """A `tf.data.Dataset` of a replica's `Example`s, gathered by a permuted index."""
        with tf.device("CPU:0"):  # not on the accelerator, where a batch would travel both ways
            pixels, labels = tf.constant(self.images), tf.constant(self.labels)

        def gather(batch: Example) -> Example:
            return batch._replace(
                image=tf.gather(pixels, batch.image), label=tf.gather(labels, batch.image)
            )

        return plan.indices().map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def examples(self, plan: Plan) -> Any:
        """A `tf.data.Dataset` of single `Example`s."""
        return self.batches(plan).unbatch()


def read_into_memory(
    split: IndexedSplit | StreamedSplit, image_shape: tuple[int, int, int]
) -> MemorySplit:
    """Decodes all images of a split, which keep their order."""

    def pixels_and_label(example: Example) -> tuple[Any, Any]:
        return tf.ensure_shape(decode(example.image, image_shape[-1]), image_shape), example.label

    rows = min(split.count, 1024)
    steps = -(-split.count // rows)
    plan = Plan(
        count=split.count, batch_size=rows, steps_per_epoch=steps, first_step=0, last_step=steps
    )
    decoded = split.examples(plan).map(
        pixels_and_label, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    images = np.empty((split.count, *image_shape), np.uint8)
    labels = np.empty(split.count, np.int32)
    begin = 0
    for batch_images, batch_labels in decoded.take(split.count).batch(rows).as_numpy_iterator():
        end = begin + len(batch_labels)
        images[begin:end], labels[begin:end] = batch_images, batch_labels
        begin = end
    return MemorySplit(images, labels)
