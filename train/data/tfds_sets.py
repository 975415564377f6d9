"""Labelled images of TensorFlow Datasets: its names, prepared copies, and builder folders.

What can be promised depends on the files. `array_record` and `parquet` folders are read by index.
`TFRecord` folders can only be read from the front: files in an order of the epoch's own, 16 at a
time, through the shuffle buffer.
"""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from train.config import DataConfig
from train.data import EMBEDDED
from train.data.plan import Plan
from train.data.source import Source, check_split, target_of
from train.data.splits import Indexed, Open, Split, Streamed, by_index, shuffled
from train.errors import UserError, did_you_mean

RANDOM_ACCESS = {tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.PARQUET}
FILES_READ_TOGETHER = 16
ANSWER_S = 5.0
COPY = (
    "To use a copy: run the same command where there is a network, with --data.data_dir=FOLDER, "
    "and bring FOLDER here, in which the set is <name>/<version>/dataset_info.json and its files; "
    "or name arrays (.npz) or a folder of images by data.name."
)


class Keys(NamedTuple):
    """Names of the image and of the class label in an example of the data set."""

    image: str
    label: str


def tfds_set(config: DataConfig) -> Source:
    """The data set that TensorFlow Datasets knows by this name or has written into this folder.

    Nothing is fetched before a split is opened.

    Raises:
        UserError: If there is no such set, or it is no labelled images.
    """
    builder = find_builder(config)
    keys = image_and_label_keys(builder, config)
    features = builder.info.features
    shape = features[keys.image].shape
    many_sizes = None in shape
    label = tf.TensorSpec([], tf.int32)

    def open_one(key: str, split: str, take: int | None) -> Split:
        prepare(builder, config, stays_on_disk=config.storage == "disk" or many_sizes)
        return open_split(builder, key, split, keys, take=take)

    return Source(
        input=tf.TensorSpec(shape, tf.uint8),
        target=target_of(label, config, num_classes=features[keys.label].num_classes),
        target_spec=label,
        open=open_one,
        moves=True,
        version=builder.info.full_name,
    )


def find_builder(config: DataConfig) -> Any:
    """The embedded set, a builder folder, a prepared copy in the data folder, or TFDS' own code.

    Nothing is downloaded here.

    Raises:
        UserError: If there is no such data set.
    """
    if config.name in EMBEDDED:
        return tfds.builder_from_directory(EMBEDDED[config.name])
    folder = Path(config.name).expanduser()
    if (folder / "dataset_info.json").is_file():
        return tfds.builder_from_directory(folder)
    # A prepared folder is read as it is. The code that TFDS has for the same name would insist on
    # its own version and features (cifar10: the file names) and download the set again.
    data_dir = config.data_dir or os.environ.get("TFDS_DATA_DIR")
    prepared = _newest_prepared_folder(config.name, data_dir)
    if prepared is not None:
        return tfds.builder_from_directory(prepared)
    try:
        return tfds.builder(config.name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        raise UserError(
            f"data.name={config.name} is not known. Expected digits (embedded), a TensorFlow "
            f"Datasets name such as mnist, fashion_mnist, cifar10 or cifar100, or the path of a "
            f"builder folder.{did_you_mean(config.name, known)}"
        ) from error
    except (AssertionError, ValueError) as error:  # an unknown version or configuration of a set
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"data.name={config.name}: TensorFlow Datasets says {reason!r}") from error


def image_and_label_keys(builder: Any, config: DataConfig) -> Keys:
    """Names of the image and of the class label in an example.

    Raises:
        UserError: If the data set has no such pair.
    """
    features = builder.info.features
    keys = Keys(*(builder.info.supervised_keys or ("image", "label"))[:2])
    expected = {keys.image: tfds.features.Image, keys.label: tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], expected[key]) for key in expected):
        raise UserError(
            f"data.name={config.name} holds {', '.join(features)}. Expected an image and a class "
            f"label."
        )
    return keys


def prepare(builder: Any, config: DataConfig, *, stays_on_disk: bool) -> None:
    """Lets TFDS download and write the data set, if it is not there.

    Sets that stay on the disk are written as `array_record`, which is read by index.

    Raises:
        UserError: If that fails, or nobody answers in `ANSWER_S`.
    """
    if builder.data_path.exists():
        return
    print(f"{config.name} is not in {builder.data_dir} yet: TensorFlow Datasets fetches it.")
    try:
        _check_answers(builder)
        builder.download_and_prepare(file_format="array_record" if stays_on_disk else None)
    except Exception as error:  # whatever the network, the host or the archive did
        archives = ""
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            archives = (
                " TensorFlow Datasets makes it of archives that everybody has to ask its owners "
                "for: its page in the TFDS catalogue names them and their folder."
            )
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"data.name={config.name} could not be fetched ({reason}), and there is no copy in "
            f"{builder.data_dir}. {COPY}{archives}"
        ) from error


def _check_answers(builder: Any) -> None:
    """Asks the first host once: TFDS asks every one eight times, which takes minutes."""
    for url in list(builder.url_infos)[:1]:
        with contextlib.suppress(urllib.error.HTTPError):  # that is an answer, too
            urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=ANSWER_S
            ).close()


def open_split(builder: Any, key: str, split: str, keys: Keys, *, take: int | None) -> Split:
    """The split as its files can be read.

    Args:
        builder: A prepared TFDS builder.
        key: That names the split.
        split: Split or part of one.
        keys: Of image and label.
        take: The first so many images; null: all.

    Raises:
        UserError: If there is no such split, it has fewer images than `take` or none at all, or its
            files are of a kind that is not read here.
    """
    splits = builder.info.splits
    try:
        info = splits[split]
        count, instructions = info.num_examples, info.file_instructions
    except (KeyError, ValueError):
        count, instructions = 0, []
    check_split(key, split, count, take, splits)
    wanted = take or count
    formats = builder.info.available_file_formats()
    open_one = _opener(builder.info.features, keys)
    if formats & RANDOM_ACCESS:
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        if len(source) != count:  # parquet, of which TFDS reads whole files
            raise UserError(
                f"{key} is {split!r}, a part of parquet files, which TensorFlow Datasets reads "
                f"whole. Expected a whole split, or array_record files."
            )
        return _indexed(wanted, source, open_one)
    if tfds.core.FileFormat.TFRECORD not in formats:
        raise UserError(
            f"data.name names a set that is stored as {builder.info.file_format}. Expected "
            f"array_record, parquet or tfrecord files."
        )
    return _streamed(wanted, instructions, open_one)


def _indexed(count: int, source: Any, open_one: Open) -> Indexed:
    """Serialized examples by index."""

    def fetch(indices: list[int]) -> Any:
        return np.array([bytes(record) for record in source.__getitems__(indices)], np.object_)

    return by_index(count, fetch, tf.TensorSpec([], tf.string), open_one)


def _streamed(count: int, parts: Any, open_one: Open) -> Streamed:
    """Serialized examples from the front: the first `count` of parts of files."""
    left = count - np.cumsum([0, *(part.take for part in parts[:-1])])  # where each part begins
    parts = [part for part, more in zip(parts, left, strict=True) if more > 0]
    files, skip = [part.filename for part in parts], [part.skip for part in parts]
    take = [min(part.take, int(more)) for part, more in zip(parts, left, strict=False)]

    def records_of_file(index: Any) -> Any:
        records = tf.data.TFRecordDataset(tf.gather(files, index))
        skipped = records.skip(tf.gather(tf.constant(skip, tf.int64), index))
        return skipped.take(tf.gather(tf.constant(take, tf.int64), index))

    def records(plan: Plan, epoch: Any) -> Any:
        numbers = tf.data.Dataset.range(len(files))
        if plan.order_seed is None:
            return numbers.flat_map(records_of_file)
        interleaved = numbers.map(
            lambda number: plan.order(number, epoch, count=len(files))
        ).interleave(
            records_of_file,
            cycle_length=FILES_READ_TOGETHER,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return shuffled(interleaved, plan, epoch)

    return Streamed(count, records, open_one)


def _opener(features: Any, keys: Keys) -> Open:
    def open_one(record: Any) -> tuple[Any, Any]:
        fields = features.deserialize_example(
            record, decoders={keys.image: tfds.decode.SkipDecoding()}
        )
        return fields[keys.image], tf.cast(fields[keys.label], tf.int32)

    return open_one


def _newest_prepared_folder(name: str, data_dir: str | None) -> Path | None:
    if not data_dir:
        return None
    name, _, version = name.partition(":")
    infos = Path(data_dir).expanduser().glob(f"{name}/{version or '*'}/dataset_info.json")
    return max((info.parent for info in infos), key=_version_numbers, default=None)


def _version_numbers(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in folder.name.split("."))
