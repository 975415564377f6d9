"""Masks in mirror mode, which no optimizer stands behind, in measures, and kept with a model."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import (
    assert_same_on_replicas,
    compiled,
    dense,
    feedback,
    fit,
    kernels,
)
from tests.slow import slow_but
from tests.training.masked import assert_held, masks, sparse
from tfweightmirror.callbacks import FeedbackMonitor, WeightMirror
from tfweightmirror.diagnostics import angle_deg
from tfweightmirror.training import Sparse, constrain

# --- mirror mode --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "options"),
    slow_but(
        [("gaussian", {"steps": 3})],
        [
            ("orthogonal", {}),
            ("gaussian", {"steps": 3}),
            ("gaussian", {"norm": "scaling", "eta": 0.01}),
        ],
        unpack=True,
    ),
)
def test_mirror_mode_teaches_what_exists_alone(noise: str, options: dict[str, Any]) -> None:
    model = sparse("wm")
    hidden = model.get_layer("hidden")
    if options.get("norm") != "scaling":
        hidden.feedback_kernel.assign(np.ones((64, 6)))  # as of a user who knows of no mask
    norm = np.linalg.norm(hidden.feedback_kernel.numpy())
    tfwm.mirror_model(model, noise, **options)
    assert_held(model, taught=noise == "orthogonal")
    found, exists = hidden.feedback_kernel.numpy(), masks(model)[1]
    if noise == "orthogonal":
        np.testing.assert_allclose(found, np.where(exists, hidden.kernel.numpy(), 0), atol=1e-6)
    if "norm" in options:
        assert np.linalg.norm(found) == pytest.approx(norm, rel=1e-5)


def test_an_exact_mirror_that_was_traced_before_hears_of_the_masks() -> None:
    model = compiled(dense("wm"))
    tfwm.mirror_model(model)
    constrain(model, Sparse(seed=1))
    over_all = tfwm.mirror_model(model)["hidden"]
    assert_held(model, taught=True)
    hidden = tfwm.pathways(model)[0]
    assert float(tfwm.diagnostics.shared_angle_deg(hidden)) < 1e-4
    assert over_all == pytest.approx(45, abs=5)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["orthogonal", "gaussian"])
def test_masks_hold_in_mirror_mode_in_fit(noise: str) -> None:
    model = sparse("wm")
    # No optimizer, and so no constraint, stands behind what noise has taught.
    fit(model, WeightMirror(noise), batches=3)
    assert_held(model, taught=True)


def test_no_law_predicts_the_angle_to_a_masked_b() -> None:
    mode = tfwm.mirror.MirrorMode()
    predicted = {p.name: mode.predicted_angle_deg(p) for p in tfwm.pathways(sparse("wm"))}
    assert predicted == {"hidden": None, "head": 0.0}


# --- angles -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_angles_over_shared_and_over_all_entries() -> None:
    model = compiled(dense("fa"), run_eagerly=True)
    constrain(model, Sparse(0.5, seed=1), layers=["hidden"])
    history = fit(model, FeedbackMonitor(measures=["weight_angle", "shared_angle"]), batches=1)
    w, b = kernels(model)["hidden"], feedback(model)["hidden"]
    shared = masks(model)[0] & masks(model)[1]
    angles = [float(angle_deg(w[at], b[at])) for at in (..., shared)]
    found = [history[f"{measure}/hidden"][0] for measure in ("weight_angle", "shared_angle")]
    assert found == pytest.approx(angles, abs=1e-3)
    assert abs(angles[0] - angles[1]) > 0.1
    assert history["shared_angle/head"] == history["weight_angle/head"]


# --- what keeps masks ---------------------------------------------------------------------------


def same_weights(one: keras.Model, other: keras.Model) -> bool:
    pairs = zip(one.weights, other.weights, strict=True)
    return all(np.array_equal(here.numpy(), there.numpy()) for here, there in pairs)


def test_a_saved_model_keeps_its_masks_and_goes_on_to_the_bit(tmp_path: Any) -> None:
    model = sparse("urfb", run_eagerly=True)
    fit(model, batches=1)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clones = [keras.models.clone_model(model) for _ in range(2)]
    clones[0].load_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=clones[1]).read(str(tmp_path / "checkpoint"))
    assert all(same_weights(model, each) for each in (loaded, *clones))
    loaded.run_eagerly = True
    for each in (model, loaded):
        fit(each, batches=2)
        assert_held(each)
    assert same_weights(model, loaded)


@pytest.mark.slow
def test_a_stripped_model_keeps_both_masks_for_the_next_rule(tmp_path: Any) -> None:
    model = sparse("fa")
    before = masks(model)
    tfwm.strip_feedback(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    fit(compiled(loaded, run_eagerly=True), batches=1)
    tfwm.convert_model(loaded, "urfb")
    assert_held(loaded)
    assert all(np.array_equal(a, b) for a, b in zip(masks(loaded), before, strict=True))


def test_feedback_that_is_set_anew_keeps_its_mask() -> None:
    model = sparse("fa")
    for initializer in (None, "he_normal", {"hidden": np.ones((64, 6))}):
        before = feedback(model)["hidden"]
        tfwm.reset_feedback(model, initializer=initializer, seed=5)
        assert_held(model)
        assert (feedback(model)["hidden"] != before).any()


@pytest.mark.slow
def test_a_clone_with_weights_of_its_own_is_not_trained_without_masks() -> None:
    model, mirrored = (keras.models.clone_model(sparse(rule)) for rule in ("fa", "wm"))
    for train in (
        lambda: fit(compiled(model, run_eagerly=True), batches=1),
        lambda: tfwm.mirror_model(mirrored),
    ):
        with pytest.raises(ValueError, match="does not know its masks"):
            train()
    layer = model.get_layer("hidden")
    layer.kernel_constraint.draw(layer.kernel, layer.feedback_kernel)
    assert_held(model)


@pytest.mark.slow
def test_masks_join_a_compiled_model() -> None:
    model = compiled(dense("urfb"))
    fit(model, batches=2)
    constrain(model, Sparse(seed=1), layers=["hidden"])
    fit(model, batches=2)
    assert_held(model)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["urfb", "wm"])
def test_both_replicas_hold_the_same_masks(rule: str, two_replicas: Any) -> None:
    with two_replicas.scope():
        model = compiled(dense(rule))
    one = compiled(dense(rule))
    for each in (model, one):
        constrain(each, Sparse(seed=1), layers=["hidden"])
        fit(each, *([WeightMirror()] if rule == "wm" else []), batches=4)
        assert_held(each, taught=rule == "wm")
    for pathway, expected in zip(tfwm.pathways(model), tfwm.pathways(one), strict=True):
        for name in ("kernel", "feedback_kernel"):
            variable = getattr(pathway, name)
            assert_same_on_replicas(variable)
            np.testing.assert_allclose(variable, getattr(expected, name), atol=1e-4)
    for copy in (masks(model), masks(one)):
        assert all(mask.any() and not mask.all() for mask in copy)
