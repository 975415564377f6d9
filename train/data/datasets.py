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
from train.data import EMBEDDED, arrays, image_folder, own_function, splits, tfds_sets
from train.data.image_folder import broken_images_are_named
from train.data.normalization import Normalization, measured
from train.data.source import Source, Target
from train.data.splits import Split, read_into_memory
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set.

    Args:
        name: Of the data set.
        train: Training examples.
        test: Test examples.
        input_shape: Of what the model sees: (height, width, channels) of images.
        target: What the model shall give.
        normalization: Of inputs.
        image_size: Pixels that images are cropped and resized to; null: they are as they come.
        version: Of the data, if they have one.
        remark: What cannot be promised.
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

    @property
    def train_count(self) -> int:
        """Training examples."""
        return self.train.count

    @property
    def test_count(self) -> int:
        """Test examples."""
        return self.test.count

    def facts(self) -> dict[str, Any]:
        """What a run's files tell of the data."""
        return {
            "data_version": self.version,
            "training_examples": self.train_count,
            "test_examples": self.test_count,
            "input_offset": self.normalization.offset.tolist(),
            "input_scale": self.normalization.scale.tolist(),
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of a model for these data: logits of classes, or values."""
        return self.target.output_shape(self.input_shape)


def load(config: DataConfig) -> DataSet:
    """Opens the training and the test split, and reads them if they shall be in memory.

    Raises:
        UserError: If the data set is not known, has no such split, has inputs or targets of no use,
            or cannot be stored, normalised or augmented as `config` says.
    """
    source = _opener(config)(config)
    check_sizes(source, config)
    train = source.open("data.train_split", config.train_split, config.take)
    test = source.open("data.test_split", config.test_split, None)
    if _moves_into_memory(source, train.count + test.count, config) and train.arrays is None:
        spec = (source.input, source.target_spec)
        with broken_images_are_named(config):
            train, test = read_into_memory(train, spec), read_into_memory(test, spec)
    shape, size = tuple(source.input.shape), config.image_size
    return DataSet(
        name=config.name,
        train=train,
        test=test,
        input_shape=(size, size, shape[-1]) if size else shape,
        target=source.target,
        normalization=measured(train, source.input, config),
        image_size=size,
        version=source.version,
        remark=source.remark,
    )


def _opener(config: DataConfig) -> Callable[[DataConfig], Source]:
    """What opens data of this name."""
    path = Path(config.name).expanduser()
    if config.is_function:
        return own_function.function
    if config.name in EMBEDDED or (path / "dataset_info.json").is_file():
        return tfds_sets.tfds_set
    if path.is_dir():
        has_arrays = any(path.glob("[xy]_*.npy"))
        return arrays.folder_of_arrays if has_arrays else image_folder.folder_of_images
    if path.is_file() and path.suffix == ".npz":
        return arrays.file_of_arrays
    # TFDS has names with a slash of its own: mnist_corrupted/shot_noise.
    if path.is_file() or path.suffix == ".npz" or re.match(r"[/~.]", config.name):
        there = "is no .npz file" if path.is_file() else "does not exist"
        raise UserError(
            f"data.name={config.name} {there}. Expected a .npz file, a folder of images by class, "
            f"of .npy files or of a prepared TensorFlow Datasets set, a name such as mnist, or the "
            f"import path of a function."
        )
    return tfds_sets.tfds_set


def check_sizes(source: Source, config: DataConfig) -> None:
    """Refuses, before anything is fetched, what the inputs' shape forbids.

    Raises:
        UserError: If images of many sizes (shape null) shall be in memory, be measured, or be seen
            by the model in no common size; if the padding is larger than the image; if what is no
            image shall be cropped.
    """
    shape, who = tuple(source.input.shape), f"data.name={config.name}"
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


def _moves_into_memory(source: Source, count: int, config: DataConfig) -> bool:
    """Whether to read both splits now."""
    asked = config.storage == "memory"
    parts: list[Any] = [source.input, *tf.nest.flatten(source.target_spec)]
    if config.storage == "disk" or None in source.input.shape or not (source.moves or asked):
        return False
    size_bytes = count * sum(math.prod(part.shape) * part.dtype.size for part in parts)
    if asked and size_bytes > splits.MAX_BYTES_IN_MEMORY:
        raise UserError(
            f"data.name={config.name} takes {size_bytes / 2**30:.1f} GiB in memory. Expected at "
            f"most {splits.MAX_BYTES_IN_MEMORY / 2**30:.0f}: set data.storage=disk, or name a part "
            f"of it, such as '{config.train_split}[:10%]'."
        )
    return size_bytes <= splits.MAX_BYTES_IN_MEMORY
