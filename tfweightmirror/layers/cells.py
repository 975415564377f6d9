"""Recurrent cells: one step in time, with a feedback kernel for each of two kernels.

The error goes back in time on the feedback kernel of the recurrent kernel, and to the layer below
on that of the input kernel.
"""

import contextvars
from typing import Any, ClassVar, NamedTuple, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from tfweightmirror._internals import keras_hooks
from tfweightmirror.asymmetric_gradient import LinearMap
from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import dense_view
from tfweightmirror.layers.sites import Reading, Site
from tfweightmirror.pathway import KernelView

INPUT = Site(name="input")
RECURRENT = Site("recurrent_kernel", "recurrent_initializer", "recurrent")

States: TypeAlias = Any  # one tensor, or a list of them, as Keras' cells take them


class _Sequence(NamedTuple):
    """The readings of a cell's weights that serve all steps of one call of a recurrent layer.

    Attributes:
        call: The outermost call that it belongs to: outside it the readings may be old.
        readings: By site.
    """

    call: Any
    readings: dict[Site, Reading]


# By the cell's id. Not on the cell: each replica is a thread, and reads for itself.
_sequences: contextvars.ContextVar[dict[int, _Sequence] | None] = contextvars.ContextVar(
    "tfweightmirror_sequences", default=None
)


class FeedbackCell(FeedbackLayer):
    """What all cells share.

    Keras' recurrent layers ask a cell for its dropout masks before the first step, and reset them
    after the last. In between, all steps share one reading of the weights, one draw and one carrier
    of the error: in a loop of the graph each step would make them, and keep them, anew.
    """

    sites: ClassVar[tuple[Site, ...]] = (INPUT, RECURRENT)
    hears_output_error = False

    def kernel_view(self, site: Site) -> KernelView:
        return dense_view(*getattr(self, site.kernel).shape)

    def get_dropout_mask(self, step_input: tf.Tensor) -> Any:
        """Called by recurrent layers before the first step."""
        with keras_hooks.without_autocast():
            readings = {site: self._read_for_all_steps(site) for site in self.sites}
        sequence = _Sequence(keras_hooks.present_call(), readings)
        _sequences.set({**(_sequences.get() or {}), id(self): sequence})
        return super().get_dropout_mask(step_input)

    def _read_for_all_steps(self, site: Site) -> Reading:
        reading = self.read(site)
        if not self._in_training():
            return reading
        carrier = self._rule_at(site).backward_kernel(*self._cast(reading)[:3])
        return reading._replace(carrier=carrier)

    def _cast(self, reading: Reading) -> Reading:
        """`reading` for one step: each step's gradient is cast back before they are summed."""
        if not self.autocast:
            return reading
        kernel, feedback = (
            None if tensor is None else tf.cast(tensor, self.compute_dtype)
            for tensor in (reading.kernel, reading.feedback)
        )
        return reading._replace(kernel=kernel, feedback=feedback)

    def reset_dropout_mask(self) -> None:
        """Called by recurrent layers after the last step."""
        _sequences.set({k: v for k, v in (_sequences.get() or {}).items() if k != id(self)})
        super().reset_dropout_mask()

    def input_mask(self, inputs: tf.Tensor) -> Any:
        """The dropout mask of the inputs: a tensor, one for each gate, or None."""
        return super().get_dropout_mask(inputs)

    def product(
        self, site: Site, inputs: tf.Tensor, masks: Any = None, op: LinearMap = ops.matmul
    ) -> tf.Tensor:
        """`op(inputs, kernel)` of one step; `masks`: one, or one for each gate."""
        batch_axis = 1 if isinstance(masks, list) else 0
        if isinstance(masks, list):
            inputs = ops.stack([inputs * mask for mask in masks])
        elif masks is not None:
            inputs = inputs * masks
        sequence = (_sequences.get() or {}).get(id(self))
        reading = None
        if sequence is not None and sequence.call is keras_hooks.present_call():
            reading = self._cast(sequence.readings[site])
        return self.carry(
            op, inputs, site=site, reading=reading, batch_axis=batch_axis, linear_in_kernel=True
        )


@register
class FeedbackSimpleRNNCell(FeedbackCell, keras.layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` whose errors travel back on two feedback kernels.

    `h_t = activation(x_t W + h_(t-1) R + b)`. Backward, with `e_t` the error before the activation:
    `dx_t = e_t B_W^T`, `dh_(t-1) = e_t B_R^T`, `dW = sum x_t^T e_t`, `dR = sum h_(t-1)^T e_t`.

    Args:
        units, ...: As `keras.layers.SimpleRNNCell`.
        rule: A feedback rule for both kernels: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both B start from. Default: the initializer of each kernel with a
            seed of its own.

    Input shape: (batch, n_in), states (batch, units). Output shape: (batch, units).

    Raises:
        ValueError: The rule is not known, or is `direct_feedback_alignment`.

    Examples:
        >>> cell = tfwm.layers.FeedbackSimpleRNNCell(4, rule="fa", name="cell")
        >>> keras.layers.RNN(cell)(tf.ones((2, 7, 3))).shape  # 7 steps in time
        TensorShape([2, 4])
        >>> [(p.name, tuple(p.feedback_kernel.shape)) for p in cell.pathways]  # B_W, B_R
        [('cell/input', (3, 4)), ('cell/recurrent', (4, 4))]
    """

    def call(
        self, sequence: tf.Tensor, states: States, training: bool | None = False
    ) -> tuple[tf.Tensor, States]:
        """One step."""
        state = states[0] if isinstance(states, (list, tuple)) else states
        # Asked for in evaluation, too: each is a draw from the cell's stream.
        mask, recurrent_mask = self.input_mask(sequence), self.get_recurrent_dropout_mask(state)
        outputs = self.product(INPUT, sequence, mask if training else None)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        outputs = outputs + self.product(RECURRENT, state, recurrent_mask if training else None)
        if self.activation is not None:
            outputs = self.activation(outputs)
        return outputs, [outputs] if isinstance(states, (list, tuple)) else outputs


_KEPT = ("initializer", "regularizer", "constraint")
_OF_ITS_PARENT = (
    *("use_bias", "dropout", "recurrent_dropout", "seed"),
    *(f"{of}_{what}" for of in ("kernel", "bias") for what in _KEPT),
)


@register
class FeedbackAddedInputCell(FeedbackCell, keras.layers.SimpleRNNCell):
    """The cell of Khandwala and Bedi (section 2.5): inputs are added, there is no input matrix.

    `h_t = activation(h_(t-1) R + x_t)`. Backward, with `e_t` the error before the activation:
    `dx_t = e_t`, `dh_(t-1) = e_t B^T`, `dR = sum h_(t-1)^T e_t`.

    For `keras.layers.RNN(cell)`. Their first state is random: call the layer with `initial_state`.

    Args:
        units: Cells, as many as inputs.
        activation: Theirs is the sigmoid.
        recurrent_initializer: Of R.
        recurrent_regularizer: Of R.
        recurrent_constraint: Of R.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape: (batch, units), states (batch, units). Output shape: (batch, units).

    Raises:
        ValueError: There are more or fewer inputs than units.

    Examples:
        >>> cell = tfwm.layers.FeedbackAddedInputCell(3, rule="fa", name="cell")
        >>> rnn = keras.layers.RNN(cell)
        >>> rnn(tf.ones((2, 7, 3))).shape
        TensorShape([2, 3])
        >>> [(p.name, tuple(p.feedback_kernel.shape)) for p in cell.pathways]
        [('cell/recurrent', (3, 3))]
    """

    sites = (RECURRENT,)

    def __init__(
        self,
        units: int,
        *,
        activation: Any = "sigmoid",
        recurrent_initializer: Any = "orthogonal",
        recurrent_regularizer: Any = None,
        recurrent_constraint: Any = None,
        rule: Any = "weight_mirror",
        feedback_initializer: Any = None,
        **of_every_layer: Any,
    ) -> None:
        unknown = of_every_layer.keys() - {"name", "trainable", "dtype", "autocast"}
        if unknown:
            raise ValueError(
                f"FeedbackAddedInputCell received {', '.join(map(repr, sorted(unknown)))}: it has "
                "no input matrix, no bias and no dropout. Expected arguments of its recurrent "
                "kernel alone; FeedbackSimpleRNNCell takes the others."
            )
        super().__init__(
            units,
            activation=activation,
            use_bias=False,
            recurrent_initializer=recurrent_initializer,
            recurrent_regularizer=recurrent_regularizer,
            recurrent_constraint=recurrent_constraint,
            rule=rule,
            feedback_initializer=feedback_initializer,
            **of_every_layer,
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the recurrent kernel, then its feedback kernel."""
        if input_shape[-1] != self.units:
            raise ValueError(
                f"Layer '{self.name}' (FeedbackAddedInputCell) adds its inputs to its state, and "
                f"received {input_shape[-1]} inputs for {self.units} units. Expected as many: put "
                "a Dense layer before it, or take FeedbackSimpleRNNCell."
            )
        self.bias = None
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units),
            name="recurrent_kernel",
            initializer=self.recurrent_initializer,
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
        )
        self.build_feedback()

    def call(
        self, sequence: tf.Tensor, states: States, training: bool | None = False
    ) -> tuple[tf.Tensor, States]:
        """One step."""
        state = states[0] if isinstance(states, (list, tuple)) else states
        outputs = self.product(RECURRENT, state) + sequence
        if self.activation is not None:
            outputs = self.activation(outputs)
        return outputs, [outputs] if isinstance(states, (list, tuple)) else outputs

    def get_config(self) -> dict[str, Any]:
        """The arguments that this cell takes."""
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in _OF_ITS_PARENT}
