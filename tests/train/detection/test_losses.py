"""Anchors, matching and losses against NumPy written from Lin et al. 2018."""

from typing import Any

import keras
import numpy as np
import pytest

from train.config import Part
from train.detection import anchors
from train.detection.losses import PartOfLoss, RetinaNetLoss, focal, matched, smooth_l1
from train.errors import UserError
from train.parts.losses import build_loss

SIDE, KINDS = 64, 3
OBJECTS = np.array(
    [
        [[4, 6, 40, 30, 2], [30, 20, 62, 60, 0], [0, 0, 0, 0, -1]],
        [[0, 0, 64, 64, 1], [8, 8, 40, 40, -1], [0, 0, 0, 0, -1]],
        [[0, 0, 0, 0, -1]] * 3,
    ],
    "float32",
)


def test_anchors_are_the_published_ones() -> None:
    found = anchors.boxes(512)
    assert len(found) == anchors.count(512) == 9 * (64**2 + 32**2 + 16**2 + 8**2 + 4**2)
    sides = found[:, 2:] - found[:, :2]
    areas = np.unique(np.rint(np.sqrt(sides.prod(axis=1))).astype(int))
    expected = [32, 64, 128, 256, 512] * np.array([[1], [2 ** (1 / 3)], [2 ** (2 / 3)]])
    assert areas.tolist() == sorted(np.rint(expected).astype(int).ravel())
    assert set(np.round(sides[:, 0] / sides[:, 1], 3)) == {0.5, 1.0, 2.0}
    centres = (found[:, :2] + found[:, 2:]) / 2
    np.testing.assert_allclose(centres[:9], 4.0, atol=1e-5)  # of the first place
    np.testing.assert_allclose(centres[9:18], [[4.0, 12.0]] * 9, atol=1e-5)  # to the right of it
    np.testing.assert_allclose(anchors.boxes(512, 2.0)[0, 2:] - 4, (found[0, 2:] - 4) / 2)
    assert [anchors.side_of(anchors.count(side)) for side in (32, 160, 800)] == [32, 160, 800]
    with pytest.raises(ValueError, match="100 outputs are not those of a square image"):
        anchors.side_of(100)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return float(both / (sum(areas) - both))


def reference(outputs: np.ndarray, loss: RetinaNetLoss) -> dict[str, list[float]]:
    """Box and class losses of each image, one anchor after the other."""
    found: dict[str, list[float]] = {"box_loss": [], "class_loss": []}
    boxes = anchors.boxes(SIDE, loss.anchor_size).astype(float)
    for objects, given in zip(OBJECTS.astype(float), outputs.astype(float), strict=True):
        there, sums, standing = objects[objects[:, 4] >= 0], [0.0, 0.0], 0
        for anchor, output in zip(boxes, given, strict=True):
            overlaps = [overlap(anchor, one[:4]) for one in there]
            best = int(np.argmax(overlaps)) if overlaps else -1
            most = overlaps[best] if overlaps else 0.0
            if 0.4 <= most < 0.5:
                continue
            t = np.zeros(KINDS)
            if most >= 0.5:
                standing += 1
                box = there[best]
                t[int(box[4])] = 1
                size, sides = anchor[2:] - anchor[:2], box[2:4] - box[:2]
                shift = ((box[:2] + box[2:4]) - (anchor[:2] + anchor[2:])) / 2 / size
                offsets = np.concatenate([shift, np.log(sides / size)]) / loss.variance
                d = np.abs(output[:4] - offsets)
                small = d < loss.delta
                sums[0] += np.where(small, d**2 / 2 / loss.delta, d - loss.delta / 2).sum()
            p = 1 / (1 + np.exp(-output[4:]))
            p_t = np.where(t == 1, p, 1 - p)
            alpha_t = np.where(t == 1, loss.alpha, 1 - loss.alpha)
            sums[1] -= (alpha_t * (1 - p_t) ** loss.gamma * np.log(p_t)).sum()
        found["box_loss"].append(sums[0] / max(standing, 1))
        found["class_loss"].append(sums[1] / max(standing, 1))
    return found


@pytest.mark.parametrize("options", [{}, {"gamma": 1.0, "alpha": 0.4, "delta": 0.11}])
def test_losses_are_those_of_the_equations(options: dict[str, float]) -> None:
    shape = (len(OBJECTS), anchors.count(SIDE), 4 + KINDS)
    outputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    loss = RetinaNetLoss(anchor_size=3.0, box_weight=2.0, **options)
    expected = reference(outputs, loss)
    assert expected["box_loss"][2] == 0.0 < min(expected["box_loss"][:2])
    for name, part in loss.parts.items():
        np.testing.assert_allclose(part(OBJECTS, outputs), expected[name], rtol=1e-4, err_msg=name)
    both = 2 * np.array(expected["box_loss"]) + expected["class_loss"]
    np.testing.assert_allclose(loss.call(OBJECTS, outputs), both, rtol=1e-4)
    np.testing.assert_allclose(loss(OBJECTS, outputs), both.mean(), rtol=1e-4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    np.testing.assert_array_equal(again.call(OBJECTS, outputs), loss.call(OBJECTS, outputs))


def test_padding_and_what_lies_between_teach_nothing() -> None:
    boxes, classes = matched(OBJECTS, anchors.boxes(SIDE, 3.0))
    found = np.asarray(classes)
    assert set(found[0]) == {-2.0, -1.0, 0.0, 2.0}
    assert set(found[2]) == {-1.0}
    of_first = np.asarray(boxes)[0][found[0] == 2]
    assert len(of_first) > 0
    assert np.all(of_first == OBJECTS[0, 0, :4])
    more = np.concatenate([OBJECTS, OBJECTS[:, -1:]], axis=1)
    np.testing.assert_array_equal(matched(more, anchors.boxes(SIDE, 3.0))[1], classes)


def test_focal_loss_is_that_of_keras_and_ends_nowhere() -> None:
    random = np.random.default_rng(1)
    logits, t = random.normal(size=(5, 4)).astype("float32"), random.random((5, 4)) < 0.4
    keras_own = keras.losses.binary_focal_crossentropy(
        t.astype("float32"), logits, apply_class_balancing=True, from_logits=True
    )
    ours = keras.ops.mean(focal(logits, t, 0.25, 2.0), axis=-1)
    np.testing.assert_allclose(ours, keras_own, rtol=1e-5)
    far = focal(np.float32([-100.0, 100.0]), np.array([True, False]), 0.25, 2.0)
    np.testing.assert_allclose(far, [25.0, 75.0])
    np.testing.assert_allclose(smooth_l1(np.float32([0.5, -3.0]), 1.0), [0.125, 2.5])


def test_parts_are_means_over_images_that_count() -> None:
    shape = (len(OBJECTS), anchors.count(SIDE), 4 + KINDS)
    outputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    loss = RetinaNetLoss()
    metric = PartOfLoss(loss, "class_loss")
    metric.update_state(OBJECTS, outputs, np.float32([1, 1, 0]))
    np.testing.assert_allclose(metric.result(), np.mean(loss.of_classes(OBJECTS, outputs)[:2]))
    assert PartOfLoss.from_config(metric.get_config()).name == "class_loss"


@pytest.mark.parametrize(
    "options", [{"anchor_size": 0.0}, {"variance": [0.1, 0.2]}, {"delta": 0.0}]
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"loss=retinanet refuses its options: .*Expected numbers"):
        build_loss(Part("retinanet", options), "boxes")
