"""What is measured under direct feedback alignment: delta angles, and no weight angle."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.convert_helpers import chain, compiled, images
from tfweightmirror.diagnostics.measures import OF_CARRIER

k = keras.layers


def mixed() -> keras.Model:
    """One layer of feedback alignment under three of the rule."""
    return compiled(tfwm.convert_model(chain(), {"conv": "fa", "*": "dfa"}))


def test_layers_without_a_weight_angle_are_left_out() -> None:
    model = mixed()
    assert list(tfwm.weight_angles(model)) == ["conv"]
    assert list(tfwm.norm_ratios(model)) == ["conv"]
    _, depth, *_ = tfwm.pathways(model)
    for name in OF_CARRIER:
        with pytest.raises(ValueError, match="'depth' has no tensor in W's place"):
            tfwm.diagnostics.WEIGHT_MEASURES[name](depth)
    others = tfwm.diagnostics.WEIGHT_MEASURES.keys() - set(OF_CARRIER)
    assert all(np.isfinite(tfwm.diagnostics.WEIGHT_MEASURES[name](depth)) for name in others)


def of_fit(model: keras.Model, monitor: Any) -> dict[str, Any]:
    x, y = images()
    logs = model.fit(in_batches(x, y), callbacks=[monitor], shuffle=False, verbose=0).history
    return {name: values for name, values in logs.items() if "/" in name}


def test_the_monitor_measures_what_there_is() -> None:
    measures = ("weight_angle", "kurtosis")
    logs = of_fit(mixed(), tfwm.callbacks.FeedbackMonitor(measures=measures, probe=images()))
    of_w = [f"kurtosis/{name}" for name in ("conv", "depth", "hidden", "head")]
    deltas = [f"delta_angle/{name}" for name in ("conv", "depth", "hidden", "head")]
    assert set(logs) == {"weight_angle/conv", *of_w, *deltas}


def test_the_monitor_says_that_there_is_nothing_to_measure() -> None:
    model = compiled(tfwm.convert_model(chain(), "dfa"))
    with pytest.warns(UserWarning, match="has nothing to measure .* weight_angle, norm_ratio do"):
        assert of_fit(model, tfwm.callbacks.FeedbackMonitor()) == {}


def test_a_measure_of_a_user_s_own_is_told_that_there_is_no_carrier() -> None:
    mine = {"weight_angle": lambda pathway: tf.reduce_sum(pathway.backward_kernel())}
    monitor = tfwm.callbacks.FeedbackMonitor(measures=mine)
    monitor.set_model(mixed())
    monitor.on_train_begin()
    with pytest.raises(ValueError, match="has no tensor in W's place"):
        monitor.readings()


def test_delta_angles_are_those_of_the_equations() -> None:
    """One hidden layer: e B^T, past the activation, against e W^T."""
    layers = [keras.Input((4,)), k.Dense(5, "tanh", name="low"), k.Dense(3, name="head")]
    model = compiled(tfwm.convert_model(keras.Sequential(layers), "dfa", seed=0))
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(6, n)).astype("float32") for n in (4, 3))
    head, hidden = model.get_layer("head"), np.tanh(x @ model.get_layer("low").kernel.numpy())
    error = hidden @ head.kernel.numpy() - y
    ours, theirs = (
        ((error @ v.numpy().T) * (1 - hidden**2)).ravel()
        for v in (head.feedback_kernel, head.kernel)
    )
    cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    angles = tfwm.delta_angles(model, x, y)
    assert angles["low"] == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.01)
    assert angles["head"] == pytest.approx(0, abs=1e-3)
    head.feedback_kernel.assign(head.kernel)  # one layer below the output: B := W is backprop
    assert tfwm.delta_angles(model, x, y)["low"] == pytest.approx(0, abs=1e-3)
    gradients = tfwm.gradient_angles(model, x, y)
    assert gradients["whole_network"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("rule", "callback"),
    [
        ("kp", tfwm.callbacks.KolenPollack),
        pytest.param("wm", tfwm.callbacks.WeightMirror, marks=pytest.mark.slow),
    ],
)
def test_callbacks_of_other_rules_leave_it_alone(rule: str, callback: Any) -> None:
    model = tfwm.convert_model(chain(), {"conv": rule, "*": "dfa"})
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), "mse", jit_compile=False)
    before = {p.name: p.feedback_kernel.numpy() for p in tfwm.pathways(model)}
    of_fit(model, callback())
    for pathway in tfwm.pathways(model):
        same = np.array_equal(pathway.feedback_kernel, before[pathway.name])
        assert same == (pathway.name != "conv")
