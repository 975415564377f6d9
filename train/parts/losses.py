"""Losses and metrics by name."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from train.config import Part
from train.errors import UserError
from train.parts.named import checked_options, classes_of, find


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


def softmax() -> keras.losses.Loss:
    """Cross-entropy of the classes, on logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sigmoid() -> keras.losses.Loss:
    """Cross-entropy of each output on its own, summed over the outputs, on logits."""
    return SigmoidCrossentropy(name="sigmoid_crossentropy")


LOSSES: dict[str, Any] = {"softmax": softmax, "sigmoid": sigmoid}
_TARGETS_AND_OUTPUTS = ("y_true", "y_pred")


def known_losses() -> dict[str, Any]:
    """Our losses, and those of Keras in snake case."""
    return LOSSES | classes_of(keras.losses, keras.losses.Loss, snake_case=True)


def known_metrics() -> dict[str, Any]:
    """The metrics of Keras in snake case."""
    return classes_of(keras.metrics, keras.metrics.Metric, snake_case=True)


def build_loss(part: Part) -> Any:
    """The Keras loss.

    A function of (targets, outputs), with or without options, is a loss as it stands.

    Raises:
        UserError: If it or an option is not known or refused.
    """
    target = find("loss", part.name, known_losses(), also=", a Keras loss")
    loss = _made("loss", part, target, keras.losses.Loss)
    return keras.losses.get(loss)


def build_metrics(parts: tuple[Part, ...]) -> list[Any]:
    """The Keras metrics.

    Raises:
        UserError: As `build_loss`.
    """
    built = []
    for part in parts:
        target = find("metrics", part.name, known_metrics())
        built.append(_made("metrics", part, target, keras.metrics.Metric))
    return built


def _made(key: str, part: Part, target: Any, base: type) -> Any:
    """An instance of a class or of what a function without targets gives, or a plain function."""
    if isinstance(target, base):
        return target
    if not callable(target):
        raise UserError(f"{key}={part.name} is {target!r}. Expected a Keras {key.rstrip('s')}.")
    takes = list(inspect.signature(target).parameters)
    plain = not inspect.isclass(target) and len(takes) >= 2 and part.name not in LOSSES
    options = checked_options(
        f"{key}.options", target, part.options, set_by_us=takes[:2] if plain else ()
    )
    if plain:
        return _with_options(target, options) if options else target
    try:
        return target(**options)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{key}={part.name} refuses its options: {reason}") from error


def _with_options(function: Any, options: dict[str, Any]) -> Any:
    def call(y_true: Any, y_pred: Any) -> Any:
        return function(y_true, y_pred, **options)

    call.__name__ = function.__name__
    return call
