"""Which objects a model finds, and how many of them are there: COCO's mean average precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.detection.anchors import side_of
from train.detection.losses import BOX, RetinaNetLoss

# Lin et al. 2018, section 4.1: what is looked at, and when two boxes are of one object.
LEAST_SCORE, SAME_OBJECT_FROM = 0.05, 0.5
MOST_OBJECTS = 100  # of an image, as COCO counts
NEEDS_PYCOCOTOOLS = (
    "The mean average precision needs pycocotools: pip install pycocotools. All else works without."
)


def found_in(loss: RetinaNetLoss, outputs: Any) -> list[npt.NDArray[Any]]:
    """The objects of each image: (m, 6): box in pixels, class, score, from the best on.

    `outputs` (batch, anchors, 4 + classes) are a model's. Boxes of one class that overlap by more
    than half are one object (non-maximum suppression), of which the best is kept.
    """
    outputs = tf.cast(outputs, tf.float32)
    boxes = tf.clip_by_value(loss.boxes_of(outputs), 0.0, side_of(outputs.shape[1]))
    kept = tf.image.combined_non_max_suppression(
        boxes[:, :, None],
        tf.sigmoid(outputs[..., BOX:]),
        max_output_size_per_class=MOST_OBJECTS,
        max_total_size=MOST_OBJECTS,
        iou_threshold=SAME_OBJECT_FROM,
        score_threshold=LEAST_SCORE,
        clip_boxes=False,
    )
    boxes, scores, classes, counts = (part.numpy() for part in kept)
    whole = np.concatenate([boxes, classes[..., None], scores[..., None]], axis=-1)
    return [one[:count] for one, count in zip(whole, counts, strict=True)]


def looked_at(
    model: Any, batches: Iterable[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """(image, objects (n, 5), found (m, 6)) of every image of (inputs, targets, weights)."""
    for inputs, targets, weights in batches:
        found = found_in(model.loss, model(inputs, training=False))
        for image, true, weight, objects in zip(
            inputs.numpy(), targets.numpy(), weights.numpy(), found, strict=True
        ):
            if weight:
                yield image, true[true[:, BOX] >= 0], objects


def mean_average_precision(
    true: Iterable[npt.NDArray[Any]], found: Iterable[npt.NDArray[Any]]
) -> dict[str, float]:
    """COCO's AP over overlaps of 0.5 to 0.95, and at 0.5, in per cent; empty without pycocotools.

    Over the classes that are there; NaN if none is. Crowds are not known here, so what is found in
    them counts as wrong, and the numbers are a little lower than those of COCO's own files.
    """
    try:
        # Here, so that all else works without it.
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        return {}
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    number = 0
    for number, (objects, guesses) in enumerate(zip(true, found, strict=True), 1):
        for y, x, bottom, right, kind in objects.tolist():
            box = [x, y, right - x, bottom - y]
            one = {"id": len(annotations) + 1, "iscrowd": 0, "area": box[2] * box[3]}
            one |= {"image_id": number, "category_id": int(kind), "bbox": box}
            annotations.append(one)
        for y, x, bottom, right, kind, score in guesses.tolist():
            box = [x, y, right - x, bottom - y]
            one = {"image_id": number, "category_id": int(kind), "bbox": box, "score": score}
            results.append(one)
    names = ("map_percent", "map_50_percent")
    if not results:
        return dict.fromkeys(names, 0.0)
    kinds = sorted({one["category_id"] for one in (*annotations, *results)})
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        there = COCO()
        there.dataset = {
            "images": [{"id": n + 1} for n in range(number)],
            "annotations": annotations,
            "categories": [{"id": kind} for kind in kinds],
        }
        there.createIndex()
        evaluation = COCOeval(there, there.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = (float(value) for value in evaluation.stats[:2])
    return {name: 100 * v if v >= 0 else np.nan for name, v in zip(names, values, strict=True)}
