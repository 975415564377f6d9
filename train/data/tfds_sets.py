"""Images with a label each, or with boxes, of TensorFlow Datasets: names, copies, builder folders.

What can be promised depends on the files. `array_record` and `parquet` folders are read by index.
`TFRecord` folders can only be read from the front: files in an order of the epoch's own, 16 at a
time, through the shuffle buffer.
"""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from train.config import DataConfig
from train.data import EMBEDDED
from train.data.source import Pieces, Source, target_of
from train.data.splits import Plan, Split, by_python, streamed
from train.errors import UserError, did_you_mean, see

RANDOM_ACCESS = {tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.PARQUET}
FILES_READ_TOGETHER = 16
ANSWER_S = 5.0
OBJECTS, MOST_OBJECTS = "objects", 128  # of an image
COPY = (
    "To use a copy: run the same command where there is a network, with --data.data_dir=FOLDER, "
    "and bring FOLDER here, in which the set is <name>/<version>/dataset_info.json and its files; "
    "or name arrays (.npz), a folder of images or one in COCO's layout by data.name."
)


def tfds_set(config: DataConfig) -> Source:
    """The data set that TensorFlow Datasets knows by this name or has written into this folder.

    Nothing is fetched before a split is opened.
    """
    builder = _builder(config)
    features = builder.info.features
    image, label = (builder.info.supervised_keys or ("image", "label"))[:2]
    has_objects = label not in features and _has_objects(features)
    kinds = {image: tfds.features.Image}
    kinds |= {} if has_objects else {label: tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], kinds[key]) for key in kinds):
        raise UserError(
            f"data.name={config.name} holds {', '.join(features)}. Expected an image and a class "
            f"label, or objects with a bbox and a label each."
        )
    of_target = tf.TensorSpec([], tf.int32)
    if has_objects:
        of_target = {
            "boxes": tf.TensorSpec((MOST_OBJECTS, 4), tf.float32),
            "classes": tf.TensorSpec((MOST_OBJECTS,), tf.int32),
        }
    spec = (tf.TensorSpec(features[image].shape, tf.uint8), of_target)
    stays_on_disk = config.storage == "disk" or None in spec[0].shape

    def opened(record: Any) -> tuple[Any, Any]:
        undecoded = {image: tfds.decode.SkipDecoding()}
        fields = features.deserialize_example(record, decoders=undecoded)
        if has_objects:
            return fields[image], _padded(fields[OBJECTS])
        return fields[image], tf.cast(fields[label], tf.int32)

    def splits() -> Any:
        _prepare(builder, config, stays_on_disk=stays_on_disk)
        return builder.info.splits

    def part(pieces: Pieces) -> Split:
        count = sum(len(rows) for _, rows in pieces)
        split = "+".join(f"{name}[{rows.start}:{rows.stop}]" for name, rows in pieces)
        parts = builder.info.splits[split].file_instructions
        formats = builder.info.available_file_formats()
        if formats & RANDOM_ACCESS:
            source = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
            where = np.arange(count)
            if len(source) != count:  # parquet, of which TFDS reads whole files
                begins = np.cumsum([0, *(part.examples_in_shard for part in parts[:-1])])
                files = [np.arange(part.take) + part.skip for part in parts]
                where = np.concatenate(list(map(np.add, begins, files)))

            def fetch(indices: Any) -> Any:
                records = source.__getitems__(where[indices].tolist())
                return np.array([bytes(record) for record in records], np.object_)

            return by_python(count, fetch, tf.TensorSpec([], tf.string), open=opened)
        if tfds.core.FileFormat.TFRECORD not in formats:
            raise UserError(
                f"data.name names a set that is stored as {builder.info.file_format}. Expected "
                f"array_record, parquet or tfrecord files."
            )
        return streamed(count, _records_of_epoch(parts), open=opened)

    labels = features[OBJECTS]["label"] if has_objects else features[label]
    names = tuple(labels.names or ())
    target = target_of(spec[1], config, num_classes=labels.num_classes, names=names)
    remark = f"{config.name}: crowds and boxes without an area are left out" if has_objects else ""
    return Source(spec, target, splits, part, version=builder.info.full_name, remark=remark)


def _has_objects(features: Any) -> bool:
    """Whether one feature is a list of boxes with a class each, as in `coco/2017`."""
    inner = getattr(features[OBJECTS], "feature", None) if OBJECTS in features else None
    if not isinstance(inner, tfds.features.FeaturesDict) or not {"bbox", "label"} <= set(inner):
        return False
    box, label = inner["bbox"], inner["label"]
    return isinstance(box, tfds.features.BBoxFeature) and isinstance(
        label, tfds.features.ClassLabel
    )


def _padded(objects: Any) -> dict[str, Any]:
    """Boxes (n, 4), shares of the image, and classes (n,), -1 behind the last one."""
    boxes, classes = objects["bbox"], tf.cast(objects["label"], tf.int32)
    kept = tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1)
    kept &= ~objects.get("is_crowd", tf.zeros_like(kept))
    boxes, classes = tf.boolean_mask(boxes, kept), tf.boolean_mask(classes, kept)
    many = f"An image has more than {MOST_OBJECTS} objects."
    with tf.control_dependencies(
        [tf.debugging.assert_less(tf.size(classes), MOST_OBJECTS + 1, many)]
    ):
        behind = MOST_OBJECTS - tf.shape(classes)[0]
    return {
        "boxes": tf.ensure_shape(tf.pad(boxes, [[0, behind], [0, 0]]), (MOST_OBJECTS, 4)),
        "classes": tf.ensure_shape(
            tf.pad(classes, [[0, behind]], constant_values=-1), (MOST_OBJECTS,)
        ),
    }


def _builder(config: DataConfig) -> Any:
    """The embedded set, a builder folder, a prepared copy in the data folder, or TFDS' own code."""
    folder = EMBEDDED.get(config.name) or Path(config.name).expanduser()
    # A prepared folder is read as it is. The code that TFDS has for the same name would insist on
    # its own version and features (cifar10: the file names) and download the set again.
    data_dir = config.data_dir or os.environ.get("TFDS_DATA_DIR")
    if not (folder / "dataset_info.json").is_file() and data_dir:
        name, _, version = config.name.partition(":")
        infos = Path(data_dir).expanduser().glob(f"{name}/{version or '*'}/dataset_info.json")
        folder = max((info.parent for info in infos), key=_version_numbers, default=folder)
    if (folder / "dataset_info.json").is_file():
        return tfds.builder_from_directory(folder)
    try:
        return tfds.builder(config.name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        raise UserError(
            f"data.name={config.name} is not known. Expected digits (embedded), a TensorFlow "
            f"Datasets name such as mnist, fashion_mnist, cifar10 or cifar100, or the path of a "
            f"builder folder.{did_you_mean(config.name, known)}" + see("data", "launcher/data")
        ) from error
    except (AssertionError, ValueError) as error:  # an unknown version or configuration of a set
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"data.name={config.name}: TensorFlow Datasets says {reason!r}") from error


def _version_numbers(folder: Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


def _prepare(builder: Any, config: DataConfig, *, stays_on_disk: bool) -> None:
    """Lets TFDS download and write the data set, if it is not there.

    Sets that stay on the disk are written as `array_record`, which is read by index.
    """
    if builder.data_path.exists():
        return
    print(f"{config.name} is not in {builder.data_dir} yet: TensorFlow Datasets fetches it.")
    try:
        # TFDS asks every host eight times, which takes minutes: the first one is asked here, once.
        for url in list(builder.url_infos)[:1]:
            with contextlib.suppress(urllib.error.HTTPError):  # that is an answer, too
                asked = urllib.request.Request(url, method="HEAD")
                urllib.request.urlopen(asked, timeout=ANSWER_S).close()
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
            f"{builder.data_dir}. {COPY}{archives}" + see("no-network")
        ) from error


def _records_of_epoch(parts: Any) -> Callable[[Plan, Any], Any]:
    """Serialized examples of parts of files, from the front."""
    files, skips, takes = zip(*((p.filename, p.skip, p.take) for p in parts), strict=True)

    def records_of_file(number: Any) -> Any:
        skip, take = (tf.gather(tf.constant(all_, tf.int64), number) for all_ in (skips, takes))
        return tf.data.TFRecordDataset(tf.gather(files, number)).skip(skip).take(take)

    def records(plan: Plan, epoch: Any) -> Any:
        numbers = tf.data.Dataset.range(len(files))
        return numbers.map(lambda number: plan.order(number, epoch, len(files))).interleave(
            records_of_file,
            cycle_length=1 if plan.order_seed is None else FILES_READ_TOGETHER,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    return records
