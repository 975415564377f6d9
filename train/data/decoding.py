"""Pixels of encoded images, whole or in part. Pixels that are given are passed on."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def decode(image: Any, channels: int) -> Any:
    """All pixels (height, width, channels) uint8 of encoded bytes (JPEG, PNG, GIF, BMP)."""
    if image.dtype != tf.string:
        return image
    pixels = tf.io.decode_image(image, channels, expand_animations=False)
    return tf.ensure_shape(pixels, (None, None, channels))


def size(image: Any) -> tuple[Any, Any]:
    """Height and width in pixels, scalars; a JPEG is not decoded for that."""
    if image.dtype != tf.string:
        shape = tf.shape(image)
    else:
        shape = tf.cond(
            tf.io.is_jpeg(image),
            lambda: tf.io.extract_jpeg_shape(image),
            lambda: tf.shape(tf.io.decode_image(image, expand_animations=False)),
        )
    return shape[0], shape[1]


def decode_window(image: Any, window: Any, channels: int) -> Any:
    """The pixels of one part; of a JPEG only that part is decoded.

    The outermost two pixels of a JPEG's part may differ a little from those of the whole image:
    its colours are stored at half the resolution and have no neighbours beyond the edge.

    Args:
        image: Encoded bytes, or pixels.
        window: (top, left, height, width), (4,) int32.
        channels: Of the pixels.
    """

    def cut() -> Any:
        top, left, height, width = tf.unstack(window)
        return decode(image, channels)[top : top + height, left : left + width]

    if image.dtype != tf.string:
        return cut()
    pixels = tf.cond(
        tf.io.is_jpeg(image),
        lambda: tf.io.decode_and_crop_jpeg(image, window, channels),
        cut,
    )
    return tf.ensure_shape(pixels, (None, None, channels))
