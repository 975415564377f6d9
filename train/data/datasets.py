"""Opens a data set: its two splits, in memory or on the disk, and how inputs are normalised."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from train.config import DataConfig
from train.data import EMBEDDED, coco, files, own_function, tfds_sets
from train.data.normalization import Normalization, measured
from train.data.source import Source, Target
from train.data.splits import Split, faults_named, read_into_memory
from train.errors import UserError, see

MAX_BYTES_IN_MEMORY = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set.

    Args:
        input_shape: Of what the model sees: (height, width, channels) of images.
        image_size: Pixels that images are cropped and resized to; null: they are as they come.
        remark: What cannot be promised, or is left out.
    """

    name: str
    train: Split
    test: Split
    input_shape: tuple[int, ...]
    target: Target
    normalization: Normalization
    image_size: int | None = None
    version: str | None = None
    remark: str = ""

    def facts(self) -> dict[str, Any]:
        """What a run's files tell of the data."""
        return {
            "data_version": self.version,
            "training_examples": self.train.count,
            "test_examples": self.test.count,
            "input_offset": self.normalization.offset,
            "input_scale": self.normalization.scale,
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of a model for these data: logits of classes, values, or both for every anchor."""
        return self.target.output_shape(self.input_shape)


def load(config: DataConfig) -> DataSet:
    """Opens the training and the test split, and reads them if they shall be in memory."""
    source = _opener(config)(config)
    _check_sizes(source, config)
    train = source.open("data.train_split", config.train_split, config.take)
    test = source.open("data.test_split", config.test_split)
    if _moves_into_memory(source, train, test, config):
        with faults_named(train, test):
            train, test = (read_into_memory(split, source.spec) for split in (train, test))
    shape, size = tuple(source.spec[0].shape), config.image_size
    return DataSet(
        name=config.name,
        train=train,
        test=test,
        input_shape=(size, size, shape[-1]) if size else shape,
        target=source.target,
        normalization=measured(train, source.spec[0], config),
        image_size=size,
        version=source.version,
        remark=source.remark or own_function.remark(config, train),
    )


def _opener(config: DataConfig) -> Callable[[DataConfig], Source]:
    path = Path(config.name).expanduser()
    if config.is_function:
        return own_function.function
    if config.name in EMBEDDED or (path / "dataset_info.json").is_file():
        return tfds_sets.tfds_set
    if path.is_dir() and coco.annotation_files(path):
        return coco.folder_of_coco
    if path.is_dir():
        return files.arrays if any(path.glob("[xy]_*.npy")) else files.folder_of_images
    if path.is_file() and path.suffix == ".npz":
        return files.arrays
    # TFDS has names with a slash of its own: mnist_corrupted/shot_noise.
    if path.is_file() or path.suffix == ".npz" or re.match(r"[/~.]", config.name):
        there = "is no .npz file" if path.is_file() else "does not exist"
        raise UserError(
            f"data.name={config.name} {there}. Expected a .npz file, a folder of images by class, "
            f"in COCO's layout, of .npy files or of a prepared TensorFlow Datasets set, a name "
            f"such as mnist, or the import path of a function." + see("data", "launcher/data")
        )
    return tfds_sets.tfds_set


def _check_sizes(source: Source, config: DataConfig) -> None:
    """Refuses, before anything is fetched, what the inputs' shape forbids."""
    shape, who = tuple(source.spec[0].shape), f"data.name={config.name}"
    if None in shape:
        many = f"{who} has images of many sizes"
        if config.image_size is None:
            raise UserError(
                f"{many}. Expected data.image_size, the height and width in pixels of what the "
                f"model sees, such as 224."
            )
        if config.storage == "memory":
            raise UserError(f"data.storage is memory, but {many}. Expected disk or auto.")
        if config.normalization == "standard":
            raise UserError(
                f"data.normalization is standard, which measures all training images, but {many} "
                f"and stays on the disk. Expected imagenet, unit or none."
            )
    crops = ("pad_crop_flip", "random_resized_crop")
    if source.target.kind == "boxes" and config.augmentation in crops:
        raise UserError(
            f"data.augmentation is {config.augmentation}, but {who} has boxes for targets, which a "
            f"crop would cut. Expected flip or none."
        )
    if len(shape) != 3 and (config.image_size or config.augmentation != "none"):
        key = "image_size" if config.image_size else "augmentation"
        raise UserError(
            f"data.{key} is {getattr(config, key)}, but {who} has inputs of shape {shape}. "
            f"Expected images (height, width, channels) for that."
        )
    seen = (config.image_size,) if config.image_size else shape[:2]
    if config.augmentation == "pad_crop_flip" and config.pad >= min(seen):
        raise UserError(
            f"data.pad is {config.pad}, but the images of {who} have {min(seen)} pixels on a side. "
            f"Expected less: a crop could hold padding alone."
        )


def _moves_into_memory(source: Source, train: Split, test: Split, config: DataConfig) -> bool:
    """Whether to read both splits now; what is no array of a user's function, only if asked."""
    asked, stays = config.storage == "memory", train.open is None and train.arrays is None
    if config.storage == "disk" or None in source.spec[0].shape or (stays and not asked):
        return False
    parts = tf.nest.flatten(source.spec)
    example_bytes = sum(math.prod(part.shape) * part.dtype.size for part in parts)
    size_bytes = (train.count + test.count) * example_bytes
    if asked and size_bytes > MAX_BYTES_IN_MEMORY:
        raise UserError(
            f"data.name={config.name} takes {size_bytes / 2**30:.1f} GiB in memory. Expected at "
            f"most {MAX_BYTES_IN_MEMORY / 2**30:.0f}: set data.storage=disk, or name a part "
            f"of it, such as '{config.train_split}[:10%]'."
            + see("a-data-set-that-is-too-large-for-memory")
        )
    return size_bytes <= MAX_BYTES_IN_MEMORY
