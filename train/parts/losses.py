"""Losses and metrics by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras

from tfweightmirror.training import MultiClassHinge
from train.config import Part
from train.detection.losses import PartOfLoss, RetinaNetLoss
from train.errors import UserError, see
from train.parts.named import checked_options, classes_of, find, instance, options_of


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
    """

    def __init__(self, loss: Any, name: str | None = None, **options: Any) -> None:
        self.loss = keras.losses.get(loss)
        name = name or getattr(self.loss, "name", None) or getattr(self.loss, "__name__", None)
        options.setdefault("reduction", getattr(self.loss, "reduction", "sum_over_batch_size"))
        super().__init__(name=name, **options)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Values (batch, ...) to losses (batch,)."""
        losses = getattr(self.loss, "call", self.loss)(y_true, y_pred)
        return keras.ops.mean(losses, axis=tuple(range(1, len(losses.shape))))

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return super().get_config() | {"loss": keras.losses.serialize(self.loss)}


def softmax() -> keras.losses.Loss:
    """Cross-entropy of the classes, on logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sigmoid() -> keras.losses.Loss:
    """Cross-entropy of each output on its own, summed over the outputs, on logits."""
    return SigmoidCrossentropy(name="sigmoid_crossentropy")


def known_losses() -> dict[str, Any]:
    """Our losses, and those of Keras in snake case."""
    ours = {
        "softmax": softmax,
        "sigmoid": sigmoid,
        "multi_class_hinge": MultiClassHinge,
        "retinanet": RetinaNetLoss,
    }
    return ours | classes_of(keras.losses, keras.losses.Loss, snake_case=True)


def known_metrics() -> dict[str, Any]:
    """The metrics of Keras that compare targets with outputs, in snake case."""
    found = classes_of(keras.metrics, keras.metrics.Metric, snake_case=True)
    takes = {
        name: inspect.signature(member.update_state).parameters for name, member in found.items()
    }
    return {name: member for name, member in found.items() if "y_true" in takes[name]}


def build_loss(part: Part, kind: str | None = None, *, axes: int = 1) -> Any:
    """The Keras loss, for outputs of so many axes and targets of a kind; None: of any kind."""
    loss = _built("loss", part, known_losses(), keras.losses.Loss, kind)
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "sum_over_batch_size"):
        raise UserError(
            f"loss has reduction={reduction}. Expected the mean over examples, "
            f"sum_over_batch_size: each test image counts once, and replicas train as one device."
        )
    return MeanOfExample(loss) if axes > 1 and kind != "boxes" else loss


def build_metrics(parts: tuple[Part, ...], kind: str | None = None) -> list[Any]:
    """The Keras metrics for targets of a kind."""
    known, metric = known_metrics(), keras.metrics.Metric
    return [_built("metrics", part, known, metric, kind) for part in parts]


def check_logits(model: Any, measures: Sequence[Any]) -> None:
    """Refuses a loss or metrics of probabilities for a model whose last layer gives logits."""
    last: Any = model.layers[-1] if model.layers else None
    if getattr(last, "activation", None) is not keras.activations.linear:
        return
    for measure in measures:
        if getattr(getattr(measure, "loss", measure), "from_logits", True) is False:
            key = "metrics" if isinstance(measure, keras.metrics.Metric) else "loss"
            raise UserError(
                f"{key} is {measure.name} of probabilities (from_logits is false), but "
                f"{model.name} gives logits: {last.name} has no activation. Expected the option "
                f"from_logits=true." + see("a-loss-that-does-not-fit-the-targets")
            )


def build_parts(loss: Any) -> list[PartOfLoss]:
    """Metrics of what a loss is the sum of, where it has `parts`: functions by name."""
    return [PartOfLoss(loss, part) for part in getattr(loss, "parts", ())]


def _built(key: str, part: Part, known: dict[str, Any], base: Any, kind: str | None) -> Any:
    """An instance, or a function of (targets, outputs) as it stands, with its options."""
    one = f"a Keras {key.rstrip('s')}"
    target = find(key, part.name, known, also=f", {one}" if key == "loss" else "")
    takes = list(options_of(target))[:2]
    if inspect.isclass(target) or isinstance(target, base) or len(takes) < 2:
        built = instance(key, part, known, base, one)
    else:
        given = checked_options(f"{key}.options", target, part.options, set_by_us=takes)
        partial = functools.update_wrapper(functools.partial(target, **given), target)
        built = partial if given else target
    name, module = type(built).__name__, type(built).__module__
    # Keras would compare a class's number with every logit, and say nothing.
    of_classes = name.startswith("Sparse") or module in (__name__, MultiClassHinge.__module__)
    of_boxes = isinstance(built, RetinaNetLoss)
    of_values = module.startswith("keras.")
    if kind == "classes" and of_values and not of_classes:
        example = "softmax, sigmoid" if key == "loss" else "sparse_top_k_categorical_accuracy"
        raise UserError(
            f"{key} is {part.name}, which compares values, but data.target is classes. Expected "
            f"one of classes, such as {example}, or data.target=values."
            + see("a-loss-that-does-not-fit-the-targets")
        )
    ours = of_classes or module.startswith("keras.")
    if of_boxes and kind not in (None, "boxes"):
        raise UserError(
            f"{key} is {part.name}, which is of boxes, but data.target is {kind}. Expected data "
            f"whose targets are boxes, such as a folder in COCO's layout, or another {key}."
            + see("a-loss-that-does-not-fit-the-targets")
        )
    if kind == "boxes" and ours and not of_boxes:
        raise UserError(
            f"{key} is {part.name}, but the targets of data.name are boxes. Expected "
            f"{'retinanet' if key == 'loss' else 'none: the parts of the loss are logged'}."
            + see("a-loss-that-does-not-fit-the-targets")
        )
    if kind not in (None, "classes") and of_classes:
        example = "mean_squared_error" if key == "loss" else "mean_absolute_error"
        raise UserError(
            f"{key} is {part.name}, which is of classes, but data.target is {kind}. Expected "
            f"one of values, such as {example}." + see("a-loss-that-does-not-fit-the-targets")
        )
    return built
