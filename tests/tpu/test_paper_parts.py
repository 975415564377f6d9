"""What papers train with, compiled for a TPU: layers without shared weights, masks, fixed signs."""

from typing import Any

import keras
import pytest

import tfweightmirror as tfwm
from tests.tpu.conftest import Compile
from tests.tpu.steps import train_step, trainable
from tests.tpu.test_tpu import callbacks_of
from tfweightmirror.training import FixedSign, Sparse, constrain

LAYERS = 3


def local() -> keras.Model:
    """Two convolutions without shared weights, and a head."""
    layers: list[Any] = [
        tfwm.layers.LocallyConnected2D(4, 3, strides=2, padding="same", activation="relu"),
        tfwm.layers.LocallyConnected2D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def masked() -> keras.Model:
    """Half of the connections of two layers, signs of the third."""
    layers = [keras.layers.Dense(32, activation="relu") for _ in range(2)]
    flat = keras.layers.Flatten()
    model = keras.Sequential([keras.Input((8, 8, 1)), flat, *layers, keras.layers.Dense(10)])
    constrain(model, Sparse(0.5), layers=[layer.name for layer in layers])
    constrain(model, FixedSign(), layers=[model.layers[-1].name])
    return model


@pytest.mark.parametrize("rule", ["fa", "wm"])
def test_a_train_step_of_locally_connected_layers(rule: str, compiled: Compile) -> None:
    model = trainable(local, rule)
    callbacks = [tfwm.callbacks.WeightMirror()] if rule == "wm" else callbacks_of(rule)
    found = compiled(f"local {rule}", train_step(model, *callbacks))
    expected = compiled("plain local", train_step(trainable(local, None)))
    assert found.host_operations == expected.host_operations == []
    if rule == "fa":
        assert found.convolutions == expected.convolutions
        assert found.flops == pytest.approx(expected.flops, rel=0.02)
    else:
        assert found.flops > expected.flops


@pytest.mark.parametrize("rule", ["fa", "urfb"])
def test_a_train_step_under_masks_and_fixed_signs(rule: str, compiled: Compile) -> None:
    model = trainable(masked, rule)
    found = compiled(f"masked {rule}", train_step(model, *callbacks_of(rule)))
    expected = compiled("plain masked", train_step(trainable(masked, None)))
    assert found.host_operations == expected.host_operations == []
    assert found.convolutions == expected.convolutions == 3 * LAYERS - 1
