"""Balanced noise: blocks of cells fire an orthogonal basis once, a sweep."""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals import draws
from tfweightmirror._internals.arguments import is_finite, is_whole
from tfweightmirror.mirror.noise import base
from tfweightmirror.mirror.noise.base import Firing, Noise
from tfweightmirror.pathway import Pathway

WIDEST_BLOCK = 64
"""Cells that fire together in `Orthogonal`, unless more are asked for.

Examples:
    >>> layer = tfwm.layers.FeedbackDense(5, rule="weight_mirror")
    >>> layer.build((None, 640))
    >>> tfwm.mirror.noise.Orthogonal().plan(*layer.pathways).shape  # ten blocks, in turns
    (1, 10, 64, 64)
    >>> tfwm.mirror.noise.WIDEST_BLOCK
    64
"""

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Orthogonal(Noise):
    """Balanced noise: in blocks, cells fire the rows of an orthogonal matrix.

    In its turn a block of b cells fires b samples (Hadamard where b is a power of two, else DCT),
    with the columns dealt to cells at random and a random sign per cell, so `X^T X = b std^2 I`
    exactly and one sweep leaves `X^T Y / (b std^2) = W` for a linear, noise-free response. The
    cells are coordinated, not independent. A sweep costs `4 b n_in n_out` operations. Orthogonal
    probing is old: docs/science.md, "Credit".

    Args:
        std: Standard deviation of a cell's signal.
        block: b, cells that fire together. A block of n_in fires all cells together. None: 64, or
            fewer where a sweep would cost more than about 1 % of what the layer computes in a step
            of 32 examples, `3 fields n_in n_out 2 x 32` operations; then 1 if that leaves fewer
            than 8, which are no cheaper than 64. Smaller blocks hear noise on answers more: the
            error grows as 1 / sqrt(b). So where mirror mode has noise or rounding on answers, or
            another `respond`, None is 64 throughout.
        decay: The share of B that one sweep replaces, in (0, 1].

    Raises:
        ValueError: `std`, `block` or `decay` is out of range.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(5, rule="weight_mirror")
        >>> layer.build((None, 6))
        >>> noise = tfwm.mirror.noise.Orthogonal()
        >>> firing = noise.plan(*layer.pathways)  # all 6 cells in one turn
        >>> X = noise.signals(firing, seed=tf.constant([0, 0]), chunk=tf.constant(0))[0, 0]
        >>> np.allclose(tf.transpose(X) @ X, 6 * np.eye(6), atol=1e-5)
        True
    """

    block: int | None = None
    decay: float = 1.0

    name = "orthogonal"
    balanced = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None and not (is_whole(self.block) and self.block >= 1):
            raise ValueError(
                "block of orthogonal noise must be a whole number of cells, at least 1 cell. "
                f"Received: {self.block!r}."
            )
        if not (is_finite(self.decay) and 0 < self.decay <= 1):
            raise ValueError(f"decay of mirror noise must be in (0, 1]. Received: {self.decay!r}.")

    def plan(self, pathway: Pathway) -> Firing:
        """Blocks of equal size that cover the fan-in once."""
        block = self.block or _affordable(pathway.fields)
        turns = math.ceil(pathway.fan_in / min(block, pathway.fan_in))
        cells = math.ceil(pathway.fan_in / turns)
        widest = pathway.groups * turns * max(cells, pathway.fan_out)
        rows = max(1, min(cells, base.CHUNK_ELEMENTS // widest))
        return Firing(
            shape=(pathway.groups, turns, rows, cells),
            chunks=math.ceil(cells / rows),
            samples=turns * cells,
            power=cells * self.std**2,
            decay=self.decay,
        )

    def signals(self, firing: Firing, seed: tf.Tensor, chunk: tf.Tensor) -> tf.Tensor:
        """Rows `chunk * rows` to `(chunk + 1) * rows - 1` of every block's basis."""
        groups, turns, rows, cells = firing.shape
        signs = draws.signs((groups, turns, 1, cells), seed)
        scaled = signs if self.std == 1 else self.std * signs
        if cells == 1:
            return scaled
        columns = draws.order(cells, seed, stream=1)
        if firing.chunks == 1 and cells <= WIDEST_BLOCK:
            return tf.gather(_whole_basis(cells), columns, axis=1) * scaled
        return orthogonal_rows(chunk * rows + tf.range(rows), columns, cells) * scaled


def _affordable(fields: int | None) -> int:
    """A power of two whose sweep costs about 1 % of the layer's products, up to 64."""
    if fields is None:
        return WIDEST_BLOCK
    cells = 0.01 * 6 * 32 * fields / 4
    return min(WIDEST_BLOCK, 2 ** int(math.log2(cells))) if cells >= 8 else 1


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Impulse(Orthogonal):
    """Balanced noise: one cell fires at a time, with a random sign.

    Blocks of one cell. Every sum has one term that is not zero, so a sweep is exact to the bit in
    the dtype of the response. It is the least robust to noise in the response: sqrt(b) worse than
    orthogonal blocks of b.

    Args:
        std: A power of two keeps exactness to the bit.
        decay: The share of B that one sweep replaces, in (0, 1].

    Raises:
        ValueError: `std` or `decay` is out of range.

    Examples:
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5, name="head")])
        >>> layer = tfwm.convert_model(model, "weight_mirror").layers[0]
        >>> angles = tfwm.mirror_model(model, tfwm.mirror.noise.Impulse())
        >>> bool(tf.reduce_all(layer.feedback_kernel == layer.kernel))  # to the bit
        True
    """

    block: int | None = dataclasses.field(default=1, init=False, repr=False)

    name = "impulse"

    def get_config(self) -> dict[str, Any]:
        """The options, as Keras saves them."""
        return {"std": self.std, "decay": self.decay}


@functools.cache
def _whole_basis(size: int) -> np.ndarray:
    """All of `orthogonal_rows`: small enough to be a constant of the program."""
    with tf.init_scope():
        return orthogonal_rows(tf.range(size), tf.range(size), size).numpy()


def orthogonal_rows(rows: tf.Tensor, columns: tf.Tensor, size: int) -> tf.Tensor:
    """Entries of an orthogonal matrix whose columns have the sum of squares `size`.

    Hadamard (Sylvester's) for a power of two: `(-1)^popcount(i & j)`; else the cosines of DCT-II,
    `sqrt(2) cos(pi i (2 j + 1) / (2 size))`, 1 in row 0. Generated from indices, never stored.

    Args:
        rows: int32 indices i; those of `size` and more give zeros.
        columns: int32 indices j.
        size: Order of the matrix.

    Returns:
        float32 of shape (len(rows), len(columns)).
    """
    i, j = rows[:, None], columns[None, :]
    if size & (size - 1) == 0:
        odd = tf.raw_ops.PopulationCount(x=tf.bitwise.bitwise_and(i, j)) % 2
        entries = 1.0 - 2.0 * tf.cast(odd, tf.float32)
    else:
        # Reduced modulo one period in integers: a large angle has no digits left in float32.
        i, j = tf.cast(i, tf.int64), tf.cast(j, tf.int64)
        phase = tf.cast(i * (2 * j + 1) % (4 * size), tf.float32)
        cosine = math.sqrt(2.0) * tf.cos(phase * (math.pi / (2 * size)))
        entries = tf.where(i == 0, 1.0, cosine)
        i = tf.cast(i, tf.int32)
    return tf.where(i < size, entries, 0.0)
