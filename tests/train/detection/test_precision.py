"""What is found in a model's outputs, and COCO's mean average precision of it."""

import sys
from typing import Any

import numpy as np
import pytest
from keras.utils import bounding_boxes

from train.detection import anchors
from train.detection.losses import RetinaNetLoss
from train.detection.precision import found_in, mean_average_precision
from train.detection.watch import drawn

TRUE = [
    np.float32([[4, 6, 40, 30, 2], [30, 20, 62, 60, 0]]),
    np.float32([[0, 0, 64, 64, 1]]),
]


def scored(objects: np.ndarray, score: float) -> np.ndarray:
    return np.concatenate([objects, np.full((len(objects), 1), score, np.float32)], axis=1)


def test_outputs_that_stand_for_objects_give_these_back_once() -> None:
    loss = RetinaNetLoss(anchor_size=3.0)
    places = anchors.boxes(64, 3.0)
    outputs = np.full((2, len(places), 4 + 3), -9.0, np.float32)
    for number, objects in enumerate(TRUE):
        for at, one in enumerate(objects):
            rows = slice(9 * at, 9 * at + 4)  # four anchors tell of each
            deltas = bounding_boxes.encode_box_to_deltas(
                places[rows], np.tile(one[:4], (4, 1)), "yxyx", "yxyx", variance=loss.variance
            )
            outputs[number, rows, :4] = deltas
            outputs[number, rows, 4 + int(one[4])] = 3 - at + np.arange(4) / 10
    found = found_in(loss, outputs)
    for objects, guesses in zip(TRUE, found, strict=True):
        np.testing.assert_allclose(guesses[:, :5], objects, atol=1e-3)
        expected = 1 / (1 + np.exp(-(3.3 - np.arange(len(objects)))))
        np.testing.assert_allclose(guesses[:, 5], expected, rtol=1e-5)
    assert [len(one) for one in found_in(loss, np.full_like(outputs, -9.0))] == [0, 0]


def test_mean_average_precision_of_what_can_be_reckoned() -> None:
    pytest.importorskip("pycocotools")
    whole = [scored(objects, 0.9) for objects in TRUE]
    found = mean_average_precision(TRUE, whole)
    assert list(found) == ["map_percent", "map_50_percent"]
    np.testing.assert_allclose(list(found.values()), 100.0)
    nothing = [np.zeros((0, 6), np.float32)] * 2
    assert mean_average_precision(TRUE, nothing)["map_percent"] == 0.0
    # Of three classes one is not found, and a wrong guess behind the right one takes nothing away.
    some = [np.concatenate([whole[0][:1], scored(TRUE[0][1:] + 30, 0.1)]), whole[1]]
    found = mean_average_precision(TRUE, some)
    np.testing.assert_allclose(found["map_50_percent"], 200 / 3, rtol=1e-6)
    # Overlap 0.8: right at 0.5, 0.55, ... 0.8, seven of the ten.
    narrow = [np.zeros((0, 6), np.float32), np.float32([[0, 0, 64, 51.2001, 1, 0.5]])]
    found = mean_average_precision([TRUE[0][:0], TRUE[1]], narrow)
    np.testing.assert_allclose(list(found.values()), [70.0, 100.0], rtol=1e-6)


def test_without_pycocotools_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert mean_average_precision(TRUE, [scored(objects, 0.9) for objects in TRUE]) == {}


def test_boxes_are_drawn_where_they_are() -> None:
    dark: Any = np.zeros((64, 64, 3))
    without = drawn([(dark, TRUE[0][:0], TRUE[0][:0])], [])
    true = drawn([(dark, TRUE[0], scored(TRUE[0][:0], 0.9))], ["a", "b", "c"])
    found = drawn([(dark, TRUE[0][:0], scored(TRUE[0], 0.9))], ["a", "b", "c"])
    assert without.shape == true.shape == found.shape
    image = np.argwhere(without.max(axis=2) == 0)
    pixel = (image.max(axis=0) - image.min(axis=0)) / 63.5
    for picture, is_lit in ((true, 0), (found, 80)):
        lit = (picture != without).any(axis=2) & (picture.astype(int) @ [1, 0, -1] >= is_lit)
        lit[: image.min(axis=0)[0]] = False  # the title
        at = np.argwhere(lit)
        ends = (np.array([at.min(axis=0), at.max(axis=0)]) - image.min(axis=0)) / pixel
        # A name stands above its box.
        np.testing.assert_allclose(ends.ravel()[1:], [6.5, 62.5, 60.5], atol=2.5)
    assert not (true.astype(int) @ [1, 0, -1] >= 80).any()
