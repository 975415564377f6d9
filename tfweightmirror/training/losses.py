"""Losses that the papers train with and Keras has not."""

import math
from typing import Any

import keras

from tfweightmirror._internals.arguments import is_finite


@keras.saving.register_keras_serializable(package="tfweightmirror")
class MultiClassHinge(keras.losses.Loss):
    """Hinge of the class shown and, weighted by `mu`, of every other one (Amit 2018, eq. 3).

    `loss = [1 - h_y]_+ + mu * sum_{c != y} [1 + h_c]_+`, with linear outputs h; the class predicted
    is that of the largest. Its gradient is -1 at y while `h_y <= 1` and `mu` at every other c while
    `h_c >= -1`, the bounds themselves included, else 0. (Eq. 5 prints `h_c >= 1` and the negative;
    eq. 3 and 4 give this.)

    Args:
        mu: Weight of the classes not shown. None: 1 / (classes - 1), as in the released code's
            later files; the paper gives no number, only `mu < 1`.
        reduction, name, ...: As `keras.losses.Loss`; the mean over the batch by default.

    Input shape: labels (batch, ...) or (batch, ..., 1), whole numbers, and outputs
    (batch, ..., classes). Output shape: (batch, ...). A label that is no class gives NaN.

    Raises:
        ValueError: `mu` is below 0; in a call: targets with a number for every class, such as
            one-hot ones, or outputs of one class.

    Examples:
        >>> loss, label = tfwm.training.MultiClassHinge(mu=0.5), np.array([0])
        >>> float(loss(label, np.array([[0.25, -2.0, 1.0]])))  # 1 - 0.25, and half of 1 + 1
        1.75
        >>> float(loss(label, np.array([[1.0, -1.0, -1.0]])))  # far enough on either side
        0.0
    """

    def __init__(self, mu: float | None = None, **options: Any) -> None:
        if mu is not None and not (is_finite(mu) and mu >= 0):
            raise ValueError(f"mu of MultiClassHinge is {mu!r}. Expected a number >= 0, or None.")
        super().__init__(**{"name": "multi_class_hinge", **options})
        self.mu = mu

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Labels and outputs to losses."""
        ops, classes = keras.ops, y_pred.shape[-1]
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] not in (1, None):
            raise ValueError(
                f"MultiClassHinge received targets of shape {tuple(y_true.shape)} for outputs of "
                f"shape {tuple(y_pred.shape)}. Expected one whole number for each example, its "
                "class: use argmax on one-hot targets."
            )
        if classes < 2:
            raise ValueError(
                f"MultiClassHinge received outputs of shape {tuple(y_pred.shape)}. Expected a "
                "last axis of two or more classes."
            )
        labels = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
        shown = ops.one_hot(labels, classes, dtype="bool")
        margins = ops.where(shown, 1.0 - y_pred, 1.0 + y_pred)
        # Not `maximum`, whose gradient at the bound is halved; and NaN stays NaN.
        hinges = ops.where(margins < 0, 0.0, margins)
        mu = 1.0 / (classes - 1) if self.mu is None else self.mu
        losses = ops.sum(ops.where(shown, hinges, mu * hinges), axis=-1)
        return ops.where(ops.any(shown, axis=-1), losses, math.nan)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return super().get_config() | {"mu": self.mu}
