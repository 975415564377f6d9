"""`untie` gives every position the masks of a convolution whose connections are sparse."""

from pathlib import Path

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.convert_helpers import assert_b_carries, compiled, fit, images
from tests.slow import slow_but
from tfweightmirror.conversion import untie
from tfweightmirror.training import Sparse, constrain

k = keras.layers


def sparse(rule: str | None, constraint: str | None = None) -> keras.Model:
    """A convolution whose borders are padded, with half of its connections, and a head."""
    keras.utils.set_random_seed(2)
    conv = k.Conv2D(4, 3, activation="tanh", padding="same", name="conv")
    line = [keras.Input((6, 6, 2)), conv, k.Flatten(), k.Dense(3, name="head")]
    model = keras.Sequential(line)
    if rule is not None:
        tfwm.convert_model(model, rule, seed=5)
    constrain(model, Sparse(0.5, constraint=constraint, seed=1), ["conv"])
    return compiled(model)


def assert_held(layer: keras.layers.Layer, masks: list[np.ndarray]) -> None:
    """W, B and their masks have entries where those of the convolution had, at every position."""
    held = layer.kernel_constraint
    kernels = [layer.kernel, getattr(layer, "feedback_kernel", None)]
    for mask, tied, kernel in zip((held.mask, held.feedback_mask), masks, kernels, strict=True):
        np.testing.assert_array_equal(mask, np.broadcast_to(tied, layer.kernel.shape))
        if kernel is not None:
            exists = np.broadcast_to(tied & layer.synapses, kernel.shape) == 1
            assert not np.any(kernel.numpy()[~exists])
            assert np.mean(kernel.numpy()[exists] != 0) > 0.99


@pytest.mark.parametrize("rule", slow_but(["urfb"], [None, "fa", "urfb", "kp", "wm"]))
def test_masks_are_those_of_the_convolution_at_every_position(
    rule: str | None, tmp_path: Path
) -> None:
    x, y = images()
    model = sparse(rule)
    fit(model, x, y)
    layer = model.get_layer("conv")
    masks = [
        m.numpy() for m in (layer.kernel_constraint.mask, layer.kernel_constraint.feedback_mask)
    ]
    assert np.any(masks[0] != masks[1])
    output = model.predict(x, verbose=0)
    untie(model)
    assert_held(layer, masks)
    np.testing.assert_allclose(model.predict(x, verbose=0), output, atol=1e-5)

    before = layer.kernel.numpy()
    fit(model, x, y)
    assert_held(layer, masks)
    change = layer.kernel.numpy() - before
    assert np.abs(change[1, 1] - change[2, 3]).max() > 1e-4  # each position learns by itself
    if rule is not None:
        assert_b_carries(model, x, y)

    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        fit(each, x, y)
    assert_held(loaded.get_layer("conv"), masks)
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.slow
def test_mirror_mode_teaches_the_connections_that_exist() -> None:
    model = sparse("wm")
    layer = model.get_layer("conv")
    exists = layer.kernel_constraint.feedback_mask.numpy()
    untie(model)
    tfwm.mirror_model(model)
    taught = np.where(layer.synapses & (exists == 1), layer.kernel.numpy(), 0)
    np.testing.assert_allclose(layer.feedback_kernel, taught, atol=1e-6)


def test_a_constraint_inside_is_refused_and_nothing_changes() -> None:
    model = sparse("urfb", constraint="max_norm")
    with pytest.raises(ValueError, match=r"'conv' .* cannot be untied: it has a constraint, which"):
        untie(model)
    assert type(model.get_layer("conv")) is tfwm.layers.FeedbackConv2D
