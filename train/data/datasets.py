"""Opens a data set: its two splits, in memory or on the disk, and how pixels are normalised."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from train.config import DataConfig
from train.data.builders import check_sizes, find_builder, image_and_label_keys, prepare
from train.data.disk import IndexedSplit, StreamedSplit, open_split
from train.data.memory import MemorySplit, read_into_memory
from train.errors import UserError

MAX_BYTES_IN_MEMORY = 4 * 2**30

# Mean and standard deviation of the pixels of ImageNet's training images, red, green, blue, as
# fractions of 255: the constants of torchvision's reference training and of its released models.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Split = MemorySplit | IndexedSplit | StreamedSplit
Statistics = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set.

    Args:
        name: Of the data set.
        train: Training images.
        test: Test images.
        num_classes: Of the labels.
        image_shape: (height, width, channels) of what the model sees.
        image_size: Pixels that images are cropped and resized to; null: they are as they come.
        pixel_offset: (channels,) float32, subtracted from every pixel.
        pixel_scale: (channels,) float32, divides every pixel after that.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    image_shape: tuple[int, int, int]
    image_size: int | None
    pixel_offset: npt.NDArray[np.float32]
    pixel_scale: npt.NDArray[np.float32]

    @property
    def train_count(self) -> int:
        """Training images."""
        return self.train.count

    @property
    def test_count(self) -> int:
        """Test images."""
        return self.test.count


def load(config: DataConfig) -> ImageSet:
    """Opens the training and the test split, and reads them if they shall be in memory.

    Raises:
        UserError: If the data set is not known, has no such split, does not consist of labelled
            images, or cannot be stored, normalised or augmented as `config` says.
    """
    builder = find_builder(config)
    keys = image_and_label_keys(builder, config)
    stored_shape = builder.info.features[keys.image].shape
    check_sizes(stored_shape, config)
    prepare(builder, config, stored_shape)
    stored_train = open_split(builder, config.train_split, keys, name=config.name, take=config.take)
    stored_test = open_split(builder, config.test_split, keys, name=config.name)
    train: Split = stored_train
    test: Split = stored_test
    if _belongs_in_memory(stored_shape, train.count + test.count, config):
        train = read_into_memory(stored_train, stored_shape)
        test = read_into_memory(stored_test, stored_shape)
    offset, scale = _pixel_statistics(train, stored_shape[-1], config)
    size = config.image_size
    return ImageSet(
        name=config.name,
        train=train,
        test=test,
        num_classes=builder.info.features[keys.label].num_classes,
        image_shape=(size, size, stored_shape[-1]) if size else stored_shape,
        image_size=size,
        pixel_offset=offset,
        pixel_scale=scale,
    )


def _belongs_in_memory(stored_shape: Any, count: int, config: DataConfig) -> bool:
    if config.storage == "disk" or None in stored_shape:
        return False
    size_bytes = count * math.prod(stored_shape)
    if config.storage == "memory" and size_bytes > MAX_BYTES_IN_MEMORY:
        raise UserError(
            f"data.name={config.name} takes {size_bytes / 2**30:.1f} GiB in memory. Expected at "
            f"most {MAX_BYTES_IN_MEMORY / 2**30:.0f}: set data.storage=disk, or name a part of it, "
            f"such as '{config.train_split}[:10%]'."
        )
    return size_bytes <= MAX_BYTES_IN_MEMORY


def _pixel_statistics(train: Split, channels: int, config: DataConfig) -> Statistics:
    """Offset and scale of every channel, from the training images alone."""
    mean, std = np.zeros(channels), np.ones(channels)
    match config.normalization:
        case "imagenet":
            if channels != 3:
                raise UserError(
                    f"data.normalization=imagenet is for 3 channels, but data.name={config.name} "
                    f"has {channels}. Expected standard, unit or none."
                )
            mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
        case "standard":
            if not isinstance(train, MemorySplit):
                raise UserError(
                    f"data.normalization=standard measures all training images, but those of "
                    f"data.name={config.name} stay on the disk. Expected imagenet, unit or none."
                )
            mean, std = _mean_and_std(train.images)
        case "unit":
            # Not 255 where it can be measured: the digits' pixels end at 16.
            std *= float(train.images.max()) if isinstance(train, MemorySplit) else 255.0
    return mean.astype(np.float32), std.astype(np.float32)


def _mean_and_std(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Of every channel (channels,), float64, from exact counts of its values.

    NumPy's own would hold all pixels as 8 bytes each: 1.2 GB and 7 s for CIFAR-10.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256))
    for begin in range(0, len(images), 1024):
        chunk = images[begin : begin + 1024].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[:, channel], minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256.0)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.maximum(np.sqrt(variance), 1e-6)
