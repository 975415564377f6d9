"""Random inputs in the shape of a paper's data: `tests.train.stand_in:images`."""

from typing import Any

import numpy as np


def images(shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, count: int = 8) -> Any:
    """(train, test) of bytes and classes; every class that there is occurs, as far as they go."""
    random = np.random.default_rng(0)

    def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.r_[classes - 1, np.arange(count - 1) % classes].astype(np.int32)
        return random.integers(0, 256, (count, *shape), dtype=np.uint8), labels

    return pair(count), pair(4)


def tokens(length: int = 32, kinds: int = 62, count: int = 8) -> Any:
    """(train, test) of whole numbers and the number behind them."""
    (train, labels), (test, more) = images((length,), kinds, count)
    return (train % kinds, labels), (test % kinds, more)
