"""Where the receptive fields of a map lie: positions, padding, and taps that see a cell.

All arguments are tuples with an entry an axis: sizes of the map, of a field (taps), and strides.
"""

import math
from typing import Any, TypeAlias

import numpy as np

Extents: TypeAlias = tuple[int, ...]


def positions(sizes: Extents, taps: Extents, strides: Extents, padding: str) -> Extents:
    """How many positions there are; below 1 where a field does not fit."""
    if padding == "same":
        return tuple(math.ceil(n / s) for n, s in zip(sizes, strides, strict=True))
    return tuple((n - k) // s + 1 for n, k, s in zip(sizes, taps, strides, strict=True))


def pads(
    sizes: Extents, taps: Extents, strides: Extents, padding: str
) -> tuple[tuple[int, int], ...]:
    """Cells of padding before and after the map, as TensorFlow's convolutions have them."""
    counts = positions(sizes, taps, strides, padding)
    totals = (
        max((p - 1) * s + k - n, 0) for n, p, k, s in zip(sizes, counts, taps, strides, strict=True)
    )
    return tuple((total // 2, total - total // 2) for total in totals)


def synapses(
    sizes: Extents, taps: Extents, strides: Extents, padding: str
) -> np.ndarray[Any, Any] | None:
    """Which taps see a cell of the map: bool (..positions, ..taps, 1, 1); None where all do."""
    before = [pad for pad, _ in pads(sizes, taps, strides, padding)]
    counts, rank = positions(sizes, taps, strides, padding), len(sizes)
    found = np.ones((*counts, *taps, 1, 1), bool)
    for axis in range(rank):
        at = np.arange(counts[axis])[:, None] * strides[axis] - before[axis]
        cells = at + np.arange(taps[axis])
        shape = [1] * found.ndim
        shape[axis], shape[rank + axis] = cells.shape
        found &= ((cells >= 0) & (cells < sizes[axis])).reshape(shape)
    return None if found.all() else found
