"""Direct feedback alignment: the output error goes to every layer through a matrix of its own."""

import dataclasses

import keras
import tensorflow as tf

from tfweightmirror.rules.feedback_rule import Fans, FeedbackRule

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@register
@dataclasses.dataclass(frozen=True)
class DirectFeedbackAlignment(FeedbackRule):
    """The error below a layer is `dx = e B^T`, `e` the output error (Nokland 2016, section 2).

    `e` (batch, error_cells) is the error of the output layer before its activation, and B (cells of
    the layer's input, error_cells) is random and fixed. The activation below follows as usual, dW
    is local. No layer hears what the layer above it hears.

    `convert_model` finds the output layer and sets both arguments. In layers made by hand, each
    hears of the next output layer that is called in the same call of the model.

    Args:
        error_cells: Cells of the output layer. None: `convert_model` counts them.
        is_output: Whether this is the output layer, which sends `e` to all that were called before.

    Raises:
        ValueError: `error_cells` is not a whole number of at least 1. `convert_model` names what
            else stands in the way.

    Examples:
        >>> layers = [keras.layers.Dense(units, name=f"fc_{units}") for units in (7, 5, 3)]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> model = tfwm.convert_model(model, tfwm.rules.DirectFeedbackAlignment())
        >>> [tuple(p.feedback_kernel.shape) for p in tfwm.pathways(model)]  # all from 3 errors
        [(8, 3), (7, 3), (5, 3)]
        >>> model.layers[-1].rule
        DirectFeedbackAlignment(error_cells=3, is_output=True)
    """

    error_cells: int | None = None
    is_output: bool = False

    name = "direct_feedback_alignment"
    aliases = ("dfa",)
    has_carrier = False

    def __post_init__(self) -> None:
        cells = self.error_cells
        counted = isinstance(cells, int) and not isinstance(cells, bool) and cells >= 1
        if cells is not None and not counted:
            raise ValueError(
                "error_cells of direct_feedback_alignment must be how many cells the output layer "
                f"has, 1 or more, or None. Received: {self.error_cells!r}."
            )

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> None:
        """None: the layer itself sends no error, and nothing stands in W's place."""

    def default_initializer(self, fans: Fans) -> keras.initializers.Initializer:
        """Glorot-uniform by B's own shape, as in BioTorch: the error keeps its size."""
        return keras.initializers.GlorotUniform(seed=0)
