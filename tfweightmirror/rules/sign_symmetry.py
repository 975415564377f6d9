"""Sign-symmetry: the error travels on the signs of W, times magnitudes that are not W's."""

import dataclasses
import math
from numbers import Real
from typing import Literal

import keras
import tensorflow as tf

from tfweightmirror._internals import draws
from tfweightmirror.rules.feedback_rule import Fans, FeedbackRule

register = keras.saving.register_keras_serializable(package="tfweightmirror")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} of sign-symmetry must be one of {', '.join(choices)}. Received: {value!r}."
        )


@register
@dataclasses.dataclass(frozen=True)
class SignSymmetry(FeedbackRule):
    """The error travels on `sign(W) * |M|` (Liao et al. 2016; Xiao et al. 2018). `sign(0) = 0`.

    This rule reads the signs of W on the way back: it transports one bit per weight.

    Args:
        magnitude: `"uniform"`: `|M| = scale` everywhere (uSF). `"fixed"`: `M` is drawn once from
            N(0, scale^2), or from the layer's `feedback_initializer`, and kept in B (frSF).
            `"batch"`: `M` is drawn anew from N(0, scale^2) at every training call (brSF).
        scale: The root mean square of the magnitudes. With n_in and n_out the synapses entering
            an output cell and leaving an input cell (taps included):
            `"xiao"`: sqrt(2 / n_out) for convolutions, 1 / sqrt(n_out) otherwise (Xiao et al. 2018,
            footnote 2); `"xiao_code"`: the same, but 1 / sqrt(n_in) outside convolutions (their
            released code); `"fan_in"`: sqrt(2 / n_in), 1 / sqrt(n_in); `"glorot"`:
            sqrt(2 / (n_in + n_out)); or a positive number.

    Raises:
        ValueError: `magnitude` or `scale` is none of these.

    Examples:
        >>> rule = tfwm.rules.SignSymmetry(scale=0.5)
        >>> rule.backward_kernel(tf.constant([[3.0, -0.2, 0.0]]), None, None).numpy().tolist()
        [[0.5, -0.5, 0.0]]
        >>> fans = tfwm.rules.Fans(fan_in=100, fan_out=50, convolutional=False)
        >>> tfwm.rules.SignSymmetry(scale="fan_in").for_fans(fans)
        SignSymmetry(magnitude='uniform', scale=0.1)
        >>> tfwm.rules.get("brsf")
        SignSymmetry(magnitude='batch', scale='xiao')
    """

    magnitude: Literal["uniform", "fixed", "batch"] = "uniform"
    scale: float | Literal["xiao", "xiao_code", "fan_in", "glorot"] = "xiao"

    name = "sign_symmetry"
    aliases = ("ss", "usf", "frsf", "brsf")

    def __post_init__(self) -> None:
        _check_choice("magnitude", self.magnitude, ("uniform", "fixed", "batch"))
        if isinstance(self.scale, str):
            _check_choice("scale", self.scale, ("xiao", "xiao_code", "fan_in", "glorot"))
        elif not (isinstance(self.scale, Real) and math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"The scale of sign-symmetry must be a positive number. Received: {self.scale!r}."
            )

    @property
    def uses_feedback_kernel(self) -> bool:  # type: ignore[override]  # depends on `magnitude`
        """Only fixed magnitudes are kept."""
        return self.magnitude == "fixed"

    @property
    def draws(self) -> bool:  # type: ignore[override]  # depends on `magnitude`
        """Only batch magnitudes are redrawn."""
        return self.magnitude == "batch"

    def for_fans(self, fans: Fans) -> "SignSymmetry":
        """The rule with its scale as a number."""
        gain = 2.0 if fans.convolutional else 1.0
        by_name = {
            "xiao": gain / fans.fan_out,
            "xiao_code": gain / (fans.fan_out if fans.convolutional else fans.fan_in),
            "fan_in": gain / fans.fan_in,
            "glorot": 2.0 / (fans.fan_in + fans.fan_out),
        }
        if not isinstance(self.scale, str):
            return self
        return dataclasses.replace(self, scale=math.sqrt(by_name[self.scale]))

    def default_initializer(self, fans: Fans) -> keras.initializers.Initializer | None:
        """N(0, scale^2) for fixed magnitudes."""
        # The layer gives it a seed of its own. Without one here, Keras would draw one from the
        # global stream, and the layers after this one would be born with other weights.
        return keras.initializers.RandomNormal(stddev=self.for_fans(fans).scale, seed=0)

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor:
        """`sign(W) * |M|`."""
        signs = tf.sign(kernel)
        if self.magnitude == "uniform":
            return signs * tf.cast(self.scale, kernel.dtype)
        if self.magnitude == "fixed":
            return signs * tf.abs(feedback)
        magnitudes = self.scale * tf.abs(draws.normal(tuple(kernel.shape), seed))
        return signs * tf.cast(magnitudes, kernel.dtype)
