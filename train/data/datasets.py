"""Holds the images of a data set in memory, with what is needed to normalise them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from train.config import DataConfig
from train.data.builder_folder import LabelledImages
from train.data.builders import find_builder, image_and_label_keys, prepare
from train.errors import UserError

MAX_BYTES_IN_MEMORY = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set in memory.

    Args:
        name: Of the data set.
        train: Training images (count, height, width, channels) uint8 and labels (count,) int32.
        test: As `train`.
        num_classes: Of the labels.
        pixel_offset: (channels,) float32, subtracted from every pixel.
        pixel_scale: (channels,) float32, divides every pixel after that.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    num_classes: int
    pixel_offset: npt.NDArray[np.float32]
    pixel_scale: npt.NDArray[np.float32]

    @property
    def train_count(self) -> int:
        """Training images."""
        return len(self.train.labels)

    @property
    def test_count(self) -> int:
        """Test images."""
        return len(self.test.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def load(config: DataConfig) -> ImageSet:
    """Reads the training and the test split into memory.

    Raises:
        UserError: If the data set is not known, has no such split, does not consist of labelled
            images of one size, or is too large for memory.
    """
    builder = find_builder(config)
    image_key, label_key = image_and_label_keys(builder, config)
    prepare(builder, config)
    splits = {
        split: _read_split(builder, split, image_key=image_key, label_key=label_key, config=config)
        for split in (config.train_split, config.test_split)
    }
    train = splits[config.train_split]
    offset, scale = _pixel_statistics(train.images, config.normalization)
    return ImageSet(
        name=config.name,
        train=train,
        test=splits[config.test_split],
        num_classes=builder.info.features[label_key].num_classes,
        pixel_offset=offset,
        pixel_scale=scale,
    )


def _read_split(
    builder: Any, split: str, *, image_key: str, label_key: str, config: DataConfig
) -> LabelledImages:
    try:
        count = builder.info.splits[split].num_examples
        # No cache: every image is read once.
        dataset = builder.as_dataset(
            split=split, read_config=tfds.ReadConfig(try_autocache=False), shuffle_files=False
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"data.name={config.name} has no split {split!r}. Expected "
            f"{' or '.join(builder.info.splits)}, or a part of one, such as 'train[:10%]'."
        ) from error
    size_bytes = count * int(np.prod(builder.info.features[image_key].shape))
    if size_bytes > MAX_BYTES_IN_MEMORY:
        raise UserError(
            f"split {split!r} of data.name={config.name} takes {size_bytes / 2**30:.1f} GiB in "
            f"memory. Expected at most {MAX_BYTES_IN_MEMORY / 2**30:.0f}: name a part of it, such "
            f"as '{split}[:10%]'."
        )
    if count == 0:
        raise UserError(f"split {split!r} of data.name={config.name} has no images.")
    pairs = dataset.map(lambda example: (example[image_key], example[label_key]))
    images, labels = zip(*tfds.as_numpy(pairs.batch(1024)), strict=True)
    return LabelledImages(np.concatenate(images), np.concatenate(labels).astype(np.int32))


def _pixel_statistics(
    images: npt.NDArray[np.uint8], normalization: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Offset and scale of every channel, from the training images alone."""
    channels = images.shape[-1]
    if normalization == "standard":
        mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
        std = images.std(axis=(0, 1, 2), dtype=np.float64)
        return mean.astype(np.float32), np.maximum(std, 1e-6).astype(np.float32)
    # Not 255: the digits' pixels end at 16.
    scale = float(images.max()) if normalization == "unit" else 1.0
    return np.zeros(channels, np.float32), np.full(channels, scale, np.float32)
