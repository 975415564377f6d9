"""Amit 2018, 2.3: what the output units do is minus the gradient of the loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from studies.output_error.__main__ import main
from studies.output_error.circuit import Circuit


@pytest.mark.parametrize("mu", [0.1, 0.9])
def test_activity_is_minus_the_gradient_of_the_hinge(mu: float) -> None:
    fields = np.random.default_rng(0).uniform(-4.9, 4.9, size=(500, 10)).astype("float32")
    labels = np.arange(500) % 10
    h = tf.Variable(fields)
    with tf.GradientTape() as tape:
        loss = tfwm.training.MultiClassHinge(mu, reduction="sum")(labels, h)
    activity = Circuit(mu=mu).activity(fields, keras.utils.to_categorical(labels, 10) > 0)
    np.testing.assert_allclose(activity, -tape.gradient(loss, h), rtol=1e-6)
    assert set(np.unique(activity.round(3))) == {-mu, 0.0, 1.0}


def test_a_unit_that_is_shut_off_comes_and_goes() -> None:
    """The paper takes it for silent; its mean over time is not 0."""
    circuit = Circuit(excess=0.2)
    turns = circuit.run(np.array([2.0, -2.0]), np.array([True, False]), turns=4)
    np.testing.assert_allclose(turns, [[1.2, -0.7], [0, 0], [1.2, -0.7], [0, 0]])


def test_bad_input_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Expected 0 < mu < 1"):
        Circuit(mu=1.0)
    with pytest.raises(ValueError, match="A field is 6 in size"):
        Circuit().run(np.array([6.0]), np.array([True]))
    assert main() == 0
    assert "1.1 and 0 in turns" in capsys.readouterr().out
