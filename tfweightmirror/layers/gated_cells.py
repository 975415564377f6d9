"""Recurrent cells with gates, which are columns of one matrix.

One kernel leads from the inputs to the four gates of an LSTM or the three of a GRU, one from the
state: two feedback kernels and two pathways, as in a simple cell.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from tfweightmirror.layers.cells import INPUT, RECURRENT, FeedbackCell, States
from tfweightmirror.layers.feedback_layer import register
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView, Pathway


class FeedbackGatedCell(FeedbackCell):
    """What LSTM and GRU share: gates, which are columns of one matrix."""

    gates: ClassVar[int]

    @property
    def pathways(self) -> list[Pathway]:
        """The two pathways; their columns have several activations, so they have none."""
        found = super().pathways
        return [dataclasses.replace(p, activation=None) for p in found]

    def gate_product(
        self, site: Site, inputs: tf.Tensor, masks: Any, gates: range | None = None
    ) -> tf.Tensor:
        """The answers of `gates` side by side, of shape (batch, units * gates)."""
        gates = range(self.gates) if gates is None else gates
        apart = self.implementation == 1  # as Keras computes it, to the bit
        op = functools.partial(gated_map, gates=gates, units=self.units, apart=apart)
        if isinstance(masks, list):
            masks = [masks[gate] for gate in gates]
        return self.product(site, inputs, masks, op)

    def masks(self, inputs: tf.Tensor, training: bool | None) -> Any:
        """The dropout masks of the inputs in this step, if any."""
        return self.input_mask(inputs) if training and 0.0 < self.dropout < 1.0 else None

    def recurrent_masks(self, state: tf.Tensor, training: bool | None) -> Any:
        """The dropout masks of the state in this step, if any."""
        used = training and 0.0 < self.recurrent_dropout < 1.0
        return self.get_recurrent_dropout_mask(state) if used else None


def gated_map(
    inputs: tf.Tensor, kernel: tf.Tensor, *, gates: range, units: int, apart: bool
) -> tf.Tensor:
    """The products with the columns of `gates`, side by side.

    Args:
        inputs: (batch, n), or, with other inputs for every gate, (gates, batch, n).
        kernel: (n, units * all gates).
        gates: Which gates.
        units: Columns of a gate.
        apart: Compute a product for every gate.

    Returns:
        (batch, units * gates).
    """
    if not apart:
        whole = len(gates) * units == kernel.shape[1]
        columns = kernel if whole else kernel[:, gates.start * units : gates.stop * units]
        return ops.matmul(inputs, columns)
    each = tf.unstack(inputs) if inputs.shape.rank == 3 else [inputs] * len(gates)
    parts = [kernel[:, gate * units : (gate + 1) * units] for gate in gates]
    products = [ops.matmul(x, part) for x, part in zip(each, parts, strict=True)]
    return ops.concatenate(products, axis=-1)


@register
class FeedbackLSTMCell(FeedbackGatedCell, keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` whose errors travel back on two feedback kernels.

    `z_t = x_t W + h_(t-1) R + b`, whose columns are those of the gates i, f, c, o. With `e_t` the
    error at `z_t`: `dx_t = e_t B_W^T`, `dh_(t-1) = e_t B_R^T`, `dW = sum x_t^T e_t`,
    `dR = sum h_(t-1)^T e_t`. The error through the carry state meets no matrix.

    Args:
        units, ...: As `keras.layers.LSTMCell`.
        rule: A feedback rule for both kernels: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both B start from. Default: the initializer of each kernel with a
            seed of its own.

    Input shape: (batch, n_in), two states (batch, units). Output shape: (batch, units).

    Raises:
        ValueError: The rule is not known, or is `direct_feedback_alignment`.

    Examples:
        >>> cell = tfwm.layers.FeedbackLSTMCell(4, rule="fa", name="cell")
        >>> keras.layers.RNN(cell)(tf.ones((2, 7, 3))).shape  # 7 steps in time
        TensorShape([2, 4])
        >>> [(p.name, p.view.matrices) for p in cell.pathways]  # four gates of 4 units
        [('cell/input', (1, 3, 16)), ('cell/recurrent', (1, 4, 16))]
    """

    gates = 4

    def call(
        self, inputs: tf.Tensor, states: States, training: bool | None = False
    ) -> tuple[tf.Tensor, States]:
        """One step."""
        h, c = states
        z = self.gate_product(INPUT, inputs, self.masks(inputs, training))
        if self.use_bias and self.implementation == 1:  # Keras adds in these two orders
            z = z + ops.convert_to_tensor(self.bias)
        z = ops.add(z, self.gate_product(RECURRENT, h, self.recurrent_masks(h, training)))
        if self.use_bias and self.implementation != 1:
            z = ops.add(z, self.bias)
        i, f, candidate, o = ops.split(z, 4, axis=1)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(
            candidate
        )
        h = self.recurrent_activation(o) * self.activation(c)
        return h, [h, c]


@register
class FeedbackGRUCell(FeedbackGatedCell, keras.layers.GRUCell):
    """`keras.layers.GRUCell` whose errors travel back on two feedback kernels.

    The columns of both kernels are those of the gates z, r and of the candidate. With `reset_after`
    the state passes the whole recurrent kernel in one product; without it the candidate's columns
    read `r * h_(t-1)`, in a product of their own. Either way `e_t` is the error at the products:
    `dx_t = e_t B_W^T`, and what they read in time gets `e_t B_R^T`, column by column.

    Args:
        units, ...: As `keras.layers.GRUCell`.
        rule: A feedback rule for both kernels: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both B start from. Default: the initializer of each kernel with a
            seed of its own.

    Input shape: (batch, n_in), states (batch, units). Output shape: (batch, units).

    Raises:
        ValueError: The rule is not known, or is `direct_feedback_alignment`.

    Examples:
        >>> cell = tfwm.layers.FeedbackGRUCell(4, rule="fa", name="cell")
        >>> keras.layers.RNN(cell)(tf.ones((2, 7, 3))).shape  # 7 steps in time
        TensorShape([2, 4])
        >>> [(p.name, p.view.matrices) for p in cell.pathways]  # two gates and the candidate
        [('cell/input', (1, 3, 12)), ('cell/recurrent', (1, 4, 12))]
    """

    gates = 3

    def kernel_view(self, site: Site) -> KernelView:
        view = super().kernel_view(site)
        if self.bias is None or not self.reset_after:
            return view
        row = 0 if site == INPUT else 1  # of a bias of shape (2, 3 * units)
        return dataclasses.replace(
            view, bias_to_matrix=lambda bias: tf.reshape(bias[row], (1, 1, -1))
        )

    def call(
        self, inputs: tf.Tensor, states: States, training: bool | None = False
    ) -> tuple[tf.Tensor, States]:
        """One step."""
        h = states[0] if keras.tree.is_nested(states) else states
        x = self.gate_product(INPUT, inputs, self.masks(inputs, training))
        if self.use_bias:
            of_input = self.bias[0] if self.reset_after else ops.convert_to_tensor(self.bias)
            # As Keras adds it: the two operations sum its gradient in two orders.
            x = x + of_input if self.implementation == 1 else ops.add(x, of_input)
        x_z, x_r, x_candidate = ops.split(x, 3, axis=-1)
        masks = self.recurrent_masks(h, training)
        if self.reset_after:
            heard = self.gate_product(RECURRENT, h, masks)
            if self.use_bias:
                heard = heard + self.bias[1]
            h_z, h_r, h_candidate = ops.split(heard, 3, axis=-1)
        else:
            h_z, h_r = ops.split(self.gate_product(RECURRENT, h, masks, range(2)), 2, axis=-1)
        z, r = self.recurrent_activation(x_z + h_z), self.recurrent_activation(x_r + h_r)
        h_candidate = r * h_candidate if self.reset_after else self._reset_before(h, r, masks)
        candidate = self.activation(x_candidate + h_candidate)
        h = z * h + (1 - z) * candidate
        return h, [h] if keras.tree.is_nested(states) else h

    def _reset_before(self, h: tf.Tensor, r: tf.Tensor, masks: Any) -> tf.Tensor:
        """What the candidate's columns answer to the state after the gate r."""
        heard = h if masks is None else h * masks[2]
        return self.gate_product(RECURRENT, r * heard, None, range(2, 3))
