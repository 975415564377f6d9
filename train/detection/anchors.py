"""The anchors of RetinaNet (Lin et al. 2018, section 4): boxes that its outputs are offsets from.

Boxes are (y, x, y, x), top left and bottom right, in pixels of the square image that a model sees.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

STRIDES = (8, 16, 32, 64, 128)
"""Pixels between the places of the pyramid's levels, P3 to P7."""
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)  # height over width
AT_A_PLACE = len(SCALES) * len(RATIOS)
PUBLISHED_SIZE = 4.0


def places(side: int) -> tuple[int, ...]:
    """Places on a side of each level, for an image of `side` pixels, a multiple of 32."""
    return tuple(math.ceil(side / stride) for stride in STRIDES)


def count(side: int) -> int:
    """Anchors of an image of `side` pixels."""
    return AT_A_PLACE * sum(n * n for n in places(side))


@functools.cache
def side_of(anchors: int) -> int:
    """The pixels on a side of the square image that has so many anchors.

    Raises:
        ValueError: If there is none.
    """
    side = 32
    while count(side) < anchors:
        side += 32
    if count(side) != anchors:
        raise ValueError(
            f"{anchors} outputs are not those of a square image whose side is a multiple of 32 "
            f"pixels: {count(32)}, {count(64)}, {count(96)}, ... anchors."
        )
    return side


@functools.cache
def boxes(side: int, size: float = PUBLISHED_SIZE) -> npt.NDArray[Any]:
    """All anchors (count, 4) float32: level by level, row by row, the nine of a place together.

    Args:
        side: Pixels of the image.
        size: Side of the smallest square anchor over its level's stride. Published: 4, which is 32
            pixels on the first level.
    """
    found = []
    for stride, n in zip(STRIDES, places(side), strict=True):
        centre = (np.arange(n) + 0.5) * stride
        sides = [
            (size * stride * scale * ratio**0.5, size * stride * scale / ratio**0.5)
            for scale in SCALES
            for ratio in RATIOS
        ]
        y, x = np.meshgrid(centre, centre, indexing="ij")
        centres = np.stack([y, x], axis=-1)[:, :, None, :]
        half = np.array(sides)[None, None] / 2
        corners = np.concatenate([centres - half, centres + half], axis=-1)
        found.append(corners.reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)
