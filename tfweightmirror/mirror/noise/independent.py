"""Independent noise: every cell fires by itself."""

import dataclasses
import math
from typing import ClassVar

import keras
import tensorflow as tf

from tfweightmirror._internals import draws
from tfweightmirror.mirror.noise import base
from tfweightmirror.mirror.noise.base import Firing, Noise
from tfweightmirror.pathway import Pathway

register = keras.saving.register_keras_serializable(package="tfweightmirror")


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
        chunks = min(self.samples, math.ceil(elements / base.CHUNK_ELEMENTS))
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
