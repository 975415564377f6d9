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

    def opened(self, example: Example) -> Example:
        """The example: nothing is encoded here."""
        return example


def read_into_memory(
    split: IndexedSplit | StreamedSplit, image_shape: tuple[int, int, int]
) -> MemorySplit:
    """Decodes all images of a split, which keep their order."""

    rows = min(split.count, 1024)
    steps = -(-split.count // rows)
    plan = Plan(
        count=split.count, batch_size=rows, steps_per_epoch=steps, first_step=0, last_step=steps
    )

    def pixels_and_label(record: Any, example: Example) -> tuple[Any, Any]:
        opened = split.opened(example._replace(image=record))
        return tf.ensure_shape(decode(opened.image, image_shape[-1]), image_shape), opened.label

    def decoded(batch: Example) -> tuple[Any, Any]:
        # One element of `tf.data` for many images: a third of the time of one for each.
        return tf.map_fn(
            lambda record: pixels_and_label(record, batch),
            batch.image,
            fn_output_signature=(tf.TensorSpec(image_shape, tf.uint8), tf.TensorSpec([], tf.int32)),
        )

    images = np.empty((steps, rows, *image_shape), np.uint8)
    labels = np.empty((steps, rows), np.int32)
    batches = split.batches(plan).map(decoded, num_parallel_calls=2, deterministic=True)
    for step, batch in enumerate(batches.as_numpy_iterator()):
        images[step], labels[step] = batch
    images = images.reshape((-1, *image_shape))
    return MemorySplit(images[: split.count], labels.reshape(-1)[: split.count])
