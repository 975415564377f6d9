"""What constraints, losses and optimizers of papers refuse, and that nothing has changed then."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.callbacks.training import compiled, dense, fit
from tfweightmirror.training import (
    BatchManhattan,
    FixedSign,
    GlorotClip,
    MultiClassHinge,
    Sparse,
    constrain,
)

SGD = keras.optimizers.SGD


class Unknown(keras.constraints.Constraint):
    """One that Keras cannot make again from its config."""


def half_float16() -> keras.Model:
    """A model whose second kernel has other numbers than its first."""
    hidden = keras.layers.Dense(4, name="hidden")
    return keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(2, dtype="float16")])


@pytest.mark.parametrize(
    ("constraint", "sentence"),
    [
        (FixedSign("neuron", hold=1e-10), "hold of FixedSign is 1e-10, which is 0 in float16"),
        ("max_norm", "received 'max_norm' as the constraint. Expected an instance"),
        (keras.layers.Dense(2), "as the constraint. Expected an instance"),
        (GlorotClip, "as the constraint. Expected an instance"),
        (Unknown(), "Could not locate class 'Unknown'"),
    ],
    ids=["hold", "name", "layer", "class", "unknown"],
)
def test_where_constrain_refuses_it_has_changed_nothing(constraint: Any, sentence: str) -> None:
    model = half_float16()
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises((ValueError, TypeError), match=sentence):
        constrain(model, constraint)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
        assert weight.constraint is None
    assert all(layer.kernel_constraint is None for layer in model.layers)


def test_what_is_no_model_is_not_constrained() -> None:
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"Expected a Keras model\. Received: Dense"):
        constrain(layer, GlorotClip())


@pytest.mark.parametrize("pattern", ["rnn", "rnn/simple_rnn_cell"])
def test_a_kernel_inside_another_layer_is_not_offered(pattern: str) -> None:
    rnn = keras.layers.SimpleRNN(2, name="rnn")
    model = keras.Sequential([keras.Input((4, 3)), rnn, keras.layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match="'rnn/simple_rnn_cell' stands inside another one"):
        constrain(model, FixedSign(), layers=[pattern])
    with pytest.raises(ValueError, match=r"Expected patterns of head\.$"):
        constrain(model, FixedSign(), layers=["nowhere"])


@pytest.mark.parametrize("constraint", [FixedSign(), GlorotClip(), Sparse()])
def test_averages_of_weights_are_refused(constraint: Any) -> None:
    """They are put in the weights' place behind all constraints."""
    model = constrain(dense("fa"), constraint)
    compiled(model, SGD(0.1, use_ema=True), run_eagerly=True)
    with pytest.raises(ValueError, match="SGD with use_ema=True overwrites weights by averages"):
        fit(model, batches=1)


def test_a_kernel_of_one_axis_is_cut_as_keras_counts_its_fans() -> None:
    bound = np.sqrt(6.0 / (5 + 5))
    np.testing.assert_allclose(GlorotClip(0.5)(np.full(5, 9.0, "float32")), 0.5 * bound, rtol=1e-6)


@pytest.mark.parametrize("value", ["x", True, float("nan"), -1.0, 1j])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: FixedSign(hold=value),
        lambda value: GlorotClip(value),
        lambda value: MultiClassHinge(value),
        lambda value: BatchManhattan(coupled_weight_decay=value),
        lambda value: tfwm.layers.SaturatedLinear(value),
        lambda value: tfwm.layers.RunningBatchNormalization(momentum=value),
        lambda value: tfwm.mirror.MirrorMode("gaussian", eta=value),
        lambda value: tfwm.mirror.MirrorMode("gaussian", dead_cells=value),
        lambda value: tfwm.mirror.MirrorMode("gaussian", response_noise_std=value),
        lambda value: tfwm.mirror.MirrorMode("gaussian", response_bits=value),
    ],
)
def test_what_is_no_number_in_range_is_refused(make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ValueError, match=r"is|must be"):
        make(value)


@pytest.mark.parametrize("axis", ["x", None, 1.0, ["a"]])
def test_axes_that_are_no_whole_numbers_are_refused(axis: Any) -> None:
    with pytest.raises(ValueError, match=r"axis of MixedReLU is .* Expected a whole number"):
        tfwm.layers.MixedReLU(axis)


def test_bits_are_whole() -> None:
    with pytest.raises(ValueError, match=r"response_bits must be a whole number.*2\.5"):
        tfwm.mirror.MirrorMode("gaussian", response_bits=2.5)
