"""The view of a kernel as matrices: one receptive field of the real layer is `x @ W`."""

import dataclasses
import math
import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers.kinds import (
    BY_NAME,
    EINSUM,
    KINDS,
    Kind,
    build,
    one_of_each,
    pathways_of,
    relative_error,
)
from tests.layers.numpy_reference import effective
from tfweightmirror import layers
from tfweightmirror.layers.kernel_views import (
    conv_transpose_view,
    conv_view,
    dense_view,
    depthwise_view,
)
from tfweightmirror.pathway import KernelView, Pathway

Array = np.ndarray
SAMPLES = 4

# Hypothesis draws the same examples in every run, and does not look at the clock.
examples = settings(derandomize=True, deadline=None, max_examples=30)


# --- one receptive field of the real layer ------------------------------------------------------


def random_signals(pathway: Pathway) -> Array:
    """(groups, samples, fan_in)."""
    shape = (pathway.groups, SAMPLES, pathway.fan_in)
    return np.random.default_rng(2).normal(size=shape)


def channels_first(array: Array, kind: Kind) -> Array:
    """`array` in the data format of `kind`."""
    first = kind.options.get("data_format") == "channels_first"
    return np.moveaxis(array, -1, 1) if first else array


def channels_last(array: Array, kind: Kind) -> Array:
    """The output of a layer of `kind`, with its channels in the last axis."""
    first = kind.options.get("data_format") == "channels_first"
    return np.moveaxis(np.asarray(array), 1, -1) if first else np.asarray(array)


def dilated(layer: keras.layers.Layer) -> tuple[int, ...]:
    """The dilation along every axis."""
    return tuple(layer.dilation_rate)


def respond_conv(layer: keras.layers.Layer, kind: Kind, signals: Array) -> Array:
    """Let a convolution see one receptive field, which holds the signals of every group."""
    taps = layer.kernel.shape[:-2]
    groups = signals.shape[0]
    reach = effective(taps, dilated(layer))
    cells = signals.reshape(groups, SAMPLES, *taps, -1)
    cells = np.moveaxis(cells, 0, -2).reshape(SAMPLES, *taps, -1)
    # Between the taps of a dilated kernel lie cells that it does not see: they fire as well.
    field = np.random.default_rng(3).normal(size=(SAMPLES, *reach, cells.shape[-1]))
    field[(slice(None), *(slice(None, None, d) for d in dilated(layer)))] = cells
    y = channels_last(layer(channels_first(field, kind)), kind)
    assert y.shape[1:-1] == (1,) * len(taps)
    return np.moveaxis(y.reshape(SAMPLES, groups, -1), 1, 0)


def respond_depthwise(layer: keras.layers.Layer, kind: Kind, signals: Array) -> Array:
    """Let a depthwise convolution see one receptive field; every channel is a group."""
    taps, channels = layer.kernel.shape[:-2], signals.shape[0]
    field = np.random.default_rng(3).normal(
        size=(SAMPLES, *effective(taps, dilated(layer)), channels)
    )
    cells = np.moveaxis(signals.reshape(channels, SAMPLES, *taps), 0, -1)
    field[(slice(None), *(slice(None, None, d) for d in dilated(layer)))] = cells
    y = channels_last(layer(channels_first(field, kind)), kind)
    return np.moveaxis(y.reshape(SAMPLES, channels, -1), 1, 0)


def respond_conv_transpose(layer: keras.layers.Layer, kind: Kind, signals: Array) -> Array:
    """Let a transposed convolution see one position, and read its uncropped projective field."""
    taps = layer.kernel.shape[:-2]
    position = signals[0].reshape(SAMPLES, *(1 for _ in taps), -1)
    y = channels_last(layer(channels_first(position, kind)), kind)
    reached = (
        slice(0, reach, d)
        for reach, d in zip(effective(taps, dilated(layer)), dilated(layer), strict=True)
    )
    return y[(slice(None), *reached)].reshape(1, SAMPLES, -1)


def through_one_field(kind: Kind, layer: keras.layers.Layer, signals: Array) -> Array:
    """What the layer answers to `signals` (groups, samples, fan_in), in the same view."""
    if kind.layer == "Dense":
        return np.asarray(layer(signals[0]))[None]
    if kind.layer.endswith("Transpose"):
        return respond_conv_transpose(layer, kind, signals)
    if kind.layer.startswith("Depthwise"):
        return respond_depthwise(layer, kind, signals)
    return respond_conv(layer, kind, signals)


def on_one_field(kind: Kind) -> keras.layers.Layer:
    """A feedback layer of `kind` for one receptive field: no padding, otherwise as `kind`."""
    options = {"padding": "valid"} if "kernel_size" in kind.options else {}
    if "output_padding" in kind.options:
        options["output_padding"] = None
    return build(kind, kind.twin("fa", **options))


def check_response(kind: Kind, layer: keras.layers.Layer) -> None:
    """The layer's own response and bias are those of its pathway."""
    (pathway,) = layer.pathways
    signals = random_signals(pathway)
    respond = np.asarray(pathway.respond(tf.constant(signals, "float32")))
    biased = through_one_field(kind, layer, signals)
    assert respond.shape == biased.shape == (pathway.groups, SAMPLES, pathway.fan_out)
    bias = np.asarray(pathway.bias_matrix())
    assert bias.shape == (pathway.groups, 1, pathway.fan_out)
    layer.bias.assign(np.zeros(layer.bias.shape))
    linear = through_one_field(kind, layer, signals)
    assert relative_error(respond, linear) < 1e-5
    np.testing.assert_allclose(biased - linear, np.broadcast_to(bias, biased.shape), atol=1e-5)


ONE_KERNEL = [
    kind
    for kind in KINDS
    if not (kind.is_attention or kind.is_recurrent)
    and not kind.layer.startswith(("Separable", "Einsum", "Local"))
]


@pytest.mark.parametrize("kind", ONE_KERNEL, ids=lambda kind: kind.name)
def test_response_is_the_layers_own_on_one_receptive_field(kind: Kind) -> None:
    check_response(kind, on_one_field(kind))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.layer.startswith("Sep")], ids=lambda kind: kind.name
)
def test_responses_of_a_separable_convolution_are_its_own_one_after_the_other(kind: Kind) -> None:
    layer = on_one_field(kind)
    depthwise, pointwise = layer.pathways
    assert depthwise.bias_matrix() is None
    # The first alone, by the plain Keras layer that has only this part.
    options = {name: value for name, value in kind.options.items() if name != "filters"}
    options["padding"] = "valid"
    first = getattr(keras.layers, kind.layer.replace("Separable", "Depthwise"))(**options)
    build(kind, first)
    first.kernel.assign(layer.depthwise_kernel)
    first.bias.assign(np.zeros(first.bias.shape))
    signals = random_signals(depthwise)
    middle = np.asarray(depthwise.respond(tf.constant(signals, "float32")))
    assert relative_error(middle, respond_depthwise(first, kind, signals)) < 1e-5

    second = np.moveaxis(middle, 0, 1).reshape(1, SAMPLES, -1)
    answer = np.asarray(pointwise.respond(tf.constant(second)))
    expected = whole_separable(layer, kind, signals)
    assert relative_error(answer + pointwise.bias_matrix(), expected) < 1e-5


def whole_separable(layer: keras.layers.Layer, kind: Kind, signals: Array) -> Array:
    """The whole layer on one receptive field, with its bias."""
    taps, channels = layer.depthwise_kernel.shape[:-2], signals.shape[0]
    field = np.zeros((SAMPLES, *effective(taps, dilated(layer)), channels))
    cells = np.moveaxis(signals.reshape(channels, SAMPLES, *taps), 0, -1)
    field[(slice(None), *(slice(None, None, d) for d in dilated(layer)))] = cells
    return channels_last(layer(channels_first(field, kind)), kind).reshape(1, SAMPLES, -1)


# --- EinsumDense: every position is a field of its own ------------------------------------------


def check_einsum(layer: keras.layers.Layer, x: Array) -> None:
    """At every position, the layer answers to the cells there as its pathway says.

    The cells of a position: axes of x that the kernel has, after a sum over the axes that neither
    kernel nor output have. Whatever else x has, batch or position, is a sample.
    """
    (pathway,) = layer.pathways
    of_x, kernel, of_y = (part.strip() for part in re.split(",|->", layer.equation))
    elided = "XYZ"[: x.ndim - len(of_x.replace("...", ""))]
    of_x, of_y = of_x.replace("...", elided), of_y.replace("...", elided)
    group = "".join(label for label in kernel if label in of_x and label in of_y)
    fan_in = "".join(label for label in kernel if label in of_x and label not in of_y)
    fan_out = "".join(label for label in kernel if label not in of_x)
    samples = "".join(label for label in of_x if label in of_y and label not in kernel)

    cells = np.einsum(f"{of_x}->{group}{samples}{fan_in}", x)
    signals = cells.reshape(pathway.groups, -1, pathway.fan_in)
    answered = np.einsum(f"{of_y}->{group}{samples}{fan_out}", np.asarray(layer(x)))
    answered = answered.reshape(pathway.groups, -1, pathway.fan_out)

    response = np.asarray(pathway.respond(tf.constant(signals, "float32")))
    if layer.bias is not None:
        response = response + pathway.bias_matrix()
    assert relative_error(response, answered) < 1e-5


WITH_ONE_BIAS = [name for name, *_ in EINSUM if name != "bias_over_positions"]


@pytest.mark.parametrize("name", WITH_ONE_BIAS)
def test_response_of_an_einsum_is_the_layers_own_at_every_position(name: str) -> None:
    kind = BY_NAME[f"einsum_{name}"]
    layer = build(kind, kind.twin("fa"))
    check_einsum(layer, np.asarray(kind.inputs()[0]))


def test_a_bias_over_positions_belongs_to_no_receptive_field() -> None:
    kind = BY_NAME["einsum_bias_over_positions"]
    layer = build(kind, kind.twin("fa"))
    with pytest.raises(ValueError, match=r"bias of pathway .* differs between positions"):
        layer.pathways[0].bias_matrix()
    layer.bias.assign(np.zeros(layer.bias.shape))
    without = build(kind, kind.twin("fa", bias_axes=None))
    without.kernel.assign(layer.kernel)
    check_einsum(without, np.asarray(kind.inputs()[0]))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.is_attention], ids=lambda kind: kind.name
)
def test_responses_of_attention_are_those_of_its_projections(kind: Kind) -> None:
    layer = build(kind, kind.twin("fa"))
    assert len(layer.projections) == (5 if "gate" in kind.name else 4)
    for part in layer.projections:
        shape = (2, 3, *part.kernel.shape[: 2 if part.name == "attention_output" else 1])
        activation, part.activation = part.activation, keras.activations.linear
        check_einsum(part, np.random.default_rng(4).normal(size=shape).astype("float32"))
        part.activation = activation


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, dict[str, int], str]:
    """An equation, the size of every label, and labels that have a bias.

    Every label gets a role: group, fan-in, fan-out, position (not in the kernel) or summed.
    """
    roles = draw(st.lists(st.sampled_from("gioqs"), min_size=1, max_size=5))
    roles += ["i", "o"][draw(st.integers(0, 2)) :]
    labels = dict(zip("bcdefgh", roles, strict=False))
    # All sizes differ: Keras 3.15 adds a bias along the last axis if that is as long as the bias.
    sizes = dict(zip(("a", *labels), draw(st.permutations(range(1, 9))), strict=False))

    def shuffled(wanted: str) -> str:
        return "".join(draw(st.permutations([n for n, role in labels.items() if role in wanted])))

    kernel, of_x, of_y = shuffled("gio"), "a" + shuffled("giqs"), "a" + shuffled("goq")
    bias = "".join(label for label in of_y if labels.get(label) in ("g", "o"))
    return f"{of_x},{kernel}->{of_y}", sizes, draw(st.sampled_from(["", bias, bias[-1:]]))


@examples
@given(equations())
def test_response_of_any_einsum_is_the_layers_own(drawn: tuple[str, dict[str, int], str]) -> None:
    equation, sizes, bias_axes = drawn
    of_x, kernel, of_y = re.split(",|->", equation)
    if not kernel:
        return
    layer = layers.FeedbackEinsumDense(
        equation,
        tuple(sizes[label] for label in of_y[1:]),
        bias_axes=bias_axes or None,
        rule="fa",
        bias_initializer=keras.initializers.RandomNormal(seed=1),
    )
    shape = tuple(sizes[label] for label in of_x)
    layer.build(shape)
    check_einsum(layer, np.random.default_rng(0).normal(size=shape).astype("float32"))


# --- convolutions of any arguments --------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> Kind:
    """A convolution without padding: rank, taps, stride or dilation, channels, groups, format."""
    family = draw(st.sampled_from(["", "Depthwise", "Transpose"]))
    rank = draw(st.integers(1, 2 if family == "Depthwise" else 3))
    taps = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    options: dict[str, Any] = {"kernel_size": taps, "padding": "valid"}
    placed = draw(st.sampled_from(["strides", "dilation_rate"]))
    options[placed] = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2)) if not family else 1
    channels = draw(st.integers(1, 3)) * groups
    if family == "Depthwise":
        options["depth_multiplier"] = draw(st.integers(1, 3))
    else:
        options["filters"] = draw(st.integers(1, 3)) * groups
    if groups > 1:
        options["groups"] = groups
    # Channels-first adds a bias along the wrong axis where the last axis is as long (`kinds.py`).
    spatial = tuple(3 * k + 5 for k in taps)
    layer = f"Conv{rank}DTranspose" if family == "Transpose" else f"{family}Conv{rank}D"
    return Kind("drawn", layer, options, ((2, *spatial, channels),))


@examples
@given(convolutions())
def test_response_of_any_convolution_is_the_layers_own_on_one_field(kind: Kind) -> None:
    check_response(kind, build(kind, kind.twin("fa")))


# --- there and back -----------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], KernelView]:
    """The shape of a kernel, and its view."""
    size = st.integers(1, 5)
    taps = tuple(draw(st.lists(size, min_size=1, max_size=3)))
    n_in, n_out, groups = draw(size), draw(size), draw(st.integers(1, 3))
    shape = (*taps, n_in, n_out)
    grouped = (*taps, n_in, n_out * groups)
    return draw(
        st.sampled_from(
            [
                ((n_in, n_out), dense_view(n_in, n_out)),
                (grouped, conv_view(grouped, groups)),
                (shape, depthwise_view(shape)),
                (shape, conv_transpose_view(shape)),
            ]
        )
    )


@examples
@given(views())
def test_matrices_and_kernel_are_each_others_inverse(
    drawn: tuple[tuple[int, ...], KernelView],
) -> None:
    shape, view = drawn
    kernel = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    matrices = view.as_matrices(kernel)
    assert tuple(matrices.shape) == view.matrices
    np.testing.assert_array_equal(view.from_matrices(matrices, shape), kernel)
    other = np.arange(kernel.size, dtype="float32").reshape(view.matrices)
    np.testing.assert_array_equal(view.as_matrices(view.from_matrices(other, shape)), other)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pathways_of_every_kind_go_there_and_back(kind: Kind) -> None:
    for pathway in pathways_of(build(kind, kind.twin("fa"))):
        kernel = pathway.kernel.numpy()
        matrices = pathway.as_matrices(pathway.kernel)
        assert tuple(matrices.shape) == (pathway.groups, pathway.fan_in, pathway.fan_out)
        np.testing.assert_array_equal(pathway.from_matrices(matrices), kernel)


# --- firing in turns ----------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [1, 2, 3, 100])
@one_of_each
def test_firing_in_turns_is_firing_with_the_other_cells_silent(kind: Kind, cells: int) -> None:
    for pathway in pathways_of(build(kind, kind.twin("fa"))):
        turns = -(-pathway.fan_in // cells)
        random = np.random.default_rng(5)
        signals = random.normal(size=(pathway.groups, turns, SAMPLES, cells)).astype("float32")
        answers = pathway.respond(tf.constant(signals))
        assert answers.shape == (pathway.groups, turns, SAMPLES, pathway.fan_out)
        for turn in range(turns):
            alone = np.zeros((pathway.groups, SAMPLES, turns * cells), "float32")
            alone[..., turn * cells : (turn + 1) * cells] = signals[:, turn]
            expected = pathway.respond(tf.constant(alone[..., : pathway.fan_in]))
            assert relative_error(answers[:, turn], expected) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_response_has_the_dtype_of_its_signals(dtype: str) -> None:
    pathway = build(BY_NAME["conv2d"], BY_NAME["conv2d"].twin("wm")).pathways[0]
    signals = tf.constant(random_signals(pathway), dtype)
    answers = pathway.respond(signals)
    assert answers.dtype == dtype
    expected = pathway.respond(tf.constant(random_signals(pathway), "float32"))
    assert relative_error(answers, expected) < 0.02


# --- what else a pathway is ---------------------------------------------------------------------


def test_another_response_can_be_listened_to() -> None:
    pathway = build(BY_NAME["dense_rank2"], BY_NAME["dense_rank2"].twin("wm")).pathways[0]
    other = dataclasses.replace(pathway, respond=lambda signals: 2.0 * signals)
    signals = tf.constant(random_signals(pathway), "float32")
    np.testing.assert_array_equal(other.respond(signals), 2.0 * signals)
    assert other.kernel is pathway.kernel


def test_only_the_last_kernel_of_a_layer_has_its_bias_and_activation() -> None:
    layer = layers.FeedbackSeparableConv2D(4, 3, rule="wm", activation="relu")
    layer.build((None, 5, 5, 3))
    depthwise, pointwise = layer.pathways
    assert [depthwise.bias, depthwise.activation] == [None, None]
    assert pointwise.bias is layer.bias
    assert pointwise.activation is keras.activations.relu
    assert [depthwise.name, pointwise.name] == [
        f"{layer.name}/{n}" for n in ("depthwise", "pointwise")
    ]


def test_a_linear_layer_has_no_activation() -> None:
    layer = layers.FeedbackDense(3, rule="wm")
    layer.build((None, 4))
    assert layer.pathways[0].activation is None


def test_a_pathway_is_shown_in_one_line() -> None:
    layer = layers.FeedbackConv2D(8, 3, rule="wm", name="conv")
    layer.build((None, 5, 5, 3))
    assert repr(layer.pathways[0]) == (
        "<Pathway 'conv': weight_mirror, kernel (3, 3, 3, 8) as 1 x 27 x 8 (groups x fan-in x "
        "fan-out)>"
    )
