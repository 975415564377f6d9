"""A chip that answers with faults, behind the library's door for other hardware.

Every fault is one number. The mirror knows none of them: it fires signals and hears what
`Chip.respond` answers. Sizes are relative to the *scale* of a layer: the root mean square of its
exact answers when all cells fire with standard deviation 1, `|W| / sqrt(fan_out)`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfweightmirror.pathway import Pathway

Array = np.ndarray[Any, Any]
HEADROOM = 4.0
"""Full scale of the converter over the root mean square that it was made for."""


@dataclasses.dataclass(frozen=True)
class Faults:
    """What is wrong with the answers, in the order in which it happens to them.

    Args:
        dead_senders: Share of the firing cells that stay silent, always the same ones.
        bias: Standard deviation over cells of a constant on each cell's answer, over the scale: a
            bias that is not blocked, or an amplifier's offset.
        own_bias: Whether the layer's own bias stands on the answers.
        relu: Whether answers pass a ReLU.
        noise: Standard deviation of new normal noise on every answer, over the scale.
        bits: Of the converter: 2^bits levels over +-full scale; None: no converter.
        matched_gain: The converter's full scale is 4 times the root mean square of the answers that
            it is given, whatever the basis; False: 4 times the scale, as all cells together need.
        dead_answers: Share of the answering cells that always answer 0, the same ones.
    """

    dead_senders: float = 0.0
    bias: float = 0.0
    own_bias: bool = False
    relu: bool = False
    noise: float = 0.0
    bits: int | None = None
    matched_gain: bool = False
    dead_answers: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dead_senders", "dead_answers"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share!r}. Expected a share of cells in [0, 1).")
        for name in ("bias", "noise"):
            size = getattr(self, name)
            if not (math.isfinite(size) and size >= 0):
                raise ValueError(f"{name} is {size!r}. Expected a finite number, 0 or above.")
        if self.bits is not None and self.bits < 1:
            raise ValueError(f"bits is {self.bits!r}. Expected at least 1, or None.")


class Chip:
    """Answers in a pathway's place, with its faults: `WeightMirror(respond=chip.respond)`.

    Which cells are dead and what their offsets are is a function of the seed and the pathway; noise
    is drawn from a generator that starts at the seed, since a chip's noise knows no mirror step.
    """

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._generator = tf.random.Generator.from_seed(seed)
        self._cells: dict[tuple[str, int, int], tf.Variable] = {}
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Another chip with the same faults; what is compiled of it stays valid."""
        self._seed = seed
        self._generator.reset_from_seed(seed)
        for (fault, place, cells), variable in self._cells.items():
            variable.assign(self._drawn(fault, place, cells))

    def respond(self, pathway: Pathway, signals: tf.Tensor) -> tf.Tensor:
        """Signals (groups, samples, fan_in), or (groups, turns, samples, cells), to answers."""
        if self.faults.dead_senders:
            signals = signals * _laid_out(self.alive_senders(pathway), signals)
        y = pathway.respond(signals)
        level = tf.cast(scale(pathway.as_matrices(pathway.kernel)), y.dtype)
        y = self.before_noise(pathway, y)
        if self.faults.noise:
            y += self.faults.noise * level * self._generator.normal(tf.shape(y), dtype=y.dtype)
        if self.faults.bits is not None:
            heard = tf.sqrt(tf.reduce_mean(y**2)) if self.faults.matched_gain else level
            y = converted(y, self.faults.bits, HEADROOM * heard)
        return y * tf.cast(self.alive_answers(pathway), y.dtype)

    def before_noise(self, pathway: Pathway, y: Any) -> Any:
        """The exact answers `y` (..., fan_out) with biases on, through the activation."""
        if self.faults.bias:
            level = tf.cast(scale(pathway.as_matrices(pathway.kernel)), y.dtype)
            y += level * tf.cast(self._of_cells("bias", pathway, pathway.fan_out), y.dtype)
        if self.faults.own_bias and pathway.bias is not None:
            y += tf.cast(tf.convert_to_tensor(pathway.bias), y.dtype)
        return tf.nn.relu(y) if self.faults.relu else y

    def alive_senders(self, pathway: Pathway) -> tf.Tensor:
        """1 for cells that fire, 0 for dead ones: (fan_in,)."""
        return self._of_cells("dead_senders", pathway, pathway.fan_in)

    def alive_answers(self, pathway: Pathway) -> tf.Tensor:
        """1 for cells that answer, 0 for dead ones: (fan_out,)."""
        return self._of_cells("dead_answers", pathway, pathway.fan_out)

    def _of_cells(self, fault: str, pathway: Pathway, cells: int) -> tf.Tensor:
        """What a fault draws once for every cell: in a variable, so that programs may be kept."""
        key = (fault, pathway.place, cells)
        if key not in self._cells:
            with tf.init_scope():
                self._cells[key] = tf.Variable(self._drawn(*key), trainable=False)
        return tf.convert_to_tensor(self._cells[key])

    def _drawn(self, fault: str, place: int, cells: int) -> Array:
        purpose = ("bias", "dead_senders", "dead_answers").index(fault)
        random, size = (
            np.random.default_rng([self._seed, place, purpose]),
            getattr(self.faults, fault),
        )
        if fault == "bias":
            return (size * random.standard_normal(cells)).astype("float32")
        alive = np.ones(cells, "float32")
        alive[random.permutation(cells)[: round(size * cells)]] = 0
        return alive


def scale(matrices: Any) -> Any:
    """`|W| / sqrt(fan_out)` of (groups, fan_in, fan_out) or (fan_in, fan_out)."""
    return tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(matrices), axis=-2)))


def converted(y: Any, bits: int, full_scale: Any) -> Any:
    """`y` as a converter reads it: the middle of one of 2^bits equal steps over +-`full_scale`."""
    step = 2 * full_scale / 2**bits
    outermost = (2**bits - 1) / 2
    return step * tf.clip_by_value(tf.floor(y / step) + 0.5, -outermost, outermost)


def _laid_out(senders: tf.Tensor, signals: tf.Tensor) -> tf.Tensor:
    """`senders` as the cells stand in `signals`, in turns or all together."""
    senders = tf.cast(senders, signals.dtype)
    if signals.shape.rank == 3:
        return senders
    _, turns, _, cells = signals.shape
    padded = tf.pad(senders, ((0, turns * cells - senders.shape[0]),))
    return tf.reshape(padded, (turns, 1, cells))
