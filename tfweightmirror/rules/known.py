"""The rules whose B learns from errors, mirror mode or not at all, and how a name finds a rule."""

import dataclasses
import difflib
import math
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.arguments import require_fields
from tfweightmirror._internals.docs import see
from tfweightmirror.rules.direct import DirectFeedbackAlignment
from tfweightmirror.rules.feedback_rule import FeedbackRule
from tfweightmirror.rules.local_losses import (
    ActivationAlignment,
    InformationAlignment,
    SymmetricAlignment,
)
from tfweightmirror.rules.no_feedback import NoFeedback
from tfweightmirror.rules.product import ProductFeedbackAlignment
from tfweightmirror.rules.sign_symmetry import SignSymmetry

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@register
@dataclasses.dataclass(frozen=True)
class Backprop(FeedbackRule):
    """Ordinary backprop: the error travels on W itself. There is no B.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(2, rule=tfwm.rules.Backprop(), name="control")
        >>> layer.build((None, 3))
        >>> layer.feedback_kernel is None
        True
        >>> tfwm.weight_angles(layer)
        {'control': 0.0}
    """

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
    """B is random and fixed; W learns to align with it (Lillicrap et al. 2016).

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(50, rule=tfwm.rules.FeedbackAlignment(), name="fc")
        >>> layer.build((None, 100))
        >>> layer.feedback_kernel.trainable
        False
        >>> 85 < tfwm.weight_angles(layer)["fc"] < 95  # at birth B knows nothing of W
        True
    """

    name = "feedback_alignment"
    aliases = ("fa", "frfb")


@register
@dataclasses.dataclass(frozen=True)
class WeightMirror(FeedbackRule):
    """The error travels on B, and mirror mode teaches B from noise (Akrout et al. 2019).

    Train with `tfweightmirror.callbacks.WeightMirror`, or call `mirror_model` yourself.

    Examples:
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5, name="head")])
        >>> model = tfwm.convert_model(model, tfwm.rules.WeightMirror())
        >>> before = tfwm.weight_angles(model)["head"]
        >>> after = tfwm.mirror_model(model, "gaussian", steps=100)["head"]
        >>> before > 60, after < 20  # degrees
        (True, True)
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

    Examples:
        >>> head = tfwm.layers.FeedbackDense(2, rule=tfwm.rules.KolenPollack(), name="head")
        >>> model = keras.Sequential([keras.Input((3,)), head])
        >>> model.compile(keras.optimizers.SGD(0.1, weight_decay=5.0), "mse")
        >>> history = model.fit(np.eye(3), np.eye(3, 2), batch_size=1, epochs=4, verbose=0)
        >>> gap = head.feedback_kernel - head.kernel  # halved by each of 12 updates
        >>> float(tf.norm(gap) / tf.norm(head.kernel)) < 0.01
        True
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

    Raises:
        ValueError: `epsilon` or `ahead` is below 0 or not a number; in a step: what `ahead`
            refuses.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(2, rule=tfwm.rules.UpdatedRandomFeedback(epsilon=0.5))
        >>> with tf.GradientTape() as tape:
        ...     y = layer(tf.constant([[1.0, 2.0]]))
        >>> dW, dB = tape.gradient(y, [layer.kernel, layer.feedback_kernel])
        >>> dW.numpy().tolist(), dB.numpy().tolist()
        ([[1.0, 1.0], [2.0, 2.0]], [[0.5, 0.5], [1.0, 1.0]])
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
                + see("updated-random-feedback", "science")
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
    NoFeedback,
)
"""The rules that have a name: what `get` knows beside those of your own.

Examples:
    >>> [rule.name for rule in tfwm.rules.RULES if not rule().uses_feedback_kernel]
    ['backprop', 'sign_symmetry', 'no_feedback']
    >>> {rule.name: rule.aliases for rule in tfwm.rules.RULES[:2]}
    {'backprop': ('bp',), 'feedback_alignment': ('fa', 'frfb')}
"""
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
        ValueError: The name is not known; the sentence has the known ones and the nearest. A rule
            of your own has options that would not be saved: they are no fields of a dataclass, and
            it has no `get_config` of its own.

    Examples:
        >>> tfwm.rules.get("fa")
        FeedbackAlignment()
        >>> tfwm.rules.get("kolen-polack")
        Traceback (most recent call last):
            ...
        ValueError: feedback rule 'kolen-polack' is not known. ... Did you mean 'kolen_pollack'?
    """
    if isinstance(identifier, FeedbackRule):
        if type(identifier).get_config is FeedbackRule.get_config:
            require_fields(identifier, see("a-rule-of-your-own", "guides/extend"))
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, FeedbackRule):
        return get(identifier())
    if isinstance(identifier, dict):
        deserialized = keras.saving.deserialize_keras_object(identifier)
        if isinstance(deserialized, FeedbackRule):
            return get(deserialized)
    if isinstance(identifier, str):
        if identifier.lower() in _BY_NAME:
            return _BY_NAME[identifier.lower()]
        registered = keras.saving.get_registered_object(identifier)
        if registered is not None:
            return get(registered)
    known = ", ".join(
        f"{rule.name} ({', '.join(rule.aliases)})" if rule.aliases else rule.name for rule in RULES
    )
    near = difflib.get_close_matches(str(identifier).lower(), _BY_NAME, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"feedback rule {identifier!r} is not known. Known: {known}.{hint}")
