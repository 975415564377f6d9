"""What a feedback rule is, and what it may know of a layer's shape."""

import dataclasses
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Fans:
    """How many synapses meet at a cell: what a magnitude can be scaled by.

    Attributes:
        fan_in: Synapses entering one output cell: taps x c_in / groups, or n_in.
        fan_out: Synapses leaving one input cell: taps x c_out / groups, or n_out.
        convolutional: Whether the layer is a convolution (its scales carry He's factor 2).
    """

    fan_in: int
    fan_out: int
    convolutional: bool


@dataclasses.dataclass(frozen=True)
class FeedbackRule:
    """A way to send errors back. Subclass it for a rule of your own.

    Override `backward_kernel`, and, where B learns from the forward weights' gradient,
    `feedback_gradient`. `B` is the feedback kernel, `W` the forward kernel.

    Class attributes:
        name: The name in configs, logs and errors.
        aliases: Other names.
        uses_feedback_kernel: Whether the layer keeps a variable B of the kernel's shape.
        draws: Whether `backward_kernel` needs a `seed` that changes once per training call.
        learns_by: What moves B: `"nothing"`, `"optimizer"` (B becomes a trainable weight with the
            gradient `feedback_gradient(dW)`) or `"mirror"` (mirror mode).
    """

    name: ClassVar[str] = "feedback_rule"
    aliases: ClassVar[tuple[str, ...]] = ()
    uses_feedback_kernel: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    learns_by: ClassVar[Literal["nothing", "optimizer", "mirror"]] = "nothing"

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor | None:
        """The tensor that carries the error: same shape and dtype as `kernel`.

        None: the layer sends no error down. Only `DirectFeedbackAlignment` says so, where the error
        below comes from the output layer, and B has a shape of its own.

        Args:
            kernel: W, in the layer's compute dtype.
            feedback: B, or None if `uses_feedback_kernel` is False.
            seed: Two int32, or None if `draws` is False.
        """
        del kernel, seed
        return feedback

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor | None:
        """The gradient of B, from the gradient dW of the forward kernel. None: no gradient."""
        del kernel_gradient
        return None

    def for_fans(self, fans: Fans) -> "FeedbackRule":
        """This rule with everything that depends on the layer's shape made a number."""
        del fans
        return self

    def default_initializer(self, fans: Fans) -> keras.initializers.Initializer | None:
        """What B starts from; None means the kernel's own initializer with another seed."""
        del fans
        return None

    def get_config(self) -> dict[str, Any]:
        """The options, as Keras saves them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FeedbackRule":
        """The rule that `get_config` described."""
        return cls(**config)
