"""What the cells fire in mirror mode.

*Independent* noise (Gaussian, uniform, Rademacher; the paper names no distribution) is as Akrout et
al. 2019 have it: every cell fires by itself, with mean 0 and one variance. The angle falls with the
number of samples N as `tan^2(angle) = (n + kurtosis - 2) / N`, n the fan-in. *Balanced* noise
(orthogonal blocks, impulses) fires an orthogonal basis once, a *sweep*: for a linear, noise-free
response B then equals W. What that does and does not claim is in docs/science.md, "What exactness
means".

For a noise of your own, subclass `IndependentNoise` (and override `draw` and `kurtosis`) or
`Noise`.
"""

import dataclasses
import math
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfweightmirror._internals import draws
from tfweightmirror.pathway import Pathway

register = keras.saving.register_keras_serializable(package="tfweightmirror")

# Signals of one chunk are kept below this number of elements (64 MiB in float32).
CHUNK_ELEMENTS = 2**24


@dataclasses.dataclass(frozen=True)
class Firing:
    """The plan of one mirror step on one pathway.

    Attributes:
        shape: Shape of the signals of one chunk: (groups, samples, fan_in), or
            (groups, turns, samples, cells) where blocks of cells fire in turns.
        chunks: How many such chunks make one mirror step.
        samples: Noise samples fired in one mirror step: the time the mirror takes, in firings.
        power: The sum of squares that one cell fires in one mirror step.
        decay: The share of B that one mirror step replaces, in (0, 1].
    """

    shape: tuple[int, ...]
    chunks: int
    samples: int
    power: float
    decay: float


@dataclasses.dataclass(frozen=True)
class Noise:
    """What cells fire. Stateless: signals are a function of the seed alone.

    Args:
        std: Standard deviation of a cell's signal. Without an activation it has no effect.
    """

    std: float = 1.0

    name: ClassVar[str] = "noise"
    balanced: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"The standard deviation of mirror noise must be a positive, finite number. "
                f"Received: std={self.std!r}."
            )

    def plan(self, pathway: Pathway) -> Firing:
        """How one mirror step on `pathway` is fired."""
        raise NotImplementedError

    def signals(self, firing: Firing, seed: tf.Tensor, chunk: tf.Tensor) -> tf.Tensor:
        """The signals of one chunk: float32 of shape `firing.shape`, variance `std^2`.

        Args:
            firing: The plan.
            seed: Two int32, different for every mirror step, pathway and replica that must differ.
            chunk: Scalar int32.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The options, as Keras saves them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Noise":
        """The noise that `get_config` described."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class IndependentNoise(Noise):
    """Every cell fires by itself (Akrout et al. 2019, eq. 5).

    With m samples a step and a share d of B replaced each step, B averages over
    `N = m (2 - d) / d` samples, and `tan^2(angle) = (n + kurtosis - 2) / N` for a linear response
    (docs/science.md, "The angle law").

    Args:
        std: Standard deviation of a cell's signal.
        samples: m, noise samples per mirror step.
        decay: d, the share of B that one step replaces; None: from `target_angle_deg`.
        target_angle_deg: The weight angle to settle at, in degrees; used where `decay` is None.
            If m samples alone do better than the target, d is 1.
    """

    samples: int = 128
    decay: float | None = None
    target_angle_deg: float = 12.0

    kurtosis: ClassVar[float] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(
                f"samples of mirror noise must be at least 1. Received: {self.samples!r}."
            )
        if self.decay is not None and not 0 < self.decay <= 1:
            raise ValueError(f"decay of mirror noise must be in (0, 1]. Received: {self.decay!r}.")
        if not 0 < self.target_angle_deg < 90:
            raise ValueError(
                "target_angle_deg of mirror noise must lie between 0 and 90 degrees, both "
                f"excluded. Received: {self.target_angle_deg!r}."
            )

    def averaged_samples(self, fan_in: int) -> float:
        """N, the samples that `target_angle_deg` needs at this fan-in."""
        tangent = math.tan(math.radians(self.target_angle_deg))
        return max(fan_in + self.kurtosis - 2, 0.0) / tangent**2

    def angle_law_deg(self, fan_in: int, samples: float) -> float:
        """The expected weight angle in degrees after N `samples`, for a linear response."""
        return math.degrees(math.atan(math.sqrt((fan_in + self.kurtosis - 2) / samples)))

    def plan(self, pathway: Pathway) -> Firing:
        """All cells fire together, `samples` times."""
        elements = pathway.groups * self.samples * max(pathway.fan_in, pathway.fan_out)
        chunks = min(self.samples, math.ceil(elements / CHUNK_ELEMENTS))
        rows = math.ceil(self.samples / chunks)
        samples = rows * chunks
        decay = self.decay
        if decay is None:
            needed = self.averaged_samples(pathway.fan_in)
            decay = min(1.0, 2 * samples / (needed + samples))
        return Firing(
            shape=(pathway.groups, rows, pathway.fan_in),
            chunks=chunks,
            samples=samples,
            power=samples * self.std**2,
            decay=decay,
        )

    def signals(self, firing: Firing, seed: tf.Tensor, chunk: tf.Tensor) -> tf.Tensor:
        """Independent draws."""
        seed = draws.fold_in(seed, chunk)
        return self.std * self.draw(firing.shape, seed)

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """float32 draws of mean 0 and variance 1."""
        raise NotImplementedError


@register
@dataclasses.dataclass(frozen=True)
class Gaussian(IndependentNoise):
    """Independent normal noise: kurtosis 3."""

    name = "gaussian"

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """Normal draws."""
        return draws.normal(shape, seed)


@register
@dataclasses.dataclass(frozen=True)
class Uniform(IndependentNoise):
    """Independent uniform noise: kurtosis 1.8."""

    name = "uniform"
    kurtosis = 1.8

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """Uniform draws on +-sqrt(3)."""
        return math.sqrt(12.0) * (draws.uniform(shape, seed) - 0.5)


@register
@dataclasses.dataclass(frozen=True)
class Rademacher(IndependentNoise):
    """Independent signs: kurtosis 1."""

    name = "rademacher"
    kurtosis = 1.0

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """-1 or 1."""
        return draws.signs(shape, seed)


@register
@dataclasses.dataclass(frozen=True)
class Orthogonal(Noise):
    """Balanced noise: in blocks, cells fire the rows of an orthogonal matrix.

    In its turn a block of b cells fires b samples (Hadamard where b is a power of two, else DCT),
    with the columns dealt to cells at random and a random sign per cell, so `X^T X = b std^2 I`
    exactly and one sweep leaves `X^T Y / (b std^2) = W` for a linear, noise-free response. The
    cells are coordinated, not independent. A sweep costs `4 b n_in n_out` operations. Orthogonal
    probing is old: docs/science.md, "Credit".

    Args:
        std: Standard deviation of a cell's signal.
        block: b, cells that fire together; None: 64. A block of n_in fires all cells together.
        decay: The share of B that one sweep replaces, in (0, 1].
    """

    block: int | None = None
    decay: float = 1.0

    name = "orthogonal"
    balanced = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None and self.block < 1:
            raise ValueError(
                f"block of orthogonal noise must be at least 1 cell. Received: {self.block!r}."
            )
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay of mirror noise must be in (0, 1]. Received: {self.decay!r}.")

    def plan(self, pathway: Pathway) -> Firing:
        """Blocks of equal size that cover the fan-in once."""
        turns = math.ceil(pathway.fan_in / min(self.block or 64, pathway.fan_in))
        cells = math.ceil(pathway.fan_in / turns)
        widest = pathway.groups * turns * max(cells, pathway.fan_out)
        rows = max(1, min(cells, CHUNK_ELEMENTS // widest))
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
        columns = tf.argsort(draws.uniform((cells,), draws.fold_in(seed, 0)), stable=True)
        basis = orthogonal_rows(chunk * rows + tf.range(rows), columns, cells)
        return self.std * basis * draws.signs((groups, turns, 1, cells), draws.fold_in(seed, 1))


@register
@dataclasses.dataclass(frozen=True)
class Impulse(Orthogonal):
    """Balanced noise: one cell fires at a time, with a random sign.

    Blocks of one cell. Every sum has one term that is not zero, so a sweep is exact to the bit in
    the dtype of the response. It is the least robust to noise in the response: sqrt(b) worse than
    orthogonal blocks of b.

    Args:
        std: A power of two keeps exactness to the bit.
        decay: The share of B that one sweep replaces, in (0, 1].
    """

    block: int | None = dataclasses.field(default=1, init=False)

    name = "impulse"

    def get_config(self) -> dict[str, Any]:
        """The options, as Keras saves them."""
        return {"std": self.std, "decay": self.decay}


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


NOISES: tuple[type[Noise], ...] = (Orthogonal, Impulse, Gaussian, Uniform, Rademacher)


def get(identifier: Any) -> Noise:
    """The noise that `identifier` means: a name, a `Noise` (or a class of one), or a Keras config.

    Raises:
        ValueError: The name is not known.
    """
    if isinstance(identifier, Noise):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Noise):
        return identifier()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    for noise in NOISES:
        if identifier == noise.name:
            return noise()
    registered = isinstance(identifier, str) and keras.saving.get_registered_object(identifier)
    if registered:
        return get(registered)
    raise ValueError(
        f"mirror noise {identifier!r} is not known. Known: "
        f"{', '.join(noise.name for noise in NOISES)}, or a Noise of your own."
    )
