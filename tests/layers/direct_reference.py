"""Direct feedback alignment by NumPy, written from its equations (Nokland 2016, section 2).

`a_l = W_l h_(l-1) + b_l`, `h_l = f(a_l)`; `e` is the error of the last `a`; under every layer but
the last `delta_l = (e B_(l+1)^T) * f'(a_l)`, `dW_l = h_(l-1)^T delta_l`, `db_l = sum delta_l`.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

Array = np.ndarray

# f and f' as a function of a.
ACTIVATIONS: dict[str, Any] = {
    "linear": (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(a.dtype)),
}


@dataclasses.dataclass
class Layer:
    """A linear map of `numpy_reference`, with its weights, and what the forward pass leaves."""

    linear_map: Any
    kernel: Array
    feedback: Array  # (cells of the layer's input, error cells)
    bias: Array | float = 0.0
    activation: str = "linear"

    def forward(self, x: Array) -> Array:
        self.x = x
        self.a = self.linear_map.forward(x, self.kernel) + self.bias
        return ACTIVATIONS[self.activation][0](self.a)

    def learn(self, error: Array) -> None:
        """`error` at the layer's output, flat or not."""
        delta = error.reshape(self.a.shape) * ACTIVATIONS[self.activation][1](self.a)
        self.d_kernel = self.linear_map.to_kernel(self.x, delta, self.kernel.shape)
        self.d_bias = delta.sum(tuple(range(delta.ndim - 1)))


class Flatten:
    """What stands between convolutions and dense layers."""

    def forward(self, x: Array, kernel: Array) -> Array:
        return x.reshape(len(x), -1)


def cross_entropy_error(logits: Array, y: Array) -> Array:
    """`e` of softmax and the mean cross-entropy: (prediction - target) / batch."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return (p - np.eye(logits.shape[1])[y]) / len(y)


def train(layers: list[Layer | Flatten], x: Array, y: Array) -> Array:
    """One step: leaves `d_kernel` and `d_bias` on the layers; the error sent to `x` is returned."""
    h = np.asarray(x, "float64")
    for layer in layers:
        h = layer.forward(h) if isinstance(layer, Layer) else layer.forward(h, h)
    e = cross_entropy_error(h, y)
    learning = [layer for layer in layers if isinstance(layer, Layer)]
    learning[-1].learn(e)
    for layer, above in itertools.pairwise(learning):
        layer.learn(e @ above.feedback.T)
    return (e @ learning[0].feedback.T).reshape(np.shape(x))
