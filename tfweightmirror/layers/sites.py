"""Where a layer keeps a kernel, and what is read there for a call."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Site:
    """One kernel of a layer: the names of its attributes.

    Attributes:
        kernel: The parent's attribute that holds W.
        initializer: The parent's attribute that holds W's initializer.
        name: Tells the kernels of one layer apart; empty where there is one.
        responds: Whether the layer's bias and activation follow this kernel.

    Examples:
        >>> site = tfwm.layers.Site("recurrent_kernel", "recurrent_initializer", "recurrent")
        >>> site.feedback, site.constraint  # the attributes that hold B, and what binds W
        ('feedback_recurrent_kernel', 'recurrent_constraint')
        >>> [site.name for site in tfwm.layers.FeedbackSeparableConv2D.sites]
        ['depthwise', 'pointwise']
    """

    kernel: str = "kernel"
    initializer: str = "kernel_initializer"
    name: str = ""
    responds: bool = True

    @property
    def feedback(self) -> str:
        """The attribute that holds B."""
        return f"feedback_{self.kernel}"

    @property
    def factor(self) -> str:
        """The attribute that holds the fixed factor of a B that is a product."""
        return self.feedback.replace("kernel", "factor")

    @property
    def constraint(self) -> str:
        """The parent's attribute that holds W's constraint."""
        return self.initializer.replace("initializer", "constraint")

    @property
    def state(self) -> str:
        """The attribute that holds what the rule draws from."""
        return f"feedback_{self.name}_state" if self.name else "feedback_state"


class Reading(NamedTuple):
    """The tensors of one site, None where there is none."""

    kernel: tf.Tensor
    feedback: tf.Tensor | None
    seed: tf.Tensor | None
    carrier: tf.Tensor | None = None  # known beforehand where it serves several calls
