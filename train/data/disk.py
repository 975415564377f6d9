"""Splits whose images stay on the disk until a batch needs them, still encoded.

What can be promised depends on the files. `array_record` and `parquet` folders are read by index:
`IndexedSplit`. `TFRecord` folders can only be read from the front: `StreamedSplit`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_datasets as tfds

from train.data.builders import Keys
from train.data.plan import Example, Plan
from train.errors import UserError

RANDOM_ACCESS = {tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.PARQUET}
SHUFFLE_BUFFER_IMAGES = 10_000
FILES_READ_TOGETHER = 16

# Any number: it keeps the shuffle buffer from depending on `tf.random.set_seed`.
_GRAPH_SEED = 1


class FilePart(NamedTuple):
    """Consecutive records of one file: `take` of them after the first `skip`."""

    file: str
    skip: int
    take: int


@dataclasses.dataclass(frozen=True)
class IndexedSplit:
    """A split that is read by index, so that any step is entered in the same time.

    Args:
        count: Images.
        source: Serialized examples by index.
        features: Of the data set.
        keys: Of image and label.
    """

    count: int
    source: Any
    features: Any
    keys: Keys

    def batches(self, plan: Plan) -> Any:
        """A `tf.data.Dataset` of a replica's `Example`s (rows,), images serialized with labels."""

        def read(batch: Example) -> Example:
            records = tf.numpy_function(self._records, [batch.image], tf.string, stateful=False)
            return batch._replace(image=tf.ensure_shape(records, [plan.rows]))

        return plan.indices().map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def opened(self, example: Example) -> Example:
        """A single example with its encoded image and its label."""
        return _opened(example, self.features, self.keys)

    def _records(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        return np.array([bytes(r) for r in self.source.__getitems__(indices.tolist())], np.object_)


@dataclasses.dataclass(frozen=True)
class StreamedSplit:
    """A split that is read from the front, for TFRecord files, which have no index.

    What stands at a place is still a function of (seed, epoch, place) alone, so every run and every
    number of replicas sees the same batches. But the shuffle is weaker: the files in an order of
    the epoch's own, 16 at a time, through a buffer of 10,000 images. Entering an epoch at a step
    reads its earlier images once more, without decoding them, in a time that grows with the step
    within the epoch. And every process reads the images of all.

    Args:
        count: Images.
        parts: Where they are.
        features: Of the data set.
        keys: Of image and label.
    """

    count: int
    parts: tuple[FilePart, ...]
    features: Any
    keys: Keys

    def batches(self, plan: Plan) -> Any:
        """As `IndexedSplit.batches`; padding repeats the first images with weight 0."""
        per_epoch = plan.steps_per_epoch * plan.batch_size
        shape = (plan.share.replicas, plan.rows)
        first_row = plan.share.first_replica * plan.rows
        place = (first_row + np.arange(shape[0] * shape[1])).reshape(shape)

        def shared_out(step: Any, records: Any) -> Example:
            position = step % plan.steps_per_epoch * plan.batch_size + place
            return Example(
                image=tf.gather(records, place),
                label=tf.zeros(shape, tf.int32),
                step=tf.fill(shape, step),
                place=tf.constant(place),
                weight=tf.cast(position < self.count, tf.float32),
            )

        steps = tf.data.Dataset.range(plan.first_step, plan.last_step)
        epochs = tf.data.Dataset.range(
            plan.first_step // plan.steps_per_epoch, -(-plan.last_step // plan.steps_per_epoch)
        )
        records = epochs.flat_map(lambda epoch: self._records(plan, epoch).repeat().take(per_epoch))
        records = records.skip(plan.first_step % plan.steps_per_epoch * plan.batch_size)
        batches = records.batch(plan.batch_size, drop_remainder=True)
        return tf.data.Dataset.zip((steps, batches)).map(shared_out).unbatch()

    def opened(self, example: Example) -> Example:
        """As `IndexedSplit.opened`."""
        return _opened(example, self.features, self.keys)

    def _records(self, plan: Plan, epoch: Any) -> Any:
        """Serialized examples of one epoch, in its order."""
        files = [part.file for part in self.parts]
        skip, take = ([getattr(part, name) for part in self.parts] for name in ("skip", "take"))

        def records_of_file(index: Any) -> Any:
            records = tf.data.TFRecordDataset(tf.gather(files, index))
            skipped = records.skip(tf.gather(tf.constant(skip, tf.int64), index))
            return skipped.take(tf.gather(tf.constant(take, tf.int64), index))

        numbers = tf.data.Dataset.range(len(files))
        if plan.order_seed is None:
            return numbers.flat_map(records_of_file)
        records = numbers.map(
            lambda number: plan.order(number, epoch, count=len(files))
        ).interleave(
            records_of_file,
            cycle_length=FILES_READ_TOGETHER,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        tf.compat.v1.get_default_graph().seed = _GRAPH_SEED
        seed = tf.random.stateless_uniform(
            [],
            tf.stack([tf.constant(plan.order_seed, tf.int64), epoch]),
            minval=0,
            maxval=2**31 - 1,
            dtype=tf.int64,
            alg="philox",
        )
        return records.shuffle(SHUFFLE_BUFFER_IMAGES, seed, reshuffle_each_iteration=False)


def open_split(
    builder: Any, split: str, keys: Keys, *, name: str, take: int | None = None
) -> IndexedSplit | StreamedSplit:
    """The split as its files can be read.

    Args:
        builder: A prepared TFDS builder.
        split: Split or part of one.
        keys: Of image and label.
        name: Of the data set, for messages.
        take: The first so many images; null: all.

    Raises:
        UserError: If there is no such split, it has fewer images than `take` or none at all, or its
            files are of a kind that is not read here.
    """
    try:
        info = builder.info.splits[split]
        count, instructions = info.num_examples, info.file_instructions
    except (KeyError, ValueError):
        count, instructions = 0, []
    if count == 0:
        raise UserError(
            f"data.name={name} has no split {split!r}. Expected "
            f"{' or '.join(builder.info.splits)}, or a part of one, such as 'train[:10%]'."
        )
    if take is not None and take > count:
        raise UserError(
            f"data.take is {take}, but split {split!r} of data.name={name} has {count} images. "
            f"Expected at most that many."
        )
    wanted = take or count
    formats = builder.info.available_file_formats()
    if formats & RANDOM_ACCESS:
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        if len(source) != count:  # parquet, of which TFDS reads whole files
            raise UserError(
                f"split {split!r} of data.name={name} is a part of parquet files, which TensorFlow "
                f"Datasets reads whole. Expected a whole split, or array_record files."
            )
        return IndexedSplit(wanted, source, builder.info.features, keys)
    if tfds.core.FileFormat.TFRECORD not in formats:
        raise UserError(
            f"data.name={name} is stored as {builder.info.file_format}. Expected array_record, "
            f"parquet or tfrecord files."
        )
    parts = [FilePart(part.filename, part.skip, part.take) for part in instructions]
    return StreamedSplit(wanted, _first(parts, wanted), builder.info.features, keys)


def _first(parts: list[FilePart], wanted: int) -> tuple[FilePart, ...]:
    """The parts that hold the first `wanted` records."""
    kept = []
    for part in parts:
        if wanted > 0:
            kept.append(part._replace(take=min(part.take, wanted)))
        wanted -= part.take
    return tuple(kept)


def _opened(example: Example, features: Any, keys: Keys) -> Example:
    fields = features.deserialize_example(
        example.image, decoders={keys.image: tfds.decode.SkipDecoding()}
    )
    return example._replace(image=fields[keys.image], label=tf.cast(fields[keys.label], tf.int32))
