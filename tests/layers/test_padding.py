"""Where padding stands for cells of a locally connected layer, W and B stay 0."""

from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.convert_helpers import compiled, fit
from tests.slow import slow_but
from tfweightmirror.training import FixedSign, constrain

x = np.random.default_rng(0).normal(size=(4, 4, 4, 2)).astype("float32")
y = np.random.default_rng(1).normal(size=(4, 2)).astype("float32")


def untied(**options: Any) -> tuple[keras.Model, Any]:
    """A model, compiled, and its locally connected layer."""
    make = tfwm.layers.FeedbackLocallyConnected2D
    local = make(3, 3, padding="same", name="local", rule="urfb", **options)
    flatten, head = keras.layers.Flatten(), keras.layers.Dense(2, name="head")
    return compiled(keras.Sequential([keras.Input((4, 4, 2)), local, flatten, head])), local


def there(layer: Any, weight: Any) -> np.ndarray:
    """The entries of a kernel that padding stands before."""
    return weight.numpy()[~np.broadcast_to(layer.synapses, weight.shape)]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("per", slow_but(["neuron"], ["neuron", "synapse"]))
def test_a_fixed_sign_holds_no_weight_there(per: Any, by_hand: bool) -> None:
    model, local = untied(kernel_constraint=FixedSign(per, hold=0.1) if by_hand else None)
    if by_hand:
        local.kernel_constraint.remember(local.kernel)
    else:
        constrain(model, FixedSign(per, hold=0.1), layers=["local"])
    for _ in range(2):
        fit(model, x, y)
    signs = np.broadcast_to(local.kernel_constraint.signs, local.kernel.shape)
    held = np.where(local.synapses, signs * local.kernel.numpy(), 1.0)
    assert (held > 0).all()
    assert int(local.kernel_constraint.attempts) > 0
    assert (there(local, local.kernel) == 0).all()
    assert (signs != 0).mean() == local.synapses.mean()


def test_b_set_to_an_array_is_0_there() -> None:
    model, local = untied()
    ones = np.ones(local.feedback_kernel.shape)
    tfwm.reset_feedback(model, initializer={"local": ones})
    np.testing.assert_array_equal(local.feedback_kernel, ones * local.synapses)
