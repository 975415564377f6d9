"""Weights of the layer at the input as images, read without Keras."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from train.report.first_weights import images_of


def saved(folder: Path, *layers: Any, shape: tuple[int, ...], rule: str | None = None) -> Any:
    inputs = outputs = keras.Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    if rule is not None:
        tfwm.convert_model(model, rule)
    model.save(folder / "model.keras")
    return images_of(folder / "model.keras"), model.layers


@pytest.mark.parametrize("rule", [None, "kolen_pollack"])
def test_dense_cells_and_filters_are_seen_in_their_order(tmp_path: Path, rule: Any) -> None:
    dense = [keras.layers.Flatten(), keras.layers.Dense(30), keras.layers.Dense(5)]
    images, layers = saved(tmp_path, *dense, shape=(6, 4, 1), rule=rule)
    kernel = layers[2].kernel.numpy()
    assert images.shape == (24, 6, 4, 1)
    expected = kernel[:, 7].reshape(6, 4, 1)
    np.testing.assert_allclose(images[7], expected / np.abs(expected).max(), rtol=1e-6)
    filters = [keras.layers.Conv2D(4, 5), keras.layers.Conv2D(3, 5)]
    images, layers = saved(tmp_path, *filters, shape=(16, 16, 3), rule=rule)
    kernel = layers[1].kernel.numpy()[..., 2]
    np.testing.assert_allclose(images[2], kernel / np.abs(kernel).max(), rtol=1e-6)


def test_untied_filters_are_seen_at_four_positions(tmp_path: Path) -> None:
    images, layers = saved(tmp_path, tfwm.layers.LocallyConnected2D(8, 5), shape=(14, 14, 3))
    kernel = layers[1].kernel.numpy()[2, 2, ..., 1]  # 0.2 of 10 positions a side
    assert images.shape == (24, 5, 5, 3)
    np.testing.assert_allclose(images[1], kernel / np.abs(kernel).max(), rtol=1e-6)


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    assert saved(tmp_path, keras.layers.Dense(9), shape=(12,))[0] is None
    assert saved(tmp_path, keras.layers.Conv2D(9, 3), shape=(8, 8, 3))[0] is None  # too small
    later = [keras.layers.AveragePooling2D(2), keras.layers.Flatten(), keras.layers.Dense(9)]
    assert saved(tmp_path, *later, shape=(8, 8, 1))[0] is None
    assert images_of(tmp_path / "none.keras") is None
    (tmp_path / "broken.keras").write_text("no archive")
    assert images_of(tmp_path / "broken.keras") is None
