"""How inputs are normalised, and the same as a layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.config import DataConfig
from train.data.splits import Split
from train.errors import UserError

# Mean and standard deviation of the pixels of ImageNet's training images, red, green, blue, as
# fractions of 255: the constants of torchvision's reference training and of its released models.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LAYER = "normalization_of_the_data"


@dataclasses.dataclass(frozen=True, eq=False)
class Normalization:
    """(x - offset) / scale, for every entry of the inputs' last axis: a channel, or a value.

    Args:
        offset: (channels,) float32.
        scale: (channels,) float32.
    """

    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    def __call__(self, inputs: Any) -> Any:
        """Normalised `inputs` (rows, ..., channels), float32."""
        # Spelt out for a line of pixels: broadcasting over 3 channels takes four times as long.
        line = inputs.shape[2:] if len(inputs.shape) > 2 else inputs.shape[1:]
        offset, scale = np.broadcast_to(self.offset, line), np.broadcast_to(self.scale, line)
        return (tf.cast(inputs, tf.float32) - offset) / scale

    def layer(self) -> Any:
        """The same as a Keras layer, for the front of a model."""
        return keras.layers.Normalization(
            axis=-1, mean=self.offset, variance=self.scale**2, name=LAYER, dtype="float32"
        )

    @property
    def changes(self) -> bool:
        """Whether inputs are not as they were before."""
        return bool(self.offset.any() or (self.scale != 1).any())

    @classmethod
    def of(cls, offset: Any, scale: Any) -> Normalization:
        """Of plain numbers."""
        return cls(np.array(offset, np.float32), np.array(scale, np.float32))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalization) and bool(
            np.array_equal(self.offset, other.offset) and np.array_equal(self.scale, other.scale)
        )


def measured(train: Split, spec: Any, config: DataConfig) -> Normalization:
    """As `config.normalization` says, from the training examples alone.

    Args:
        train: The training split.
        spec: `tf.TensorSpec` of an input.
        config: What is asked for.

    Raises:
        UserError: If what has to be measured cannot be.
    """
    channels = spec.shape[-1]
    arrays = train.arrays
    mean, std = np.zeros(channels), np.ones(channels)
    match config.normalization:
        case "imagenet":
            if channels != 3 or len(spec.shape) != 3:
                raise UserError(
                    f"data.normalization=imagenet is for 3 channels, but data.name={config.name} "
                    f"has inputs of shape {tuple(spec.shape)}. Expected standard, unit or none."
                )
            mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
        case "standard":
            if arrays is None:
                raise UserError(
                    f"data.normalization=standard measures all training inputs, but those of "
                    f"data.name={config.name} stay where they are. Expected imagenet, unit or "
                    f"none, or data.storage=memory."
                )
            mean, std = _mean_and_std(arrays[0])
        case "unit":
            # Not 255 where it can be measured: the digits' pixels end at 16.
            if arrays is not None:
                std *= max(float(abs(arrays[0].max())), float(abs(arrays[0].min()))) or 1.0
            elif spec.dtype == tf.uint8:
                std *= 255.0
            else:
                raise UserError(
                    f"data.normalization=unit divides by the largest input, but those of "
                    f"data.name={config.name} stay where they are, and are no pixels of 0 to 255. "
                    f"Expected none, or data.storage=memory."
                )
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise UserError(
            f"data.name={config.name} has training inputs that are not finite. Expected numbers."
        )
    return Normalization.of(mean, std)


def _mean_and_std(inputs: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Of every channel (channels,), float64, in parts that fit into memory.

    NumPy's own would hold all pixels as 8 bytes each: 1.2 GB and 7 s for CIFAR-10. Pixels are
    counted by value, which is exact.
    """
    channels = inputs.shape[-1]
    parts = [inputs[begin : begin + 1024] for begin in range(0, len(inputs), 1024)]
    if inputs.dtype == np.uint8:
        counts = np.zeros((channels, 256))
        for part in parts:
            for channel in range(channels):
                counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
        shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256.0)
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    else:
        axes = tuple(range(inputs.ndim - 1))
        count = inputs.size // channels
        mean = sum(part.sum(axis=axes, dtype=np.float64) for part in parts) / count
        variance = sum(np.square(part - mean).sum(axis=axes) for part in parts) / count
    std = np.sqrt(variance)
    # A value that never differs is left at 0, however many digits its mean has.
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 1.0)
