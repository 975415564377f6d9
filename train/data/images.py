"""Pixels of encoded images; random and central crops.

Random ones are functions of (seed, step, place in the global batch), so the number of replicas
changes no image. Their generator is named, Philox: TensorFlow's own choice differs between kinds of
devices.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

AREA_RANGE = (0.08, 1.0)
RATIO_RANGE = (3 / 4, 4 / 3)
ATTEMPTS = 10
RESIZED_OVER_CROPPED = 256 / 224

# Sets these draws apart from others that may come from the same seed.
_STREAM = 0x61756D


def key_of(seed: int, *numbers: Any) -> Any:
    """Key (2,) int64 of everything random about the images of a step, or of a step and a place."""
    key = tf.constant([seed, _STREAM], tf.int64)
    for number in numbers:
        number = tf.cast(number, tf.int64)
        key = tf.random.experimental.stateless_fold_in(key, number, alg="philox")
    return key


def decode(image: Any, channels: int) -> Any:
    """All pixels (height, width, channels) uint8 of encoded bytes; given pixels are passed on."""
    if image.dtype != tf.string:
        return image
    pixels = tf.io.decode_image(image, channels, expand_animations=False)
    return tf.ensure_shape(pixels, (None, None, channels))


def pad_crop_flip(images: Any, place: Any, key: Any, *, batch_size: int, pad: int) -> Any:
    """Crops of the zero-padded images at random places, half of them flipped (He et al. 2016).

    Padding is zero as the model sees it: give normalised images (rows, height, width, channels),
    their places (rows,) in the global batch of `batch_size`, and the step's key. One gather of
    pixels takes a third of the time of a slice for each image, and a ninth of a reversed copy's.
    """
    rows, height, width, channels = images.shape
    draws = _draws(place, key, batch_size)
    corners, flipped = draws[:, :2] % (2 * pad + 1), are_flipped(place, key, batch_size)[:, None]
    ahead, back = tf.range(width), tf.range(width)[::-1]
    y = corners[:, 0, None] + tf.range(height)
    x = corners[:, 1, None] + tf.where(flipped, back, ahead)
    line = tf.range(rows)[:, None] * (height + 2 * pad) + y
    pixel = line[:, :, None] * (width + 2 * pad) + x[:, None, :]
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    return tf.gather(tf.reshape(padded, (-1, channels)), pixel)


def are_flipped(place: Any, key: Any, batch_size: int) -> Any:
    """Which images `pad_crop_flip` flips, (rows,), whatever their padding."""
    return _draws(place, key, batch_size)[:, 2] % 2 == 1


def flipped_boxes(boxes: Any, flipped: Any) -> Any:
    """Boxes (rows, n, 4), y, x, y, x as shares, as images show them, some of which are flipped."""
    top, left, bottom, right = tf.unstack(boxes, axis=-1)
    mirrored = tf.stack([top, 1 - right, bottom, 1 - left], axis=-1)
    return tf.where(flipped[:, None, None], mirrored, boxes)


def _draws(place: Any, key: Any, batch_size: int) -> Any:
    """Three whole numbers for each place (rows,) of the global batch."""
    drawn = tf.random.stateless_uniform(
        [batch_size, 3], key, minval=0, maxval=2**31 - 1, dtype=tf.int32, alg="philox"
    )
    return tf.gather(drawn, place)


def random_resized_crop(image: Any, key: Any, *, size: int, channels: int) -> Any:
    """A random part of one image, resized to (size, size, channels) float32.

    Of a JPEG only that part is decoded, whose outermost two pixels may differ a little from the
    whole image's: colours are stored at half the resolution. An antialiased resize would take four
    times as long as decoding the part (3.6 ms against 0.9 ms for 250x300 pixels).
    """

    def of_pixels() -> Any:
        pixels = decode(image, channels)
        top, left, height, width = tf.unstack(random_window(tf.shape(pixels), key))
        return pixels[top : top + height, left : left + width]

    def of_jpeg() -> Any:
        window = random_window(tf.io.extract_jpeg_shape(image), key)
        return tf.io.decode_and_crop_jpeg(image, window, channels)

    encoded = image.dtype == tf.string
    part = tf.cond(tf.io.is_jpeg(image), of_jpeg, of_pixels) if encoded else of_pixels()
    return tf.image.resize(tf.ensure_shape(part, (None, None, channels)), [size, size])


def random_window(shape: Any, key: Any) -> Any:
    """(top, left, height, width), (4,) int32, of a random part of an image of `shape`.

    Area and, on a logarithmic scale, the ratio of width to height are uniform in their ranges. Of
    ten parts the first that fits into the image is taken; if none fits, the largest central part
    whose ratio is allowed (Szegedy et al. 2015, as torchvision draws it).
    """
    size = tf.cast(shape[:2], tf.float32)
    draws = tf.random.stateless_uniform([ATTEMPTS, 4], key, alg="philox")
    least, most = AREA_RANGE
    area = (least + (most - least) * draws[:, 0]) * size[0] * size[1]
    low, high = (math.log(ratio) for ratio in RATIO_RANGE)
    ratio = tf.exp(low + (high - low) * draws[:, 1])
    parts = tf.round(tf.stack([tf.sqrt(area / ratio), tf.sqrt(area * ratio)], axis=1))
    corners = tf.floor(draws[:, 2:] * (size - parts + 1))
    clipped = tf.clip_by_value(size[1] / size[0], *RATIO_RANGE)
    central = tf.round(tf.minimum(size, tf.stack([size[1] / clipped, size[0] * clipped])))
    fits = tf.reduce_all((parts >= 1) & (parts <= size), axis=1)
    first = tf.argmax(tf.cast(fits, tf.int32))
    found = tf.concat([corners[first], parts[first]], axis=0)
    fallback = tf.concat([tf.floor((size - central) / 2), central], axis=0)
    return tf.cast(tf.where(fits[first], found, fallback), tf.int32)


def single_crop(image: Any, size: int) -> Any:
    """The middle (size, size, channels) of an image whose shorter side is first 256/224 of that."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    shorter = float(round(size * RESIZED_OVER_CROPPED))
    sides = tf.cast(tf.round(shape * shorter / tf.reduce_min(shape)), tf.int32)
    return tf.image.resize_with_crop_or_pad(tf.image.resize(image, sides), size, size)


def fitted(image: Any, boxes: Any, size: int, *, around: Any) -> tuple[Any, Any]:
    """A whole image whose longer side becomes `size`, and its boxes: aspect ratios stay.

    What is missing below or on the right has the colour `around` (channels,), or (1,). Boxes
    (n, 4) are y, x, y, x, shares of the image before, and of (size, size) behind.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    sides = tf.maximum(tf.round(shape * size / tf.reduce_max(shape)), 1.0)
    height, width = tf.unstack(tf.cast(sides, tf.int32))
    # Antialiased, as Lin et al.'s images are not: ours may become much smaller.
    small = tf.image.resize(image, [height, width], antialias=True) - around
    whole = tf.image.pad_to_bounding_box(small, 0, 0, size, size) + around
    return whole, boxes * tf.tile(sides / size, [2])
