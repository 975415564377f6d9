"""Arrays as batches for `fit`."""

from typing import Any

import keras
import tensorflow as tf


def in_batches(x: Any, y: Any = None, size: int | None = None, **options: Any) -> tf.data.Dataset:
    """`x` and `y` in their order, all at once or in batches of `size`.

    `fit` on arrays makes a dataset that shuffles and slices them, anew every time; that takes far
    longer than a step of a small network. Here the size of a batch is unknown to a trace as well.
    """
    size = size or len(keras.tree.flatten(x)[0])
    x = tuple(x) if isinstance(x, list) else x
    return tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(size, **options)
