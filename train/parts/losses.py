"""Losses and metrics by name."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from train.config import Part
from train.errors import UserError
from train.parts.named import checked_options, classes_of, find, made


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


@keras.saving.register_keras_serializable(package="tfweightmirror_train")
class MeanOfExample(keras.losses.Loss):
    """Another loss as one number an example: Keras' own leave all but the last axis of values.

    Such numbers cannot be weighted by the example, as evaluation does with padding.

    Args:
        loss: A Keras loss, or a function of (targets, outputs).
    """

    def __init__(self, loss: Any, name: str | None = None, **options: Any) -> None:
        name = name or getattr(loss, "name", None) or getattr(loss, "__name__", None)
        options.setdefault("reduction", getattr(loss, "reduction", "sum_over_batch_size"))
        super().__init__(name=name, **options)
        self.loss = loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Values (batch, ...) to losses (batch,)."""
        of_class = isinstance(self.loss, keras.losses.Loss)
        losses = self.loss.call(y_true, y_pred) if of_class else self.loss(y_true, y_pred)
        return keras.ops.mean(losses, axis=tuple(range(1, len(losses.shape))))

    def get_config(self) -> dict[str, Any]:
        """The options, as Keras saves them."""
        return super().get_config() | {"loss": keras.losses.serialize(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MeanOfExample:
        """The loss that `get_config` described."""
        return cls(**config | {"loss": keras.losses.deserialize(config["loss"])})


def softmax() -> keras.losses.Loss:
    """Cross-entropy of the classes, on logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sigmoid() -> keras.losses.Loss:
    """Cross-entropy of each output on its own, summed over the outputs, on logits."""
    return SigmoidCrossentropy(name="sigmoid_crossentropy")


LOSSES: dict[str, Any] = {"softmax": softmax, "sigmoid": sigmoid}


def known_losses() -> dict[str, Any]:
    """Our losses, and those of Keras in snake case."""
    return LOSSES | classes_of(keras.losses, keras.losses.Loss, snake_case=True)


def known_metrics() -> dict[str, Any]:
    """The metrics of Keras in snake case."""
    return classes_of(keras.metrics, keras.metrics.Metric, snake_case=True)


def build_loss(part: Part, kind: str | None = None, *, axes: int = 1) -> Any:
    """The Keras loss.

    A function of (targets, outputs), with or without options, is a loss as it stands.

    Args:
        part: Its name and options.
        kind: Of the targets; null: not looked at.
        axes: Of one output.

    Raises:
        UserError: If it or an option is not known or refused, or it is for other targets.
    """
    target = find("loss", part.name, known_losses(), also=", a Keras loss")
    loss = _made("loss", part, target, keras.losses.Loss)
    _check_kind("loss", part, loss, kind)
    loss = keras.losses.get(loss)
    return MeanOfExample(loss) if axes > 1 else loss


def build_metrics(parts: tuple[Part, ...], kind: str | None = None) -> list[Any]:
    """The Keras metrics.

    Raises:
        UserError: As `build_loss`.
    """
    built = []
    for part in parts:
        target = find("metrics", part.name, known_metrics())
        built.append(_made("metrics", part, target, keras.metrics.Metric))
        _check_kind("metrics", part, built[-1], kind)
    return built


def _check_kind(key: str, part: Part, built: Any, given: str | None) -> None:
    """Raises UserError if ours or Keras' loss or metric is for other targets than are given.

    Keras would compare a class's number with every logit, and say nothing.
    """
    name, module = type(built).__name__, type(built).__module__
    of_classes = name.startswith("Sparse") or module == __name__
    of_values = module.startswith("keras.") and (key == "loss" or "regression" in module)
    if given == "classes" and of_values and not of_classes:
        example = "softmax, sigmoid" if key == "loss" else "sparse_top_k_categorical_accuracy"
        raise UserError(
            f"{key} is {part.name}, which compares values, but data.target is classes. Expected "
            f"one of classes, such as {example}, or data.target=values."
        )
    if given not in (None, "classes") and of_classes:
        example = "mean_squared_error" if key == "loss" else "mean_absolute_error"
        raise UserError(
            f"{key} is {part.name}, which is of classes, but data.target is {given}. Expected "
            f"one of values, such as {example}."
        )


def _made(key: str, part: Part, target: Any, base: type) -> Any:
    """An instance of a class or of what a function without targets gives, or a plain function."""
    if isinstance(target, base):
        return target
    if not callable(target):
        raise UserError(f"{key}={part.name} is {target!r}. Expected a Keras {key.rstrip('s')}.")
    takes = list(inspect.signature(target).parameters)
    plain = not inspect.isclass(target) and len(takes) >= 2 and part.name not in LOSSES
    if not plain:
        return made(key, part, target)
    options = checked_options(f"{key}.options", target, part.options, set_by_us=takes[:2])
    return _with_options(target, options) if options else target


def _with_options(function: Any, options: dict[str, Any]) -> Any:
    def call(y_true: Any, y_pred: Any) -> Any:
        return function(y_true, y_pred, **options)

    call.__name__ = function.__name__
    return call
