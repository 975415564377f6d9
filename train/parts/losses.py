"""Losses by name: labels are class numbers, predictions logits."""

from __future__ import annotations

from typing import Any, Literal

import keras


@keras.saving.register_keras_serializable(package="tfweightmirror_train")
class SigmoidCrossentropy(keras.losses.Loss):
    """Cross-entropy of each output on its own, summed over the outputs (Akrout et al. 2019, code).

    `loss = sum_c -t_c log sigmoid(z_c) - (1 - t_c) log(1 - sigmoid(z_c))`, t one-hot; the mean over
    samples. Keras' own binary cross-entropy takes the mean over the outputs.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Labels (batch,) integers and logits (batch, classes) to losses (batch,)."""
        labels = keras.ops.reshape(y_true, (-1,))
        targets = keras.ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.ops.sum(
            keras.ops.binary_crossentropy(targets, y_pred, from_logits=True), axis=-1
        )


def build_loss(name: Literal["softmax", "sigmoid"]) -> Any:
    """The Keras loss of that name."""
    if name == "sigmoid":
        return SigmoidCrossentropy(name="sigmoid_crossentropy")
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
