"""Locally connected layers: convolutions with a kernel for every position."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import KINDS, Kind, build, gradients, relative_error
from tfweightmirror import layers
from tfweightmirror._internals.attendance import mirror_attends
from tfweightmirror.callbacks import KolenPollack
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.noise import Gaussian

LOCAL = [kind for kind in KINDS if kind.layer.startswith("Local")]
every_local = pytest.mark.parametrize("kind", LOCAL, ids=lambda kind: kind.name)


def positions_last(layer: Any, array: Any) -> np.ndarray:
    """A map as (batch, ..positions, channels)."""
    first = layer.data_format == "channels_first"
    return np.moveaxis(np.asarray(array), 1, -1) if first else np.asarray(array)


def untied(layer: Any, tied: Any) -> np.ndarray:
    """A convolution's kernel at every position, 0 on padding."""
    copies = np.broadcast_to(tied, layer.kernel.shape)
    return copies if layer.synapses is None else np.where(layer.synapses, copies, 0.0)


# --- against the convolution --------------------------------------------------------------------


@every_local
def test_with_tied_weights_it_is_the_convolution_and_its_gradients_add_up(kind: Kind) -> None:
    cls = getattr(layers, kind.layer.replace("LocallyConnected", "FeedbackConv"))
    conv = build(kind, cls(**kind.options, rule="urfb"))
    local = build(kind, kind.twin("urfb"))
    rank = conv.rank
    for name in ("kernel", "feedback_kernel"):
        getattr(local, name).assign(untied(local, getattr(conv, name)))
    local.bias.assign(np.broadcast_to(conv.bias, local.bias.shape))
    expected, found = gradients(conv, kind.inputs()), gradients(local, kind.inputs())
    assert relative_error(found.output, expected.output) < 1e-5
    assert relative_error(found.inputs[0], expected.inputs[0]) < 1e-5
    assert found.weights.keys() == expected.weights.keys() == {"kernel", "bias", "feedback_kernel"}
    for name, gradient in expected.weights.items():
        added = found.weights[name].sum(axis=tuple(range(rank)))
        assert relative_error(added, gradient) < 1e-5, name


@every_local
def test_each_position_answers_as_the_layer_does_there(kind: Kind) -> None:
    layer = build(kind, kind.twin("wm"))
    (pathway,) = layer.pathways
    # A convolution that copies every patch into its channels.
    cells = np.eye(pathway.fan_in).reshape(*layer.kernel_size, -1, pathway.fan_in)
    conv = getattr(keras.layers, f"Conv{layer.rank}D")
    copying = conv(**{**kind.options, "filters": pathway.fan_in}, use_bias=False)
    copying.build(kind.input_shapes[0])
    copying.kernel.assign(cells)
    patches = positions_last(layer, copying(*kind.inputs()))
    signals = np.moveaxis(patches.reshape(len(patches), pathway.groups, -1), 0, 1)
    answers = pathway.respond(tf.constant(signals)) + pathway.bias_matrix()
    outputs = positions_last(layer, layer(*kind.inputs()))
    expected = np.moveaxis(outputs.reshape(len(outputs), pathway.groups, -1), 0, 1)
    assert relative_error(answers, expected) < 1e-5


def test_a_position_s_own_noise_teaches_its_own_b_and_no_other() -> None:
    kind = next(kind for kind in LOCAL if kind.name == "local2d")
    layer = build(kind, kind.twin("wm"))
    model = keras.Sequential([keras.Input(kind.input_shapes[0][1:]), layer])
    tfwm.mirror_model(model)
    before = layer.feedback_kernel.numpy()
    assert relative_error(before, layer.kernel) < 1e-5
    other = layer.kernel.numpy()
    other[1, 2] *= -3.0
    layer.kernel.assign(other)
    tfwm.mirror_model(model)
    assert relative_error(layer.feedback_kernel, other) < 1e-5
    moved = np.abs(layer.feedback_kernel.numpy() - before).max(axis=(2, 3, 4, 5)) > 1e-4
    assert np.argwhere(moved).tolist() == [[1, 2]]


# --- birth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"feedback_initializer": "he_normal"}], ids=str)
def test_w_and_b_are_born_with_the_scale_of_one_receptive_field(options: dict[str, Any]) -> None:
    initializer = keras.initializers.HeNormal(seed=1)
    layer = layers.FeedbackLocallyConnected2D(
        16, 3, rule="fa", kernel_initializer=initializer, **options
    )
    layer.build((None, 12, 12, 8))
    for weight in (layer.kernel, layer.feedback_kernel):
        assert np.std(weight) == pytest.approx(np.sqrt(2.0 / (9 * 8)), rel=0.02)


def same_padded(rule: str) -> keras.Model:
    """3x3 kernels on 4x4 maps: at the border a third of a kernel's taps or more lie on padding."""
    layer = layers.FeedbackLocallyConnected2D(8, 3, padding="same", rule=rule, name="local")
    return keras.Sequential([keras.Input((4, 4, 4)), layer])


def on_padding(model: keras.Model, weight: Any) -> np.ndarray:
    """The entries where no synapse is."""
    absent = ~np.broadcast_to(model.layers[0].synapses, weight.shape)
    assert absent.reshape(16, -1).mean(axis=1).max() == pytest.approx(5 / 9)
    return np.asarray(weight)[absent]


def test_on_padding_there_are_no_weights_and_nothing_learns_some() -> None:
    model = same_padded("wm")
    layer = model.layers[0]
    assert not on_padding(model, layer.kernel).any()
    assert not on_padding(model, layer.feedback_kernel).any()
    tfwm.mirror_model(model, Gaussian(samples=32, decay=0.5))
    assert layer.feedback_kernel.numpy().any()
    assert not on_padding(model, layer.feedback_kernel).any()
    for initializer in (None, "he_normal"):
        tfwm.reset_feedback(model, initializer=initializer, seed=3)
        assert not on_padding(model, layer.feedback_kernel).any()
    with tf.GradientTape() as tape, mirror_attends():
        loss = tf.reduce_sum(model(tf.ones((2, 4, 4, 4))) ** 2)
    gradient = tape.gradient(loss, layer.kernel.value)
    assert np.any(gradient)
    assert not on_padding(model, gradient).any()


def test_a_reset_b_has_the_scale_of_one_receptive_field() -> None:
    model = same_padded("fa")
    tfwm.reset_feedback(model, initializer="he_normal", seed=3)
    layer = model.layers[0]
    there = layer.feedback_kernel.numpy()[np.broadcast_to(layer.synapses, layer.kernel.shape)]
    assert np.std(there) == pytest.approx(np.sqrt(2.0 / (9 * 4)), rel=0.05)


def test_no_law_is_told_where_positions_have_unequal_fans() -> None:
    noise = MirrorMode(noise=Gaussian(samples=32, decay=0.5))
    (padded,) = tfwm.pathways(same_padded("wm"))
    assert noise.predicted_angle_deg(padded) is None
    assert MirrorMode().predicted_angle_deg(padded) == 0.0
    valid = layers.FeedbackLocallyConnected2D(8, 3, rule="wm")
    valid.build((None, 4, 4, 4))
    assert noise.predicted_angle_deg(valid.pathways[0]) == pytest.approx(
        noise.noise.angle_law_deg(36, 96.0)
    )


# --- training -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gap_shrinks_as_kolen_and_pollack_say() -> None:
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.FeedbackLocallyConnected2D(3, 3, activation="tanh", rule="kp", name="low"),
            layers.FeedbackLocallyConnected2D(3, 3, padding="same", rule="kp", name="high"),
            keras.layers.Flatten(),
            layers.FeedbackDense(2, rule="kp", name="head"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.5)
    model.compile(optimizer, "mse", run_eagerly=True)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 6, 6, 2)), random.normal(size=(32, 2))
    gaps = [np.linalg.norm(p.feedback_kernel - p.kernel) for p in tfwm.pathways(model)]
    before = [pathway.kernel.numpy() for pathway in tfwm.pathways(model)]
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[KolenPollack()])
    for pathway, gap, w in zip(tfwm.pathways(model), gaps, before, strict=True):
        assert relative_error(pathway.kernel, w) > 0.05
        now = np.linalg.norm(pathway.feedback_kernel - pathway.kernel)
        assert now == pytest.approx(gap * (1 - 0.05 * 0.5) ** 8, rel=2e-4)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"padding": "causal"}, "padding .* must be 'valid' or 'same'. Received: 'causal'"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size .* must be 2 integers above 0. .*\(3, 3, 3\)"),
        ({"strides": 0}, "strides .* must be 2 integers above 0. Received: 0"),
        ({"filters": -1}, "filters .* must be an integer above 0. Received: -1"),
        ({"data_format": "last"}, "data_format .* must be 'channels_last' or .* Received: 'last'"),
        (
            {"kernel_constraint": tfwm.training.GlorotClip()},
            "GlorotClip .* would count positions as taps",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        layers.LocallyConnected2D(**{"filters": 4, "kernel_size": 3, **options})


@pytest.mark.parametrize("shape", [(None, None, 3), (8, None, 3)])
def test_maps_of_no_known_size_are_refused(shape: tuple[Any, ...]) -> None:
    layer = layers.FeedbackLocallyConnected2D(4, 3, rule="fa", name="local")
    with pytest.raises(ValueError, match=r"'local' .* size of its input must be known"):
        layer(keras.Input(shape))


def test_a_map_smaller_than_the_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no position on an input of shape \(None, 2, 5\)"):
        layers.LocallyConnected1D(4, 3).build((None, 2, 5))


def test_a_map_of_another_size_is_refused_when_called() -> None:
    layer = layers.LocallyConnected1D(4, 3)
    layer(tf.zeros((1, 6, 5)))
    with pytest.raises(ValueError, match="expected axis 1 of input shape to have value 6"):
        layer(tf.zeros((1, 7, 5)))


def test_glorot_clip_is_refused_by_constrain() -> None:
    model = same_padded("urfb")
    clip = tfwm.training.GlorotClip()
    with pytest.raises(ValueError, match=r"'local' .* would count positions as taps"):
        tfwm.training.constrain(model, clip)
