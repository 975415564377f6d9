"""Splits, which give batches of what stands where a plan says: by index, or streamed.

By index any step is entered in the same time, and every epoch is a permutation. What can only be
read from the front is streamed, with a weaker promise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.data.decoding import decode
from train.data.plan import Example, Plan

SHUFFLE_BUFFER = 10_000
MAX_BYTES_IN_MEMORY = 4 * 2**30

# Any number: it keeps the shuffle buffer from depending on `tf.random.set_seed`.
_GRAPH_SEED = 1

Open = Callable[[Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Indexed:
    """A split that is read by index, so that any step is entered in the same time.

    Args:
        count: Examples.
        read: Indices (rows,) int64 to records: (inputs, targets), or what is still to be opened.
        open: One record to its (input, target), images encoded or not; null: it is that.
        arrays: (inputs, targets), where they are arrays, which can be measured.
    """

    count: int
    read: Callable[[Any], Any]
    open: Open | None = None
    arrays: tuple[Any, Any] | None = None

    def batches(self, plan: Plan) -> Any:
        """A `tf.data.Dataset` of a replica's `Example`s (rows,)."""

        def read(batch: Example) -> Example:
            return batch._replace(record=self.read(batch.record))

        return plan.indices().map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A split that is read from the front.

    What stands at a place is still a function of (seed, epoch, place) alone, so every run and every
    number of replicas sees the same batches. But the shuffle is weaker, that of a buffer of 10,000
    examples. Entering an epoch at a step reads its earlier examples once more, without decoding
    them, in a time that grows with the step within the epoch. And every process reads the examples
    of all.

    Args:
        count: Examples.
        records: Plan and epoch, an int64 tensor, to a `tf.data.Dataset` of the epoch's records in
            their order.
        open: As for `Indexed`.
        arrays: There are none.
    """

    count: int
    records: Callable[[Plan, Any], Any]
    open: Open | None = None
    arrays: None = None

    def batches(self, plan: Plan) -> Any:
        """As `Indexed.batches`; padding repeats the first examples with weight 0."""
        per_epoch = plan.steps_per_epoch * plan.batch_size
        shape = (plan.share.replicas, plan.rows)
        first_row = plan.share.first_replica * plan.rows
        place = (first_row + np.arange(shape[0] * shape[1])).reshape(shape)

        def shared_out(step: Any, records: Any) -> Example:
            position = step % plan.steps_per_epoch * plan.batch_size + place
            return Example(
                record=tf.nest.map_structure(lambda part: tf.gather(part, place), records),
                step=tf.fill(shape, step),
                place=tf.constant(place),
                weight=tf.cast(position < self.count, tf.float32),
            )

        steps = tf.data.Dataset.range(plan.first_step, plan.last_step)
        epochs = tf.data.Dataset.range(
            plan.first_step // plan.steps_per_epoch, -(-plan.last_step // plan.steps_per_epoch)
        )
        records = epochs.flat_map(lambda epoch: self.records(plan, epoch).repeat().take(per_epoch))
        records = records.skip(plan.first_step % plan.steps_per_epoch * plan.batch_size)
        batches = records.batch(plan.batch_size, drop_remainder=True)
        return tf.data.Dataset.zip((steps, batches)).map(shared_out).unbatch()


Split = Indexed | Streamed


def shuffled(records: Any, plan: Plan, epoch: Any) -> Any:
    """A dataset through a buffer, in an order that is a function of the plan's seed and the epoch.

    Called inside a function of `tf.data`.
    """
    tf.compat.v1.get_default_graph().seed = _GRAPH_SEED
    seed = tf.random.stateless_uniform(
        [],
        tf.stack([tf.constant(plan.order_seed, tf.int64), epoch]),
        minval=0,
        maxval=2**31 - 1,
        dtype=tf.int64,
        alg="philox",
    )
    return records.shuffle(SHUFFLE_BUFFER, seed, reshuffle_each_iteration=False)


def by_index(
    count: int, fetch: Callable[[list[int]], Any], spec: Any, open_: Open | None = None
) -> Indexed:
    """A split that Python reads.

    Args:
        count: Examples.
        fetch: Indices to records, a nest of arrays.
        spec: Nest of the `tf.TensorSpec` of one record.
        open_: As for `Indexed`.
    """
    parts = tf.nest.flatten(spec)

    def flat(indices: npt.NDArray[np.int64]) -> list[Any]:
        return [
            np.asarray(part, one.dtype.as_numpy_dtype)
            for part, one in zip(tf.nest.flatten(fetch(indices.tolist())), parts, strict=True)
        ]

    def read(indices: Any) -> Any:
        types = [one.dtype for one in parts]
        read = tf.numpy_function(flat, [indices], types, stateful=False)
        whole = [
            tf.ensure_shape(part, (*indices.shape, *one.shape))
            for part, one in zip(read, parts, strict=True)
        ]
        return tf.nest.pack_sequence_as(spec, whole)

    return Indexed(count, read, open_)


def of_arrays(inputs: Any, targets: Any, *, in_memory: bool, open_: Open | None = None) -> Indexed:
    """A split of arrays, one entry of the first axis an example.

    Args:
        inputs: Array (count, ...).
        targets: Array (count, ...), or a dictionary of several.
        in_memory: Whether to hold a tensor of them; else the arrays are read batch by batch.
        open_: As for `Indexed`.
    """
    arrays = (inputs, targets)
    count = len(inputs)
    measured = arrays if open_ is None else None
    if not in_memory:
        spec = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape[1:], a.dtype), arrays)

        def fetch(indices: list[int]) -> Any:
            return tf.nest.map_structure(lambda array: array[indices], arrays)

        return dataclasses.replace(by_index(count, fetch, spec, open_), arrays=measured)
    tensors: list[Any] = []

    def read(indices: Any) -> Any:
        if not tensors:
            # Not on the accelerator, where a batch would travel both ways; and not in the graph.
            with tf.init_scope(), tf.device("CPU:0"):
                tensors.append(tf.nest.map_structure(tf.constant, arrays))
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, indices), tensors[0])

    return Indexed(count, read, open_, measured)


def read_into_memory(split: Split, spec: tuple[Any, Any]) -> Indexed:
    """Reads, and decodes, all examples of a split, which keep their order.

    Args:
        split: What to read.
        spec: `tf.TensorSpec` of one input, decoded, and nest of those of its target.
    """
    rows = min(split.count, 1024)
    steps = -(-split.count // rows)
    plan = Plan(
        count=split.count, batch_size=rows, steps_per_epoch=steps, first_step=0, last_step=steps
    )

    def one(record: Any) -> tuple[Any, Any]:
        encoded, target = split.open(record) if split.open else record
        pixels = decode(encoded, spec[0].shape[-1])
        return tf.ensure_shape(pixels, spec[0].shape), target

    def whole(batch: Example) -> Any:
        if split.open is None:
            return batch.record
        # One element of `tf.data` for many images: a third of the time of one for each.
        return tf.map_fn(one, batch.record, fn_output_signature=spec)

    arrays = tf.nest.map_structure(
        lambda part: np.empty((steps, rows, *part.shape), part.dtype.as_numpy_dtype), spec
    )
    batches = split.batches(plan).map(whole, num_parallel_calls=2, deterministic=True)
    for step, batch in enumerate(batches.as_numpy_iterator()):
        for array, part in zip(tf.nest.flatten(arrays), tf.nest.flatten(batch), strict=True):
            array[step] = part
    inputs, targets = tf.nest.map_structure(
        lambda array: array.reshape((-1, *array.shape[2:]))[: split.count], arrays
    )
    return of_arrays(inputs, targets, in_memory=True)
