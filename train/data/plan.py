"""Which example stands at which place: a function of the seed and the step, not of a stream."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf


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


WHOLE_BATCH = Share()


class Example(NamedTuple):
    """An example and where it stands, or a replica's batch of them.

    Args:
        record: (input, target), or what a split has to open for that.
        step: (...) int64, counted over the whole training. Equal in a batch.
        place: (...) int64, in the global batch.
        weight: (...) float32: 1, or 0 for padding.
    """

    record: Any
    step: Any
    place: Any
    weight: Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps `first_step`, ..., `last_step - 1` over a split, and the order of its examples.

    Place `place` of step `step` stands at `(step % steps_per_epoch) * batch_size + place` of the
    epoch `step // steps_per_epoch`. What lies behind the last example is padding.

    Args:
        count: Examples in the split.
        batch_size: Examples in a global batch, a multiple of the replicas.
        steps_per_epoch: Batches in one pass.
        first_step: Counted from 0 over all epochs.
        last_step: The step to stop before.
        order_seed: Of a permutation for every epoch; null: the order of the split.
        share: The rows to make.
    """

    count: int
    batch_size: int
    steps_per_epoch: int
    first_step: int
    last_step: int
    order_seed: int | None = None
    share: Share = WHOLE_BATCH

    @property
    def rows(self) -> int:
        """Examples in the batch of one replica."""
        return self.batch_size // self.share.replicas_in_all

    def indices(self) -> Any:
        """A `tf.data.Dataset` of replica batches (rows,) with indices for records.

        Step after step, and in a step replica after replica. Padding repeats the first example.
        Entering at a later step costs nothing.
        """
        replicas = self.share.replicas

        def replica_batch(number: Any) -> Example:
            step, replica = number // replicas, number % replicas + self.share.first_replica
            place = replica * self.rows + tf.range(self.rows, dtype=tf.int64)
            position = step % self.steps_per_epoch * self.batch_size + place
            real = position < self.count
            position = tf.where(real, position, 0)
            return Example(
                record=self.order(position, step // self.steps_per_epoch, count=self.count),
                step=tf.fill([self.rows], step),
                place=place,
                weight=tf.cast(real, tf.float32),
            )

        numbers = tf.data.Dataset.range(self.first_step * replicas, self.last_step * replicas)
        return numbers.map(replica_batch)

    def order(self, position: Any, epoch: Any, *, count: int) -> Any:
        """What stands at `position` of the epoch's order of `count` things (examples, files)."""
        if self.order_seed is None:
            return position
        key = tf.stack([tf.constant(self.order_seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(position, key, count - 1)
