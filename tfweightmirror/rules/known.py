"""The rules whose B learns from errors, mirror mode or not at all, and how a name finds a rule."""

import dataclasses
import difflib
import math
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.rules.direct import DirectFeedbackAlignment
from tfweightmirror.rules.feedback_rule import FeedbackRule
from tfweightmirror.rules.local_losses import (
    ActivationAlignment,
    InformationAlignment,
    SymmetricAlignment,
)
from tfweightmirror.rules.product import ProductFeedbackAlignment
from tfweightmirror.rules.sign_symmetry import SignSymmetry

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@register
@dataclasses.dataclass(frozen=True)
class Backprop(FeedbackRule):
    """Ordinary backprop: the error travels on W itself. There is no B."""

    name = "backprop"
    aliases = ("bp",)
    uses_feedback_kernel = False

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor:
        """W."""
        return kernel


@register
@dataclasses.dataclass(frozen=True)
class FeedbackAlignment(FeedbackRule):
    """B is random and fixed; W learns to align with it (Lillicrap et al. 2016)."""

    name = "feedback_alignment"
    aliases = ("fa", "frfb")


@register
@dataclasses.dataclass(frozen=True)
class WeightMirror(FeedbackRule):
    """The error travels on B, and mirror mode teaches B from noise (Akrout et al. 2019).

    Train with `tfweightmirror.callbacks.WeightMirror`, or call `mirror_model` yourself.
    """

    name = "weight_mirror"
    aliases = ("wm",)
    learns_by = "mirror"


@register
@dataclasses.dataclass(frozen=True)
class KolenPollack(FeedbackRule):
    """B gets the same change as W: `dB = dW`, equal decay (Kolen and Pollack 1994).

    Akrout et al. 2019, eq. 13 to 18: with equal decay the gap B - W dies out. Train with an
    optimizer that has `weight_decay`, and `tfweightmirror.callbacks.KolenPollack` to check it.
    The two increments are two equal local products; the code evaluates the product once. Without
    the callback B's gradient is one among the others, and counts in a norm over all of them.
    """

    name = "kolen_pollack"
    aliases = ("kp",)
    learns_by = "optimizer"

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        """The very tensor dW, so that B's and W's increments stay bit-equal."""
        return kernel_gradient


@register
@dataclasses.dataclass(frozen=True)
class UpdatedRandomFeedback(FeedbackRule):
    """B is random and gets `epsilon` times the change of W (Amit 2019: URFB).

    The paper states no order of the error's passage and B's update, and the released code had both.
    By default the error passes first. With `ahead` it passes `B - ahead * epsilon * dW`: B as it
    stands after its update by plain SGD of the learning rate `ahead`. Keras' other optimizers and
    rates are refused then, and so are layers that are called several times in a step, recurrent
    ones, replicas, and constraints of B. (Of a training loop without Keras' optimizer, and of a
    rate that changes after the first step, nothing is known.)

    `epsilon` scales the gradient, so with an optimizer that normalizes gradients (Adam, RMSprop,
    Lion) every `epsilon` but 0 acts as 1: use SGD. It is a gradient among the others: a norm over
    all of them (`global_clipnorm`, or in a train step of your own) counts it.

    Args:
        epsilon: 1 is URFB, 0 is fixed random feedback; not negative.
        ahead: The optimizer's learning rate, where B is updated before the error passes; 0: after.
    """

    epsilon: float = 1.0
    ahead: float = 0.0

    name = "updated_random_feedback"
    aliases = ("urfb",)
    learns_by = "optimizer"

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("ahead", self.ahead)):
            if not (isinstance(value, Real) and math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"{name} of updated_random_feedback must be a number >= 0. Received: {value!r}."
                )

    @property
    def updates_first(self) -> bool:  # type: ignore[override]  # depends on `ahead`
        """Whether the error passes B after its update."""
        return self.ahead > 0

    def carrier_after_update(self, carrier: tf.Tensor, kernel_gradient: tf.Tensor) -> tf.Tensor:
        """`B - ahead * epsilon * dW`."""
        if not self.updates_first:
            return carrier
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                f"updated_random_feedback received ahead={self.ahead} and trains on several "
                "replicas, of which each knows its own part of B's update alone. Expected ahead=0."
            )
        return carrier - tf.cast(self.ahead, carrier.dtype) * tf.cast(
            self.feedback_gradient(kernel_gradient), carrier.dtype
        )

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        """`epsilon * dW`; at `epsilon = 1` the tensor dW itself."""
        if self.epsilon == 1.0:
            return kernel_gradient
        return tf.cast(self.epsilon, kernel_gradient.dtype) * kernel_gradient


RULES: tuple[type[FeedbackRule], ...] = (
    Backprop,
    FeedbackAlignment,
    SignSymmetry,
    WeightMirror,
    KolenPollack,
    UpdatedRandomFeedback,
    DirectFeedbackAlignment,
    InformationAlignment,
    ActivationAlignment,
    SymmetricAlignment,
    ProductFeedbackAlignment,
)
"""The classes of all rules of the library."""

_BY_NAME: dict[str, FeedbackRule] = {
    name: rule() for rule in RULES for name in (rule.name, *rule.aliases)
} | {"frsf": SignSymmetry(magnitude="fixed"), "brsf": SignSymmetry(magnitude="batch")}


def get(identifier: Any) -> FeedbackRule:
    """The rule that `identifier` means.

    Args:
        identifier: A `FeedbackRule` (or a class of one), a name or alias (`"wm"`), the registered
            name of your own rule (`"my_package>MyRule"`), or a config of
            `keras.saving.serialize_keras_object`.

    Raises:
        ValueError: The name is not known; the sentence has the known ones and the nearest.
    """
    if isinstance(identifier, FeedbackRule):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, FeedbackRule):
        return identifier()
    if isinstance(identifier, dict):
        deserialized = keras.saving.deserialize_keras_object(identifier)
        if isinstance(deserialized, FeedbackRule):
            return deserialized
    if isinstance(identifier, str):
        if identifier.lower() in _BY_NAME:
            return _BY_NAME[identifier.lower()]
        registered = keras.saving.get_registered_object(identifier)
        if registered is not None:
            return get(registered)
    known = ", ".join(f"{rule.name} ({', '.join(rule.aliases)})" for rule in RULES)
    near = difflib.get_close_matches(str(identifier).lower(), _BY_NAME, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"feedback rule {identifier!r} is not known. Known: {known}.{hint}")
