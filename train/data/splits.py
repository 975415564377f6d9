"""Splits of a data set: which example stands where in a training, and how it is read.

What stands at a place is a function of the seed and the step, not of a stream. By index any step is
entered in the same time, and every epoch is a permutation. What can only be read from the front is
streamed, with a weaker promise.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from train.data.images import decode
from train.errors import UserError

SHUFFLE_BUFFER = 10_000

# Any number: it keeps the shuffle buffer from depending on `tf.random.set_seed`.
_GRAPH_SEED = 1


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of every global batch that one process makes: those of its replicas."""

    first_replica: int = 0
    replicas: int = 1
    replicas_in_all: int = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps `first_step`, ..., `last_step - 1` over a split, and the order of its examples.

    Position p of a training, counted over all epochs, is place `p % batch_size` of the global batch
    of step `p // batch_size`. What lies behind an epoch's last example is padding.
    """

    batch_size: int
    steps_per_epoch: int
    last_step: int
    first_step: int = 0
    order_seed: int | None = None
    share: Share = Share()

    @property
    def rows(self) -> int:
        """Examples in the batch of one replica."""
        return self.batch_size // self.share.replicas_in_all

    @property
    def epoch_size(self) -> int:
        """Positions of one epoch, padding included."""
        return self.steps_per_epoch * self.batch_size

    def order(self, index: Any, epoch: Any, count: int) -> Any:
        """What stands at `index` of the epoch's order of `count` things (examples, files)."""
        if self.order_seed is None:
            return index
        return tf.random.experimental.index_shuffle(index, self.epoch_key(epoch), count - 1)

    def epoch_key(self, epoch: Any) -> Any:
        """Key (2,) int64 of the epoch's order."""
        return tf.stack([tf.constant(self.order_seed, tf.int64), epoch])


# Makes of an image, its target and its position in the training what is seen, and its target.
View = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a data set.

    Args:
        count: Examples.
        read: Plan to a `tf.data.Dataset` of (records, positions), (rows,) each: step after step,
            and in a step replica after replica.
        by_index: Whether any step is entered in the same time.
        open: One record to its (input, target), images encoded or not; null: it is that.
        arrays: (inputs, targets), where they are arrays, which can be measured.
        fault: What the user shall know of an error of TensorFlow, if reading the split caused it.
    """

    count: int
    read: Callable[[Plan], Any]
    by_index: bool = True
    open: Callable[[Any], tuple[Any, Any]] | None = None
    arrays: tuple[Any, Any] | None = None
    fault: Callable[[Exception], UserError | None] = lambda error: None

    def batches(self, plan: Plan, view: View | None) -> Any:
        """As `read`, of ((inputs, targets), positions)."""
        batches = self.read(plan)
        if view is None:
            return batches

        def seen(record: Any, position: Any) -> Any:
            image, target = self.open(record) if self.open else record
            return view(image, target, position), position

        return mapped(batches.unbatch(), seen).batch(plan.rows, drop_remainder=True)


@contextlib.contextmanager
def faults_named(*splits: Split) -> Iterator[None]:
    """A context in which a sentence tells the user of a fault in the data, and not TensorFlow."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        for split in splits:
            if (fault := split.fault(error)) is not None:
                raise fault from (fault.__cause__ or error)
        raise


def mapped(dataset: Any, function: Callable[..., Any]) -> Any:
    """The dataset through a function, at once and in order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def indexed(count: int, read: Callable[[Any], Any], **parts: Any) -> Split:
    """A split that `read` gives records of for indices, (rows,) int64."""

    def batches(plan: Plan) -> Any:
        share = plan.share

        def of_replica(number: Any) -> tuple[Any, Any]:
            step, replica = number // share.replicas, number % share.replicas + share.first_replica
            place = replica * plan.rows + tf.range(plan.rows, dtype=tf.int64)
            position = step * plan.batch_size + place
            index = position % plan.epoch_size
            index = tf.where(index < count, index, 0)
            return read(plan.order(index, step // plan.steps_per_epoch, count)), position

        first, last = plan.first_step * share.replicas, plan.last_step * share.replicas
        return mapped(tf.data.Dataset.range(first, last), of_replica)

    return Split(count, batches, **parts)


def by_python(count: int, fetch: Callable[[Any], Any], spec: Any, **parts: Any) -> Split:
    """A split of which Python reads records, a nest of arrays; `spec` is that of one record."""
    told: list[UserError] = []

    def flat(rows: Any) -> list[Any]:
        try:
            return tf.nest.flatten(fetch(rows))
        except UserError as error:  # TensorFlow makes text of it
            told.append(error)
            raise

    def read(indices: Any) -> Any:
        types = [part.dtype for part in tf.nest.flatten(spec)]
        arrays = tf.numpy_function(flat, [indices], types, stateful=False)
        return tf.nest.map_structure(
            lambda part, array: tf.ensure_shape(array, (*indices.shape, *part.shape)),
            spec,
            tf.nest.pack_sequence_as(spec, arrays),
        )

    return indexed(count, read, fault=lambda _: next(iter(told), None), **parts)


def in_memory(records: Any, **parts: Any) -> Split:
    """A split whose records, a nest of arrays (count, ...), are held as tensors."""
    tensors: list[Any] = []

    def read(indices: Any) -> Any:
        if not tensors:
            # Not on the accelerator, where a batch would travel both ways; and not in the graph.
            with tf.init_scope(), tf.device("CPU:0"):
                tensors.append(tf.nest.map_structure(tf.constant, records))
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, indices), tensors[0])

    return indexed(len(records[0]), read, **parts)


def streamed(count: int, records: Callable[[Plan, Any], Any], **parts: Any) -> Split:
    """A split that is read from the front; `records` gives an epoch's in their order.

    What stands at a place is still a function of (seed, epoch, place) alone, so every run and every
    number of replicas sees the same batches. But the shuffle is weaker, that of a buffer of 10,000
    examples. Entering an epoch at a step reads its earlier examples once more, without decoding
    them, in a time that grows with the step within the epoch. And every process reads the examples
    of all.
    """

    def batches(plan: Plan) -> Any:
        first, last = plan.first_step * plan.batch_size, plan.last_step * plan.batch_size
        begin = plan.share.first_replica * plan.rows
        end = begin + plan.share.replicas * plan.rows

        def of_epoch(epoch: Any) -> Any:
            examples = records(plan, epoch)
            if plan.order_seed is not None:
                tf.compat.v1.get_default_graph().seed = _GRAPH_SEED
                seed = tf.random.stateless_uniform(
                    [], plan.epoch_key(epoch), 0, 2**31 - 1, tf.int64, alg="philox"
                )
                examples = examples.shuffle(SHUFFLE_BUFFER, seed, reshuffle_each_iteration=False)
            return examples.repeat().take(plan.epoch_size)

        def shared_out(*batch: Any) -> Any:
            return tf.nest.map_structure(lambda part: part[begin:end], batch)

        epochs = tf.data.Dataset.range(first // plan.epoch_size, -(-last // plan.epoch_size))
        examples = epochs.flat_map(of_epoch).skip(first % plan.epoch_size)
        placed = tf.data.Dataset.zip((examples, tf.data.Dataset.range(first, last)))
        whole = placed.batch(plan.batch_size, drop_remainder=True)
        return whole.map(shared_out).rebatch(plan.rows, drop_remainder=True)

    return Split(count, batches, by_index=False, **parts)


def read_into_memory(split: Split, spec: tuple[Any, Any]) -> Split:
    """Reads, and decodes, all examples, which keep their order; `spec` is of one, decoded."""
    if split.arrays:
        return in_memory(split.arrays, arrays=split.arrays)
    rows = min(split.count, 1024)
    steps = -(-split.count // rows)

    def view(image: Any, target: Any, _: Any) -> tuple[Any, Any]:
        return tf.ensure_shape(decode(image, spec[0].shape[-1]), spec[0].shape), target

    batches = split.batches(Plan(rows, steps, steps), view if split.open else None)
    arrays, _ = tf.nest.map_structure(
        lambda *parts: np.concatenate(parts)[: split.count], *batches.as_numpy_iterator()
    )
    return in_memory(arrays, arrays=arrays)
