"""Optimizers that the papers train with and Keras has not."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.arguments import is_finite


@keras.saving.register_keras_serializable(package="tfweightmirror")
class BatchManhattan(keras.optimizers.SGD):
    """SGD by the sign of the batch gradient (Liao et al. 2016; Xiao et al. 2018).

    `g = sign(dW) + coupled_weight_decay * w`, then `v <- momentum * v - learning_rate * g` and
    `w <- w + v`: first the sign, then the decay, then momentum, as in Xiao's code. `sign(0) = 0`.

    The sign is that of the gradient which plain SGD would use: summed over all replicas, averaged
    over accumulated batches, with loss scaling undone. Clipping comes before it, so that it changes
    nothing on one device (on replicas, where Keras clips each one's part, their weights in the
    sum). Under `kolen_pollack` and `updated_random_feedback` B takes the same sign as W, and the
    gap law of Kolen-Pollack holds as under SGD; the size of `epsilon` is lost, as under Adam.

    Args:
        learning_rate, momentum, nesterov, ...: As `keras.optimizers.SGD`. `weight_decay` is Keras',
            `learning_rate * weight_decay` of each weight, past momentum.
        coupled_weight_decay: Times the weight, added to the sign, so that it passes momentum; but
            for what `exclude_from_weight_decay` names. None: none.
        layers: Patterns (`fnmatch`) of the layers whose gradients are signed, compared with a
            layer's name, and with those of its owners and itself joined by slashes; the others
            train by plain SGD. W and B of a layer are always treated alike.

    Raises:
        ValueError: A decay below 0. When the optimizer is built: a pattern that matches no weight.

    Examples:
        >>> w = keras.Variable([1.0, 1.0, 1.0])
        >>> optimizer = tfwm.training.BatchManhattan(learning_rate=0.25)
        >>> optimizer.apply([tf.constant([0.001, -7.0, 0.0])], [w])
        >>> w.numpy().tolist()  # one size of step, whatever the gradient's
        [0.75, 1.25, 1.0]
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        coupled_weight_decay: float | None = None,
        layers: Sequence[str] = ("*",),
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, **options)
        decay = coupled_weight_decay
        if decay is not None and not (is_finite(decay) and decay >= 0):
            raise ValueError(
                f"coupled_weight_decay of BatchManhattan is {decay!r}. Expected a number >= 0, or "
                "None."
            )
        if isinstance(layers, str) or not layers or not all(isinstance(p, str) for p in layers):
            raise ValueError(
                f"layers of BatchManhattan is {layers!r}. Expected a list of name patterns, such "
                "as ['conv*'], or ['*'] for all."
            )
        self.coupled_weight_decay = decay
        self.layers = tuple(layers)

    def build(self, variables: Iterable[keras.Variable]) -> None:
        """Keep momenta, and find out whose gradients are signed."""
        variables = list(variables)
        super().build(variables)
        names = [list(_names_of(variable)) for variable in variables]
        for pattern in self.layers:
            if not any(_match(own, [pattern]) for own in names):
                layers = ", ".join(dict.fromkeys(own[-1] for own in names))
                raise ValueError(
                    f"layers of BatchManhattan: {pattern!r} matches no layer that it trains. "
                    f"Expected patterns of {layers}."
                )
        # By place: a replica's part of a variable, as `update_step` gets it, has another name.
        self._signed = frozenset(
            place for place, own in enumerate(names) if _match(own, self.layers)
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        weight = tf.convert_to_tensor(variable)
        if keras_hooks.place_of(variable, self) in self._signed:
            gradient = tf.sign(gradient)  # of rows of an embedding, too: it sums them first
        if self.coupled_weight_decay and keras_hooks.decays(variable, self):
            gradient = tf.cast(gradient, weight.dtype) + self.coupled_weight_decay * weight
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return super().get_config() | {
            "coupled_weight_decay": self.coupled_weight_decay,
            "layers": list(self.layers),
        }


def _names_of(variable: keras.Variable) -> Iterable[str]:
    """Of its layer: the path of owners' names, ever shorter, down to the layer's own."""
    path = str(variable.path).split("/")
    owners = path[:-1] or path
    return ("/".join(owners[start:]) for start in range(len(owners)))


def _match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
