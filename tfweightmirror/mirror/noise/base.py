"""What a noise is: a plan of firing for each pathway, and signals by the seed."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfweightmirror._internals.arguments import is_finite
from tfweightmirror.pathway import Pathway

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

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(5, rule="weight_mirror")
        >>> layer.build((None, 100))
        >>> tfwm.mirror.noise.Rademacher(samples=50, decay=0.1).plan(*layer.pathways)
        Firing(shape=(1, 50, 100), chunks=1, samples=50, power=50.0, decay=0.1)
    """

    shape: tuple[int, ...]
    chunks: int
    samples: int
    power: float
    decay: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """What cells fire. Stateless: signals are a function of the seed alone.

    Args:
        std: Standard deviation of a cell's signal. Without an activation it has no effect.

    Raises:
        ValueError: `std` is not a positive, finite number.

    Examples:
        >>> class InTurn(tfwm.mirror.noise.Noise):  # cell after cell fires 1
        ...     name, balanced = "in_turn", True
        ...     def plan(self, pathway):
        ...         groups, n, _ = pathway.view.matrices
        ...         return tfwm.mirror.noise.Firing((groups, n, n), 1, n, power=1.0, decay=1.0)
        ...     def signals(self, firing, seed, chunk):
        ...         return tf.eye(firing.samples, batch_shape=firing.shape[:1])
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5, name="head")])
        >>> tfwm.mirror_model(tfwm.convert_model(model, "weight_mirror"), InTurn())
        {'head': 0.0}
    """

    std: float = 1.0

    name: ClassVar[str] = "noise"
    balanced: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (is_finite(self.std) and self.std > 0):
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
