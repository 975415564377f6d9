"""Direct feedback alignment where Keras calls layers in another order than networks stand."""

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.convert_helpers import compiled

k = keras.layers


def siamese(*, at_once: bool) -> keras.Model:
    """An encoder and a head, both called on two inputs."""
    encoder = keras.Sequential([keras.Input((4,)), k.Dense(5), k.Dense(4)])
    head = keras.Sequential([keras.Input((4,)), k.Dense(5), k.Dense(3, name="head")])
    one, two = keras.Input((4,)), keras.Input((4,))
    if at_once:
        both = head(encoder(k.Concatenate(axis=0)([one, two])))
        return keras.Model([one, two], both)
    return keras.Model([one, two], k.Subtract()([head(encoder(one)), head(encoder(two))]))


def test_calls_of_the_output_layer_whose_errors_would_be_mixed_up_are_refused() -> None:
    """Keras calls the encoder twice, then the head twice."""
    with pytest.raises(ValueError, match="/head' is called again, after other calls"):
        tfwm.convert_model(siamese(at_once=False), "dfa")
    assert len(tfwm.pathways(tfwm.convert_model(siamese(at_once=True), "dfa"))) == 4


def test_networks_whose_layers_are_called_in_turns_do_not_train() -> None:
    """As Keras calls the layers of one model over the tensors of two."""
    parts = [
        tfwm.convert_model(keras.Sequential([keras.Input((4,)), k.Dense(3), k.Dense(2)]), "dfa")
        for _ in range(2)
    ]
    both = keras.Model([p.inputs[0] for p in parts], k.Add()([p.outputs[0] for p in parts]))
    with pytest.raises(ValueError, match="called before it and does not lead to it"):
        compiled(both).train_on_batch([np.ones((3, 4))] * 2, np.ones((3, 2)))
