"""What updates make of the gap B - W under Kolen-Pollack: a linear recursion."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfweightmirror._internals import optimizer_hooks
from tfweightmirror.pathway import Pathway


@dataclasses.dataclass(frozen=True)
class GapLaw:
    """What one update makes of the gaps, in the terms of Keras' SGD.

    With learning rate `r`: `gap <- (1 - r * decoupled) (1 - per_step) gap`; then, since the two
    gradients differ by `coupled * gap` alone, `v <- momentum * v - r * coupled * gap` and
    `gap <- gap + v` (Nesterov: `gap + momentum * v - r * coupled * gap`). Small rates and `coupled`
    with momentum mu act as `decoupled = coupled / (1 - mu)`.

    Args:
        decoupled: Decay of each pair, taken of the weights before the step.
        coupled: Decay of each pair, added to the gradients, which then differ by it times the gap.
        per_step: Share of each pair that an update takes, whatever the learning rate.
        momentum: Of SGD. Without `coupled` it is of no account: equal gradients, equal momenta.
        nesterov: Whether it is Nesterov's.
    """

    decoupled: tuple[float, ...]
    coupled: tuple[float, ...]
    per_step: tuple[float, ...]
    momentum: float = 0.0
    nesterov: bool = False

    @classmethod
    def of(cls, optimizer: keras.optimizers.Optimizer, pairs: Sequence[Pathway]) -> "GapLaw":
        """The law of `optimizer`, which must be SGD if its decay is coupled."""
        kernels = [pathway.kernel for pathway in pairs]
        coupled = tuple(optimizer_hooks.coupled_decay_of(optimizer, k) for k in kernels)
        return cls(
            decoupled=tuple(optimizer_hooks.decay_of(optimizer, k) for k in kernels),
            coupled=coupled,
            per_step=tuple(optimizer_hooks.per_step_decay_of(optimizer, k) for k in kernels),
            momentum=optimizer.momentum if any(coupled) else 0.0,
            nesterov=optimizer.nesterov if any(coupled) else False,
        )

    def after_update(
        self, gaps: tf.Tensor, velocities: tf.Tensor, rate: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gaps and gaps of momenta, (pairs,) each, after one update at this learning rate."""
        gaps = gaps * (1.0 - rate * tf.constant(self.decoupled))
        gaps = gaps * (1.0 - tf.constant(self.per_step))
        pull = rate * tf.constant(self.coupled) * gaps
        velocities = self.momentum * velocities - pull
        step = self.momentum * velocities - pull if self.nesterov else velocities
        return gaps + step, velocities


def gaps(pairs: Sequence[Pathway]) -> tf.Tensor:
    """|B - W|, (pairs,), float32."""
    differences = (p.feedback_kernel.value - p.kernel.value for p in pairs)
    return tf.stack([tf.cast(tf.norm(difference), tf.float32) for difference in differences])


def first_velocities(
    optimizers: Sequence[keras.optimizers.Optimizer], pairs: Sequence[Pathway]
) -> tf.Tensor:
    """The gaps of momenta over the gaps, (pairs,): not 0 where a training goes on.

    The recursion is linear and starts with a gap of momenta of 0, so the one stays a multiple of
    the other; under decoupled decay it stays 0.
    """
    return tf.stack([_velocity_over_gap(optimizers, pathway) for pathway in pairs])


def _velocity_over_gap(
    optimizers: Sequence[keras.optimizers.Optimizer], pathway: Pathway
) -> tf.Tensor:
    kernel, feedback = pathway.kernel, pathway.feedback_kernel
    for optimizer in optimizers:
        of_w, of_b = (optimizer_hooks.velocity_of(optimizer, v) for v in (kernel, feedback))
        coupled = optimizer_hooks.coupled_decay_of(optimizer, kernel)
        if coupled and of_w is not None and of_b is not None:
            gap, velocity = (
                tf.convert_to_tensor(b - w) for b, w in ((feedback, kernel), (of_b, of_w))
            )
            along = tf.reduce_sum(gap * velocity)
            return tf.cast(tf.math.divide_no_nan(along, tf.reduce_sum(gap**2)), tf.float32)
    return tf.constant(0.0)


def angle_at_gap_deg(gap: float, w: float, b: float) -> float:
    """The angle between two vectors of norms `w` and `b`, `gap` apart, in degrees.

    The law of cosines for half the angle, which keeps its digits where the angle is small. Rounding
    may leave no triangle: the nearest angle then. NaN if a norm is 0.
    """
    if w <= 0 or b <= 0:
        return math.nan
    sine = math.sqrt(max(gap**2 - (w - b) ** 2, 0.0) / (4 * w * b))
    return math.degrees(2 * math.asin(min(sine, 1.0)))
