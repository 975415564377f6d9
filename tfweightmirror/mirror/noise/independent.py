"""Independent noise: every cell fires by itself."""

import dataclasses
import math
from typing import ClassVar

import keras
import tensorflow as tf

from tfweightmirror._internals import draws
from tfweightmirror._internals.arguments import is_finite, is_whole
from tfweightmirror.mirror.noise import base
from tfweightmirror.mirror.noise.base import Firing, Noise
from tfweightmirror.pathway import Pathway

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    Raises:
        ValueError: An option is out of range.

    Examples:
        >>> class HalfSilent(tfwm.mirror.noise.IndependentNoise):
        ...     name, kurtosis = "half_silent", 2.0  # E x^4
        ...     def draw(self, shape, seed):  # mean 0, variance 1
        ...         digits = tf.random.stateless_uniform(shape, seed, 0, 4, tf.int32)
        ...         return tf.gather([-(2**0.5), 0.0, 0.0, 2**0.5], digits)
        >>> noise = HalfSilent(samples=2_000, decay=1.0)
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5, name="head")])
        >>> round(tfwm.mirror_model(tfwm.convert_model(model, "weight_mirror"), noise)["head"])
        6
    """

    samples: int = 128
    decay: float | None = None
    target_angle_deg: float = 12.0

    kurtosis: ClassVar[float] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_whole(self.samples) and self.samples >= 1):
            raise ValueError(
                "samples of mirror noise must be a whole number, at least 1. "
                f"Received: {self.samples!r}."
            )
        decay = self.decay
        if decay is not None and not (is_finite(decay) and 0 < decay <= 1):
            raise ValueError(f"decay of mirror noise must be in (0, 1]. Received: {self.decay!r}.")
        if not (is_finite(self.target_angle_deg) and 0 < self.target_angle_deg < 90):
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
        if firing.chunks > 1:
            seed = draws.fold_in(seed, chunk)
        draw = self.draw(firing.shape, seed)
        return draw if self.std == 1 else self.std * draw

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """float32 draws of mean 0 and variance 1."""
        raise NotImplementedError


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(IndependentNoise):
    """Independent normal noise: kurtosis 3.

    Its options are those of `IndependentNoise`.

    Examples:
        >>> noise = tfwm.mirror.noise.Gaussian(samples=128, target_angle_deg=12.0)
        >>> round(noise.angle_law_deg(fan_in=500, samples=128))  # what one mirror step would give
        63
        >>> round(noise.averaged_samples(fan_in=500))  # what the target needs: 87 steps' samples
        11089
    """

    name = "gaussian"

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """Normal draws."""
        return draws.normal(shape, seed)


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(IndependentNoise):
    """Independent uniform noise: kurtosis 1.8.

    Its options are those of `IndependentNoise`.

    Examples:
        >>> noise = tfwm.mirror.noise.Uniform()
        >>> x = noise.draw((1, 1000, 10), tf.constant([0, 0]))
        >>> float(tf.reduce_max(tf.abs(x))) <= 3**0.5, round(float(tf.math.reduce_variance(x)), 1)
        (True, 1.0)
    """

    name = "uniform"
    kurtosis = 1.8

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """Uniform draws on +-sqrt(3)."""
        return math.sqrt(12.0) * (draws.uniform(shape, seed) - 0.5)


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rademacher(IndependentNoise):
    """Independent signs: kurtosis 1.

    Its options are those of `IndependentNoise`.

    Examples:
        >>> noise, gaussian = tfwm.mirror.noise.Rademacher(), tfwm.mirror.noise.Gaussian()
        >>> np.unique(noise.draw((1, 8, 4), tf.constant([0, 0]))).tolist()
        [-1.0, 1.0]
        >>> [round(n.angle_law_deg(fan_in=10, samples=128), 1) for n in (noise, gaussian)]
        [14.9, 16.3]
    """

    name = "rademacher"
    kurtosis = 1.0

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """-1 or 1."""
        return draws.signs(shape, seed)
