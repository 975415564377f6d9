"""The network without weight sharing, BatchNorm and unbounded activations."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.layers import rectified_tanh
from tfweightmirror.mirror.activation import activations_of
from train.config import Part
from train.errors import UserError
from train.parts import models

X = np.random.default_rng(0).normal(size=(16, 9, 9, 2)).astype("float32")
Y = np.arange(16) % 3


def small(rule: str | None = "wm", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    given = {"filters": [4, 5], "strides": [2, 2], **options}
    model = models.build(Part("brain_like", given), (9, 9, 2), (3,))
    if rule:
        tfwm.convert_model(model, rule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    decay = 0.1 if rule == "kp" else None
    model.compile(keras.optimizers.SGD(0.3, weight_decay=decay), loss, run_eagerly=True)
    return model


def incoming_norms(model: keras.Model) -> dict[str, np.ndarray]:
    """Of every cell, by layer."""
    norms = {}
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            w = layer.kernel.numpy()
            axes = (0,) if w.ndim == 2 else (2, 3, 4)
            norms[layer.name] = np.sqrt(np.square(w).sum(axis=axes))
    return norms


def test_every_cell_of_a_position_scales_its_incoming_weights(tmp_path: Any) -> None:
    model = small("fa", incoming_norm=1.5)
    shapes = {name: norms.shape for name, norms in incoming_norms(model).items()}
    assert shapes == {"local_1": (5, 5, 4), "local_2": (3, 3, 5), "head": (3,)}
    before = model.get_layer("local_1").kernel.numpy()
    model.fit(X, Y, batch_size=16, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(X, Y, batch_size=16, verbose=0)
    for each in (model, loaded):
        for name, norms in incoming_norms(each).items():
            np.testing.assert_allclose(norms, 1.5, rtol=1e-5, err_msg=name)
    assert not np.allclose(model.get_layer("local_1").kernel, before)
    assert (model.get_layer("local_1").kernel.numpy()[0, 0, 0] == 0).all()  # padding


def test_a_cell_scales_its_weights_by_one_factor() -> None:
    constraint = small().get_layer("local_1").kernel_constraint
    w = np.random.default_rng(1).normal(size=(5, 5, 3, 3, 2, 4)).astype("float32")
    factor = constraint(tf.constant(w)).numpy() / w
    np.testing.assert_allclose(factor, factor[:, :, :1, :1, :1] * np.ones_like(w), rtol=1e-5)


def test_without_synaptic_scaling_norms_are_free_and_kolen_pollack_may_teach() -> None:
    model = small("kp", incoming_norm=None)
    model.fit(X, Y, batch_size=16, verbose=0, callbacks=[tfwm.callbacks.KolenPollack()])
    assert np.ptp(incoming_norms(model)["head"]) > 0.01
    scaled = small("kp")
    with pytest.raises(ValueError, match="has a kernel constraint"):
        scaled.fit(X, Y, verbose=0, callbacks=[tfwm.callbacks.KolenPollack()])


def test_it_has_no_batch_norm_and_mirror_mode_listens_through_its_activation() -> None:
    model = small()
    kinds = {type(layer).__name__ for layer in model.layers}
    assert kinds == {
        "InputLayer",
        "FeedbackLocallyConnected2D",
        "Activation",
        "Flatten",
        "FeedbackDense",
    }
    mode = tfwm.mirror.MirrorMode(
        "gaussian", through_activation=True, activations={"head": "linear"}, norm="scaling"
    )
    found = activations_of(tfwm.pathways(model), mode)
    assert [found[name] for name in ("local_1", "local_2")] == [rectified_tanh] * 2


def test_b_carries_the_error_to_cells_that_share_no_weights() -> None:
    model = small("fa")

    def gradients() -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            loss = model.loss(Y, model(X, training=True))
        names = ("local_1", "local_2", "head")
        return [g.numpy() for g in tape.gradient(loss, [model.get_layer(n).kernel for n in names])]

    before = gradients()
    b = model.get_layer("local_2").feedback_kernel
    b.assign(b + 0.1 * tf.cast(b != 0, b.dtype))
    after = gradients()
    assert [np.allclose(x, y) for x, y in zip(before, after, strict=True)] == [False, True, True]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strides": [1]}, "brain_like has 2 filters and 1 strides. Expected one stride for every"),
        ({"incoming_norm": 0.0}, "model.options.incoming_norm=0.0. Expected a number above 0"),
        ({"activation": "rectified"}, "rectified is not known.* rectified_tanh"),
    ],
)
def test_mistake_is_told_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(None, **options)
