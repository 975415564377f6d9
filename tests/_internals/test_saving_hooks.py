"""Canary: every private hook of Keras' saving still does what this library relies on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

import tfweightmirror as tfwm
from tfweightmirror._internals import saving_hooks as hooks

layers = keras.layers


def dense() -> keras.layers.Dense:
    """A built layer."""
    layer = layers.Dense(2, name="d")
    layer.build((None, 3))
    return layer


def test_the_layers_that_keras_writes_into_a_config_by_itself() -> None:
    class Stack(keras.Sequential):
        pass

    class OwnConfig(Stack):
        def get_config(self) -> dict[str, Any]:
            return {}

    class Graph(keras.Model):
        def __init__(self, width: int) -> None:
            inputs = keras.Input((width,))
            super().__init__(inputs, layers.Dense(2)(inputs))

    for stack in (Stack([dense()]), keras.Sequential([dense()])):
        assert hooks.layers_in_config(stack) == stack.layers
        assert [config["class_name"] for config in stack.get_config()["layers"]] == ["Dense"]
    whole = keras.Model(*[keras.Input((2,))] * 2)
    assert hooks.layers_in_config(whole) == whole.layers
    assert "layers" in whole.get_config()
    assert "layers" not in Graph(3).get_config()
    for none in (OwnConfig([dense()]), Graph(3), dense()):
        assert hooks.layers_in_config(none) == []


@pytest.mark.parametrize("old", [False, True], ids=["sorted", "in the order of Keras"])
def test_legacy_files_never_put_b_into_w(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever part was frozen when the file was written, and by whom."""
    square = [layers.Dense(4, use_bias=False) for _ in range(2)]
    base = keras.Sequential([keras.Input((4,)), *square], name="base")
    model = keras.Sequential([keras.Input((4,)), base, layers.Dense(3)])
    tfwm.convert_model(model, "fa")
    base.trainable = False
    with monkeypatch.context() as patch:
        if old:
            unsorted = legacy_h5_format._legacy_weights.__wrapped__
            patch.setattr(legacy_h5_format, "_legacy_weights", unsorted)
        model.save(tmp_path / "m.h5")
    base.trainable = True
    before = [weight.numpy() for weight in model.weights]
    for weight in model.weights:
        weight.assign(0 * weight)
    model.load_weights(tmp_path / "m.h5")
    loaded = keras.models.load_model(tmp_path / "m.h5", compile=False)
    for one in (model, loaded):
        for weight, value in zip(one.weights, before, strict=True):
            assert np.array_equal(weight, value), weight.path
