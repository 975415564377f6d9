"""What RetinaNet learns from: focal loss of the classes, smooth L1 of the boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.utils import bounding_boxes

from train.detection import anchors

OBJECT_FROM, BACKGROUND_BELOW = 0.5, 0.4
BACKGROUND, IGNORED = -1.0, -2.0
BOX = 4
"""Outputs of an anchor before the logits of its classes; numbers of an object before its class."""


def matched(objects: Any, boxes: Any) -> tuple[Any, Any]:
    """The object that each anchor stands for (Lin et al. 2018, section 4).

    That with which it overlaps most, if intersection over union is 0.5 or more; background below
    0.4; between, the anchor is ignored. An object may have no anchor.

    Args:
        objects: (batch, n, 5): box and class; padding has class -1.
        boxes: The anchors (count, 4).

    Returns:
        Boxes (batch, count, 4), and classes (batch, count): numbers, -1 background, -2 ignored.
    """
    ops = keras.ops
    overlap = bounding_boxes.compute_iou(boxes, objects[..., :BOX], "yxyx")
    overlap = ops.where(objects[:, None, :, BOX] >= 0, overlap, 0.0)
    most = ops.max(overlap, axis=-1)
    best = ops.argmax(overlap, axis=-1)
    found = ops.take_along_axis(objects, best[..., None], axis=1)
    other = ops.where(most < BACKGROUND_BELOW, BACKGROUND, IGNORED)
    return found[..., :BOX], ops.where(most >= OBJECT_FROM, found[..., BOX], other)


def focal(logits: Any, positive: Any, alpha: float, gamma: float) -> Any:
    """`-alpha_t (1 - p_t)^gamma log p_t` (Lin et al. 2018, eq. 5), elementwise.

    Keras' own clips p at 1e-7, where its gradient ends, and takes the mean over classes.
    """
    ops = keras.ops
    towards = ops.where(positive, logits, -logits)  # p_t is the sigmoid of this
    weight = ops.where(positive, alpha, 1.0 - alpha)
    return weight * ops.sigmoid(-towards) ** gamma * ops.softplus(-towards)


def smooth_l1(difference: Any, delta: float) -> Any:
    """`d^2 / (2 delta)` up to `delta`, `|d| - delta / 2` beyond (Girshick 2015), elementwise."""
    far = keras.ops.abs(difference)
    return keras.ops.where(far < delta, 0.5 * difference**2 / delta, far - 0.5 * delta)


@keras.saving.register_keras_serializable(package="tfweightmirror_train")
class RetinaNetLoss(keras.losses.Loss):
    """Focal loss of the classes plus smooth L1 of the boxes (Lin et al. 2018, section 4).

    Each is summed over an image's anchors and divided by the number of those that stand for an
    object, at least 1. Outputs are (batch, anchors, 4 + classes): offsets of centre, height and
    width from the anchor's, and logits; targets (batch, n, 5): boxes in pixels and classes, -1
    where there is none.

    Args:
        anchor_size: Side of the smallest square anchor over its level's stride: 4 is published,
            for images of 500 and more pixels.
        alpha: Weight of anchors that stand for an object; that of others is 1 - alpha.
        gamma: How little what is known already counts.
        delta: Where the loss of an offset becomes linear.
        variance: What the offsets of centre (y, x), height and width are divided by.
        box_weight: Of the boxes' loss in the sum.
    """

    def __init__(
        self,
        *,
        anchor_size: float = anchors.PUBLISHED_SIZE,
        alpha: float = 0.25,
        gamma: float = 2.0,
        delta: float = 1.0,
        variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        box_weight: float = 1.0,
        name: str = "retinanet",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.anchor_size = anchor_size
        self.alpha = alpha
        self.gamma = gamma
        self.delta = delta
        self.variance = tuple(variance)
        self.box_weight = box_weight
        if len(self.variance) != BOX or min(anchor_size, delta, *self.variance) <= 0:
            raise ValueError(
                f"anchor_size is {anchor_size}, delta {delta} and variance {list(variance)}. "
                f"Expected numbers above 0, and four of variance."
            )

    @property
    def parts(self) -> dict[str, Callable[[Any, Any], Any]]:
        """What is logged apart, by name: functions of targets and outputs to losses (batch,)."""
        return {"box_loss": self.of_boxes, "class_loss": self.of_classes}

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses (batch,)."""
        return self.box_weight * self.of_boxes(y_true, y_pred) + self.of_classes(y_true, y_pred)

    def of_boxes(self, y_true: Any, y_pred: Any) -> Any:
        """Smooth L1 of the offsets, summed, (batch,)."""
        ops = keras.ops
        boxes, classes = matched(y_true, self.anchors_of(y_pred))
        is_object = ops.cast(classes >= 0, "float32")
        offsets = bounding_boxes.encode_box_to_deltas(
            self.anchors_of(y_pred), boxes, "yxyx", "yxyx", variance=self.variance
        )
        given = ops.cast(y_pred[..., :BOX], "float32")
        losses = ops.sum(smooth_l1(given - offsets, self.delta), axis=-1)
        # Padding has no height: where no object is, an offset may be anything but finite.
        losses = ops.where(classes >= 0, losses, 0.0)
        return ops.sum(losses, axis=-1) / ops.maximum(ops.sum(is_object, axis=-1), 1.0)

    def of_classes(self, y_true: Any, y_pred: Any) -> Any:
        """The focal loss, summed over anchors and classes, (batch,)."""
        ops = keras.ops
        _, classes = matched(y_true, self.anchors_of(y_pred))
        logits = ops.cast(y_pred[..., BOX:], "float32")
        positive = classes[..., None] == ops.arange(logits.shape[-1], dtype="float32")
        losses = ops.sum(focal(logits, positive, self.alpha, self.gamma), axis=-1)
        losses = ops.sum(ops.where(classes == IGNORED, 0.0, losses), axis=-1)
        is_object = ops.cast(classes >= 0, "float32")
        return losses / ops.maximum(ops.sum(is_object, axis=-1), 1.0)

    def anchors_of(self, outputs: Any) -> Any:
        """The anchors (count, 4) that outputs (batch, count, ...) belong to."""
        return anchors.boxes(anchors.side_of(outputs.shape[1]), self.anchor_size)

    def boxes_of(self, outputs: Any) -> Any:
        """Boxes (batch, count, 4) in pixels that outputs stand for."""
        return bounding_boxes.decode_deltas_to_boxes(
            self.anchors_of(outputs), outputs[..., :BOX], "yxyx", "yxyx", variance=self.variance
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        names = ("anchor_size", "alpha", "gamma", "delta", "variance", "box_weight")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="tfweightmirror_train")
class PartOfLoss(keras.metrics.Mean):
    """The mean over images of one of a loss's `parts`."""

    def __init__(self, loss: Any, part: str, **options: Any) -> None:
        self.loss = keras.saving.deserialize_keras_object(loss) if isinstance(loss, dict) else loss
        self.part = part
        super().__init__(**({"name": part} | options))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Targets and outputs as the loss takes them."""
        super().update_state(self.loss.parts[self.part](y_true, y_pred), sample_weight)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        loss = keras.saving.serialize_keras_object(self.loss)
        return super().get_config() | {"loss": loss, "part": self.part}
