"""Rules whose B goes down a loss of its own layer's signals (Kunin et al. 2020), and its terms.

Each term is a scalar of `x`, of `y = op(x, W)` (before bias and activation) and of B, a mean over
the examples of a sum over cells and positions, as the paper's code has it. Quadratic terms have the
paper's factor 1/2, which that code leaves out. Only B follows a term; W has the task's gradient
alone, so it is no input of any (but `alike`).
"""

import dataclasses
import math
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.rules.feedback_rule import FeedbackRule, Signals

register = keras.saving.register_keras_serializable(package="tfweightmirror")


def decay(signals: Signals) -> tf.Tensor:
    """`|B|^2 / 2`; its gradient is B."""
    return tf.reduce_sum(tf.square(signals.feedback)) / 2


def amplify(signals: Signals) -> tf.Tensor:
    """`-x^T B y`; its gradient is `-x y^T`, the Hebbian product."""
    return -signals.mean(signals.forward(signals.x) * signals.y)


def null(signals: Signals) -> tf.Tensor:
    """`|B y|^2 / 2`; its gradient is `(B y) y^T`: silences what comes back of y."""
    return signals.mean(tf.square(signals.backward(signals.y))) / 2


def sparse(signals: Signals) -> tf.Tensor:
    """`|x^T B|^2 / 2`; its gradient is `x (x^T B)`: x passes B upwards, the paper's non-local."""
    return signals.mean(tf.square(signals.forward(signals.x))) / 2


def alike(signals: Signals) -> tf.Tensor:
    """`-sum(B W)`, the paper's term `self`; its gradient is -W. **It reads W.**"""
    return -tf.reduce_sum(signals.feedback * signals.kernel)


def _check(rule: Any, *positive: str) -> None:
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        if field.name == "centered":
            if not isinstance(value, bool):
                raise ValueError(f"centered of {rule.name} must be a bool. Received: {value!r}.")
            continue
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        above = number and (value > 0 if field.name in positive else value >= 0)
        if not above:
            least = "> 0" if field.name in positive else ">= 0"
            raise ValueError(
                f"{field.name} of {rule.name} must be a number {least}. Received: {value!r}."
            )


@register
@dataclasses.dataclass(frozen=True)
class InformationAlignment(FeedbackRule):
    """B goes down `-amplify x^T B y + decay |B|^2 / 2 + null |B y|^2 / 2` (Kunin et al. 2020).

    With `S = E x x^T` it settles where `B (decay + null E y y^T) = amplify S W`: for white x and
    without `null` that is W times `amplify / decay`; `null` bounds B where y is strong and draws it
    from the transpose to a regularized pseudo-inverse of W. Without `null` it is the weight mirror
    on the data instead of noise, and easily runs away. The optimizer moves B, at its own learning
    rate; its weight decay comes on top of `decay`. The defaults are ours, to begin tuning with.

    Args:
        amplify: Of the Hebbian term; positive. A sum over positions, so that convolutions want less
            than dense layers.
        decay: Of the decay of B.
        null: Of the term that silences `B y`.
        centered: Whether x and y are taken without their means over the batch.

    Raises:
        ValueError: A factor is out of range, or `centered` is no bool.

    Examples:
        >>> rule = tfwm.rules.InformationAlignment(amplify=1.0, decay=0.5, null=0.0)
        >>> layer = tfwm.layers.FeedbackDense(2, rule=rule)
        >>> with tf.GradientTape() as tape:
        ...     y = layer(2.0**0.5 * tf.eye(2))  # white: E x x^T is 1
        >>> dB = tape.gradient(y, layer.feedback_kernel)
        >>> W, B = layer.kernel, layer.feedback_kernel
        >>> np.allclose(dB, 0.5 * B - W, atol=1e-6)  # at rest where B is 2 W
        True
    """

    amplify: float = 0.1
    decay: float = 0.1
    null: float = 0.1
    centered: bool = False

    name = "information_alignment"
    aliases = ("ia",)
    learns_by = "optimizer"

    def __post_init__(self) -> None:
        _check(self, "amplify")

    def local_loss(self, signals: Signals) -> tf.Tensor:
        """The three terms."""
        signals = signals.centered() if self.centered else signals
        loss = self.amplify * amplify(signals)
        if self.decay:
            loss += self.decay * decay(signals)
        if self.null:
            loss += self.null * null(signals)
        return loss


@register
@dataclasses.dataclass(frozen=True)
class ActivationAlignment(FeedbackRule):
    """B goes down `-amplify x^T B y + sparse |x^T B|^2 / 2` (Kunin et al. 2020).

    With equal factors that is `|x^T B - y|^2 / 2` and a constant: B learns to answer x as W does,
    `dB = x (x^T B - y)`, and settles at `W amplify / sparse` wherever x goes. It reads signals
    alone, and the paper counts it among the nonlocal rules all the same: x has to pass B upwards.

    Args:
        amplify: Of the Hebbian term; positive.
        sparse: Of the term that shrinks `x^T B`; positive. With gradient descent at a learning rate
            r it needs `r sparse E|x|^2 < 2` to be stable whatever x is.
        centered: Whether x and y are taken without their means over the batch.

    Raises:
        ValueError: A factor is out of range, or `centered` is no bool.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(2, rule=tfwm.rules.ActivationAlignment(), name="fc")
        >>> layer.build((None, 3))
        >>> tfwm.reset_feedback(layer, initializer={"fc": layer.kernel})
        >>> with tf.GradientTape() as tape:
        ...     y = layer(tf.random.normal((8, 3)))
        >>> dB = tape.gradient(y, layer.feedback_kernel)
        >>> np.allclose(dB, 0.0, atol=1e-6)  # B = W is at rest, whatever x is
        True
    """

    amplify: float = 0.1
    sparse: float = 0.1
    centered: bool = False

    name = "activation_alignment"
    aliases = ("aa",)
    learns_by = "optimizer"

    def __post_init__(self) -> None:
        _check(self, "amplify", "sparse")

    def local_loss(self, signals: Signals) -> tf.Tensor:
        """The two terms."""
        signals = signals.centered() if self.centered else signals
        return self.amplify * amplify(signals) + self.sparse * sparse(signals)


@register
@dataclasses.dataclass(frozen=True)
class SymmetricAlignment(FeedbackRule):
    """**Reads W: a reference, not transport-free.** `-alike sum(B W) + decay |B|^2 / 2`.

    `dB = decay B - alike W`: B follows W, at its own pace, to `W alike / decay` (Kunin et al. 2020,
    who take it for an estimate of W by other means, and add noise to its update). It shows what a B
    that lags behind costs, and is no way to learn without weight transport.

    Args:
        alike: Of the term that draws B to W; positive.
        decay: Of the decay of B; positive.

    Raises:
        ValueError: A factor is out of range.

    Examples:
        >>> rule = tfwm.rules.SymmetricAlignment(alike=0.2, decay=0.1)
        >>> layer = tfwm.layers.FeedbackDense(2, rule=rule)
        >>> with tf.GradientTape() as tape:
        ...     y = layer(tf.ones((1, 3)))
        >>> dB = tape.gradient(y, layer.feedback_kernel)
        >>> W, B = layer.kernel, layer.feedback_kernel
        >>> np.allclose(dB, 0.1 * B - 0.2 * W, atol=1e-6)  # at rest where B is 2 W
        True
    """

    alike: float = 0.1
    decay: float = 0.1

    name = "symmetric_alignment"
    aliases = ("sa",)
    learns_by = "optimizer"
    reads_kernel = True

    def __post_init__(self) -> None:
        _check(self, "alike", "decay")

    def local_loss(self, signals: Signals) -> tf.Tensor:
        """The two terms."""
        return self.alike * alike(signals) + self.decay * decay(signals)
