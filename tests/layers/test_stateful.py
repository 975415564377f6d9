"""Recurrent layers with `stateful=True`, whose first state is a variable."""

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.convert_helpers import assert_b_carries, compiled
from tests.layers.test_recurrent import NAMES, SHAPE, k, normal
from tests.slow import slow_but


@pytest.mark.parametrize("name", slow_but(["GRU"], NAMES))
def test_a_model_with_a_stateful_layer_shows_its_pathways_and_b_carries(name: str) -> None:
    layer = getattr(k, name)(3, stateful=True, unroll=True, name="rnn")
    inputs = keras.Input(batch_shape=SHAPE)
    head = k.Dense(2, name="head")
    model = keras.Model(inputs, head(layer(k.Dense(4, name="below")(inputs))))
    tfwm.convert_model(compiled(model), "fa", seed=1)
    x, y = normal(*SHAPE), normal(SHAPE[0], 2)
    cell = [pathway.name for pathway in tfwm.pathways(model)][1]
    assert cell.split("/")[::2] == ["rnn", "input"]
    assert_b_carries(model, x, y, below={"head": ["below", cell], cell: ["below"]})
    states = [variable.numpy() for variable in layer.non_trainable_variables]
    angles = tfwm.delta_angles(model, x, y)
    assert angles["head"] < 0.1 < angles[cell]  # and the look leaves the state alone
    for variable, state in zip(layer.non_trainable_variables, states, strict=True):
        np.testing.assert_array_equal(variable.numpy(), state)
