"""Mirror mode with the term that silences what comes back (Kunin et al. 2020: `null`)."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import relative_error
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.hebbian import sent_back
from tfweightmirror.mirror.noise import Gaussian


def small_model() -> keras.Model:
    dense = tfwm.layers.FeedbackDense(4, name="dense", kernel_initializer="glorot_normal")
    return keras.Sequential([keras.Input((12,)), dense])


def test_what_is_sent_back_is_the_product_of_the_equation() -> None:
    random = np.random.default_rng(0)
    b, y = random.normal(size=(2, 5, 3)), random.normal(size=(2, 7, 3))
    expected = sum(np.einsum("gis,gs,gt->git", b, y[:, m], y[:, m]) for m in range(7))
    assert relative_error(sent_back(tf.constant(b), tf.constant(y)), expected) < 1e-12


def test_b_settles_by_the_law_of_information_alignment() -> None:
    model = small_model()
    mode = {"noise": Gaussian(samples=256, decay=0.02), "null": 0.75}
    tfwm.mirror_model(model, steps=400, **mode)
    w, b = (np.asarray(v, "f8") for v in model.layers[0].weights[::2])
    expected = w @ np.linalg.inv(np.eye(4) + 0.75 * w.T @ w)
    # 256 x 1.98 / 0.02 samples, of twelve cells: the angle law has 1.2 degrees, 2 %.
    assert relative_error(b, expected) < 0.05
    assert relative_error(w, expected) > 0.3


def test_it_hears_w_and_reads_none() -> None:
    """Behind a black box in W's place it learns the black box."""
    model = small_model()
    noise = Gaussian(samples=512, decay=0.05)
    other = np.random.default_rng(1).normal(size=(12, 4)).astype("f4") / 3

    def box(pathway: Any, signals: tf.Tensor) -> tf.Tensor:
        return signals @ tf.constant(other)

    tfwm.mirror_model(model, noise, steps=100, null=0.75, respond=box)
    expected = other @ np.linalg.inv(np.eye(4) + 0.75 * other.T @ other)
    assert relative_error(model.layers[0].feedback_kernel, expected) < 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"null": -1.0}, "null must be a finite number >= 0. Received: -1.0"),
        ({"null": 1.0}, "null=1.0 needs independent noise.*orthogonal noise"),
        ({"null": 1.0, "noise": "gaussian", "norm": None}, "null=1.0 needs.*norm=None"),
    ],
)
def test_what_has_no_law_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MirrorMode(**options)
