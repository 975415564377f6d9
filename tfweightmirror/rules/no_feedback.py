"""No feedback at all, for a layer below which nothing learns."""

import dataclasses
from typing import ClassVar

import keras
import tensorflow as tf

from tfweightmirror.rules.feedback_rule import FeedbackRule


@keras.saving.register_keras_serializable(package="tfweightmirror")
@dataclasses.dataclass(frozen=True)
class NoFeedback(FeedbackRule):
    """The layer keeps no B and sends no error down: for one that reads the data.

    dW is `x^T dy` as in backprop, and nothing else is needed where nothing below learns: so the
    first layer of a network on a chip has no feedback synapses. An error that is asked for anyway
    (below learns an `Embedding`, a generator, an adversarial input) is refused in the forward pass
    of whoever records on a tape; where no tape is seen (`tf.gradients`, a `tf.function` of a
    model's own) it is NaN. It never travels on W.

    Examples:
        >>> units = {"first": 500, "head": 10}
        >>> layers = [keras.layers.Dense(count, name=name) for name, count in units.items()]
        >>> model = keras.Sequential([keras.Input((784,)), *layers])
        >>> model = tfwm.convert_model(model, "kolen_pollack", first_layer="no_feedback")
        >>> {p.name: p.feedback_kernel is None for p in tfwm.pathways(model)}
        {'first': True, 'head': False}
        >>> list(tfwm.weight_angles(model))  # of what stands in W's place
        ['head']
    """

    name: ClassVar[str] = "no_feedback"
    uses_feedback_kernel: ClassVar[bool] = False
    has_carrier: ClassVar[bool] = False

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> None:
        """None: no error goes down."""
