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


@dataclasses.dataclass(frozen=True)
class Normalization:
    """(x - offset) / scale, for every entry of the inputs' last axis: a channel, or a value."""

    offset: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    def __call__(self, inputs: Any) -> Any:
        """Normalised `inputs` (rows, ..., channels), float32."""
        # Spelt out for a line of pixels: broadcasting over 3 channels takes four times as long.
        line = inputs.shape[2:] if len(inputs.shape) > 2 else inputs.shape[1:]
        numbers = np.array([self.offset, self.scale], np.float32)
        offset, scale = (np.broadcast_to(one, line) for one in numbers)
        return (tf.cast(inputs, tf.float32) - offset) / scale

    def undone(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What normalised `inputs` (..., channels) were before."""
        return inputs * np.array(self.scale) + np.array(self.offset)

    def layer(self) -> Any:
        """The same as a Keras layer, for the front of a model."""
        mean, std = np.array([self.offset, self.scale], np.float32)
        return keras.layers.Normalization(
            axis=-1, mean=mean, variance=std**2, name=LAYER, dtype="float32"
        )

    @property
    def changes(self) -> bool:
        """Whether inputs are not as they were before."""
        return any(self.offset) or any(scale != 1 for scale in self.scale)


def measured(train: Split, spec: Any, config: DataConfig) -> Normalization:
    """As `config.normalization` says, from the training examples alone; `spec` is of an input."""
    channels = spec.shape[-1]
    inputs = train.arrays[0] if train.arrays else None
    has = f"data.name={config.name} has"
    stays = f"those of data.name={config.name} stay where they are"
    mean, std = np.zeros(channels), np.ones(channels)
    match config.normalization:
        case "imagenet":
            if channels != 3 or len(spec.shape) != 3:
                raise UserError(
                    f"data.normalization=imagenet is for 3 channels, but {has} inputs of shape "
                    f"{tuple(spec.shape)}. Expected standard, unit or none."
                )
            mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
        case "standard":
            if inputs is None:
                raise UserError(
                    f"data.normalization=standard measures all training inputs, but {stays}. "
                    f"Expected imagenet, unit or none, or data.storage=memory."
                )
            mean, std = _mean_and_std(inputs)
        case "unit":
            # Not 255 where it can be measured: the digits' pixels end at 16.
            if inputs is not None:
                std *= max(float(abs(inputs.max())), float(abs(inputs.min()))) or 1.0
            elif spec.dtype == tf.uint8:
                std *= 255.0
            else:
                raise UserError(
                    f"data.normalization=unit divides by the largest input, but {stays}, and are "
                    f"no pixels of 0 to 255. Expected none, or data.storage=memory."
                )
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise UserError(f"{has} training inputs that are not finite. Expected numbers.")
    return Normalization(*(tuple(numbers.astype(np.float32).tolist()) for numbers in (mean, std)))


def _mean_and_std(inputs: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Of every channel (channels,), float64, in parts that fit into memory.

    NumPy's own would hold all pixels as 8 bytes each: 1.2 GB and 7 s for CIFAR-10.
    """
    axes, count = tuple(range(inputs.ndim - 1)), inputs.size // inputs.shape[-1]
    parts = [inputs[begin : begin + 1024] for begin in range(0, len(inputs), 1024)]
    mean = sum(part.sum(axis=axes, dtype=np.float64) for part in parts) / count
    std = np.sqrt(sum(np.square(part - mean).sum(axis=axes) for part in parts) / count)
    # A value that never differs is left at 0, however many digits its mean has.
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 1.0)
