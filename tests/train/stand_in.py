"""Random inputs in the shape of a paper's data: `tests.train.stand_in:images`."""

from typing import Any

import keras
import numpy as np

from train.detection import anchors


def images(shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, count: int = 8) -> Any:
    """(train, test) of bytes and classes; every class that there is occurs, as far as they go."""
    random = np.random.default_rng(0)

    def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.r_[classes - 1, np.arange(count - 1) % classes].astype(np.int32)
        return random.integers(0, 256, (count, *shape), dtype=np.uint8), labels

    return pair(count), pair(4)


def boxes(side: int = 64, classes: int = 80, count: int = 8) -> Any:
    """(train, test) of square images with up to three objects each."""
    random = np.random.default_rng(0)

    def pair(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        corners = random.uniform(0, 0.4, (count, 3, 2))
        sizes = random.uniform(0.3, 0.6, (count, 3, 2))
        kinds = random.integers(-1, classes, (count, 3), dtype=np.int32)
        kinds[0] = [classes - 1, 0, -1]
        pixels = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        found = np.concatenate([corners, corners + sizes], axis=-1).astype(np.float32)
        return pixels, {"boxes": found, "classes": kinds}

    return pair(count), pair(4)


def detector(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> keras.Model:
    """A model for boxes that is traced in no time: one convolution below the outputs of a level."""
    image = keras.Input(input_shape, name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    levels = []
    for stride in anchors.STRIDES:
        y = keras.layers.AveragePooling2D(stride // 2, padding="same")(x)
        outputs = anchors.AT_A_PLACE * output_shape[1]
        y = keras.layers.Conv2D(outputs, 1, name=f"level_{stride}")(y)
        levels.append(keras.layers.Reshape((-1, output_shape[1]))(y))
    return keras.Model(image, keras.layers.Concatenate(axis=1)(levels), name="detector")


def tokens(length: int = 32, kinds: int = 62, count: int = 8) -> Any:
    """(train, test) of whole numbers and the number behind them."""
    (train, labels), (test, more) = images((length,), kinds, count)
    return (train % kinds, labels), (test % kinds, more)
