"""Recurrent layers and backpropagation through time, in NumPy from the equations, in float64.

The error goes back in time on `to_state` and to the inputs on `to_input`, of the kernels' shapes.
Nothing here uses TensorFlow or Keras.
"""

import dataclasses
from typing import Any

import numpy as np

Array = np.ndarray
States = tuple[Array, ...]


def sigmoid(z: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-z))


@dataclasses.dataclass
class Cell:
    """One step, and its way back; gradients add up in `d_kernel`, `d_recurrent` and `d_bias`."""

    kernel: Array
    recurrent: Array
    to_input: Array
    to_state: Array
    bias: Array
    reset_after: bool = True

    def __post_init__(self) -> None:
        self.d_kernel, self.d_recurrent, self.d_bias = (
            np.zeros_like(array) for array in (self.kernel, self.recurrent, self.bias)
        )

    def from_input(self, x: Array, error: Array) -> Array:
        """What the error at `x W` gives `x`."""
        self.d_kernel += x.T @ error
        return error @ self.to_input.T

    def from_state(self, h: Array, error: Array, columns: slice = slice(None)) -> Array:
        """What the error at `h R[:, columns]` gives `h`."""
        self.d_recurrent[:, columns] += h.T @ error
        return error @ self.to_state[:, columns].T

    def zeros(self, batch: int) -> States:
        """The first state."""
        return (np.zeros((batch, len(self.recurrent))),)

    def forward(self, x: Array, states: States) -> tuple[States, Any]:
        """The new states, of which the first is the output, and what the way back needs."""
        raise NotImplementedError

    def backward(self, seen: Any, d_states: States) -> tuple[Array, States]:
        """The errors at `x` and at the old states."""
        raise NotImplementedError


class SimpleRNN(Cell):
    """h = tanh(x W + h R + b)."""

    def forward(self, x: Array, states: States) -> tuple[States, Any]:
        new = np.tanh(x @ self.kernel + states[0] @ self.recurrent + self.bias)
        return (new,), (x, states[0], new)

    def backward(self, seen: Any, d_states: States) -> tuple[Array, States]:
        x, h, new = seen
        error = d_states[0] * (1.0 - new**2)
        self.d_bias += error.sum(0)
        return self.from_input(x, error), (self.from_state(h, error),)


class AddedInput(Cell):
    """h = s(h R + x)."""

    def forward(self, x: Array, states: States) -> tuple[States, Any]:
        new = sigmoid(states[0] @ self.recurrent + x)
        return (new,), (states[0], new)

    def backward(self, seen: Any, d_states: States) -> tuple[Array, States]:
        h, new = seen
        error = d_states[0] * new * (1 - new)
        return error, (self.from_state(h, error),)


class LSTM(Cell):
    """i, f, g, o = the columns of x W + h R + b; c = s(f) c + s(i) tanh(g); h = s(o) tanh(c)."""

    def zeros(self, batch: int) -> States:
        return super().zeros(batch) * 2

    def forward(self, x: Array, states: States) -> tuple[States, Any]:
        h, c = states
        i, f, g, o = np.split(x @ self.kernel + h @ self.recurrent + self.bias, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        new = f * c + i * g
        return (o * np.tanh(new), new), (x, h, c, new, i, f, g, o)

    def backward(self, seen: Any, d_states: States) -> tuple[Array, States]:
        x, h, c, new, i, f, g, o = seen
        d_h, d_c = d_states
        d_c = d_c + d_h * o * (1.0 - np.tanh(new) ** 2)
        at_gates = (d_c * g, d_c * c, d_c * i, d_h * np.tanh(new))
        slopes = (i * (1 - i), f * (1 - f), 1 - g**2, o * (1 - o))
        error = np.concatenate([d * s for d, s in zip(at_gates, slopes, strict=True)], axis=1)
        self.d_bias += error.sum(0)
        return self.from_input(x, error), (self.from_state(h, error), d_c * f)


class GRU(Cell):
    """z, r = s(x W + h R + b); h = z h + (1 - z) tanh(candidate).

    The candidate's columns give `x W + b + r (h R + b')` with `reset_after`, else
    `x W + b + (r h) R`.
    """

    def forward(self, x: Array, states: States) -> tuple[States, Any]:
        (h,) = states
        n = h.shape[1]
        of_input, of_state = self.bias if self.reset_after else (self.bias, 0.0 * self.bias)
        xs = np.split(x @ self.kernel + of_input, 3, axis=1)
        gates = h @ self.recurrent[:, : 2 * n] + of_state[: 2 * n]
        z, r = sigmoid(xs[0] + gates[:, :n]), sigmoid(xs[1] + gates[:, n:])
        columns = self.recurrent[:, 2 * n :]
        heard = h @ columns + of_state[2 * n :] if self.reset_after else (r * h) @ columns
        g = np.tanh(xs[2] + (r * heard if self.reset_after else heard))
        return (z * h + (1 - z) * g,), (x, h, z, r, heard, g)

    def backward(self, seen: Any, d_states: States) -> tuple[Array, States]:
        x, h, z, r, heard, g = seen
        (d_new,) = d_states
        n = h.shape[1]
        d_g = d_new * (1 - z) * (1 - g**2)
        d_z = d_new * (h - g) * z * (1 - z)
        if self.reset_after:
            d_r = d_g * heard * r * (1 - r)
            at_state = np.concatenate([d_z, d_r, d_g * r], axis=1)
            d_h = self.from_state(h, at_state)
        else:
            d_read = self.from_state(r * h, d_g, slice(2 * n, None))
            d_r = d_read * h * r * (1 - r)
            d_h = d_read * r
            d_h = d_h + self.from_state(h, np.concatenate([d_z, d_r], axis=1), slice(2 * n))
        error = np.concatenate([d_z, d_r, d_g], axis=1)
        if self.reset_after:
            self.d_bias += [error.sum(0), at_state.sum(0)]
        else:
            self.d_bias += error.sum(0)
        return self.from_input(x, error), (d_h + d_new * z,)


CELLS = {"SimpleRNN": SimpleRNN, "LSTM": LSTM, "GRU": GRU}


def through_time(cell: Cell, x: Array, error_at: Any) -> tuple[Array, Array]:
    """The outputs of all steps (batch, time, units), and the error at `x` (batch, time, n_in).

    `error_at(outputs)` is the error at the outputs.
    """
    states, seen, outputs = cell.zeros(len(x)), [], []
    for step in range(x.shape[1]):
        states, kept = cell.forward(x[:, step], states)
        seen.append(kept)
        outputs.append(states[0])
    outputs = np.stack(outputs, axis=1)
    error, d_x = np.asarray(error_at(outputs), "float64"), np.zeros_like(x)
    d_states = tuple(np.zeros_like(state) for state in states)
    for step in reversed(range(x.shape[1])):
        d_states = (d_states[0] + error[:, step], *d_states[1:])
        d_x[:, step], d_states = cell.backward(seen[step], d_states)
    return outputs, d_x
