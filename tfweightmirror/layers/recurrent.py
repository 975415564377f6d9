"""Recurrent layers whose cells have feedback kernels.

Whatever Keras computes past the cell (cuDNN, `Bidirectional`'s fused pairs) would be plain
backprop: it is never taken. With B = W gradients are the plain layers', to the bit when eager; in
graphs sums may be ordered otherwise where there are many products (`implementation=1`, `unroll`),
which rounds by about 2e-7. Delta angles need `unroll=True`: a loop's errors cannot be seen.
"""

from typing import Any, ClassVar, TypeAlias

import keras

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.docs import see
from tfweightmirror.layers.carries_rule import CarriesRule
from tfweightmirror.layers.cells import FeedbackCell, FeedbackSimpleRNNCell
from tfweightmirror.layers.feedback_layer import register
from tfweightmirror.layers.gated_cells import FeedbackGRUCell, FeedbackLSTMCell
from tfweightmirror.layers.initializers import first_seed
from tfweightmirror.pathway import Pathway

Shape: TypeAlias = tuple[int | None, ...]


class FeedbackRNN(CarriesRule):
    """What the three layers share: they give their rule to their cell."""

    cell_class: ClassVar[type[FeedbackCell]]
    hears_output_error = False

    def set_rule(
        self, rule: Any, feedback_initializer: Any = None, *, feedback_seed: int | None = None
    ) -> None:
        """Set the rule of a layer that has no feedback kernels yet, and of its cell."""
        super().set_rule(rule, feedback_initializer, feedback_seed=feedback_seed)
        if not isinstance(self.cell, FeedbackCell):
            keras_hooks.become(self.cell, self.cell_class)
        self.cell.set_rule(rule, feedback_initializer, feedback_seed=feedback_seed)

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        """Build the cell, with its feedback kernels."""
        self.cell._birth_seed = self._birth_seed
        super().build(sequences_shape, initial_state_shape)
        self._birth_seed = self.cell._birth_seed

    def build_feedback(self) -> None:
        """Add the feedback kernels to a layer whose cell has its kernels."""
        with keras_hooks.adding_weights(self.cell):
            self.cell.build_feedback()
        self._birth_seed = self.cell._birth_seed

    def initializer_seed(self) -> int | None:
        """The seed of the first kernel's initializer that has one, or None."""
        return first_seed(self.cell, self.cell_class.sites)

    @property
    def pathways(self) -> list[Pathway]:
        """The two pathways of the (built) cell."""
        return self.cell.pathways

    @property
    def use_cudnn(self) -> bool:
        """False: cuDNN sends errors back on W itself."""
        return False

    @use_cudnn.setter
    def use_cudnn(self, value: Any) -> None:
        if value is True:
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) received use_cudnn=True, but cuDNN "
                "sends errors back on W itself. Leave it at 'auto', which is False in a feedback "
                "layer, or take the plain Keras layer." + see("cudnn")
            )
        self.__dict__["use_cudnn"] = value  # what a plain layer has again


@register
class FeedbackSimpleRNN(FeedbackRNN, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` whose errors travel back on two feedback kernels.

    As `FeedbackSimpleRNNCell` at every step; backpropagation through time, with B in W's place.

    Args:
        units, ...: As `keras.layers.SimpleRNN`.
        rule: A feedback rule for both kernels: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both B start from. Default: the initializer of each kernel with a
            seed of its own.

    Input shape: (batch, time, n_in). Output shape: (batch, units), or (batch, time, units).

    Raises:
        ValueError: The rule is not known, or is `direct_feedback_alignment`.

    Examples:
        >>> layer = tfwm.layers.FeedbackSimpleRNN(4, rule="fa", name="rnn")
        >>> layer(tf.ones((2, 7, 3))).shape  # 7 steps in time
        TensorShape([2, 4])
        >>> [(p.name, p.view.matrices) for p in layer.pathways]
        [('simple_rnn_cell/input', (1, 3, 4)), ('simple_rnn_cell/recurrent', (1, 4, 4))]
    """

    cell_class = FeedbackSimpleRNNCell


@register
class FeedbackLSTM(FeedbackRNN, keras.layers.LSTM):
    """`keras.layers.LSTM` whose errors travel back on two feedback kernels.

    As `FeedbackLSTMCell` at every step; backpropagation through time, with B in W's place.

    Args:
        units, ...: As `keras.layers.LSTM`, but for `use_cudnn=True`, which is refused.
        rule: A feedback rule for both kernels: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both B start from. Default: the initializer of each kernel with a
            seed of its own.

    Input shape: (batch, time, n_in). Output shape: (batch, units), or (batch, time, units).

    Raises:
        ValueError: The rule is not known, or is `direct_feedback_alignment`; `use_cudnn=True`.

    Examples:
        >>> lstm = keras.layers.Bidirectional(keras.layers.LSTM(4, name="lstm"), name="both")
        >>> model = keras.Sequential([keras.Input((7, 3)), lstm])
        >>> found = tfwm.pathways(tfwm.convert_model(model, "feedback_alignment"))
        >>> [p.name for p in found][:2]  # and two backward
        ['both/forward_lstm/lstm_cell/input', 'both/forward_lstm/lstm_cell/recurrent']
        >>> [p.view.matrices for p in found][:2]  # four gates of 4 units
        [(1, 3, 16), (1, 4, 16)]
    """

    cell_class = FeedbackLSTMCell


@register
class FeedbackGRU(FeedbackRNN, keras.layers.GRU):
    """`keras.layers.GRU` whose errors travel back on two feedback kernels.

    As `FeedbackGRUCell` at every step; backpropagation through time, with B in W's place.

    Args:
        units, ...: As `keras.layers.GRU`, but for `use_cudnn=True`, which is refused.
        rule: A feedback rule for both kernels: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both B start from. Default: the initializer of each kernel with a
            seed of its own.

    Input shape: (batch, time, n_in). Output shape: (batch, units), or (batch, time, units).

    Raises:
        ValueError: The rule is not known, or is `direct_feedback_alignment`; `use_cudnn=True`.

    Examples:
        >>> layer = tfwm.layers.FeedbackGRU(4, return_sequences=True, rule="fa", name="gru")
        >>> layer(tf.ones((2, 7, 3))).shape  # 7 steps in time
        TensorShape([2, 7, 4])
        >>> [(p.name, p.view.matrices) for p in layer.pathways]  # two gates and the candidate
        [('gru_cell/input', (1, 3, 12)), ('gru_cell/recurrent', (1, 4, 12))]
    """

    cell_class = FeedbackGRUCell
