"""One table of layer kinds, and what tests do to every one of them.

A kind is a Keras layer with arguments and input shapes. Tests make the plain layer and its
feedback twin from it: `kind.plain()`, `kind.twin("kp")`, `kind.inputs()`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror._internals.attendance import mirror_attends
from tfweightmirror.pathway import Pathway

RULES = {
    "bp": tfwm.rules.Backprop(),
    "fa": tfwm.rules.FeedbackAlignment(),
    "usf": tfwm.rules.SignSymmetry(),
    "frsf": tfwm.rules.SignSymmetry(magnitude="fixed"),
    "brsf": tfwm.rules.SignSymmetry(magnitude="batch"),
    "wm": tfwm.rules.WeightMirror(),
    "kp": tfwm.rules.KolenPollack(),
    "urfb": tfwm.rules.UpdatedRandomFeedback(epsilon=0.5),
}
# B learns from its layer's signals, or is a product: tests of their own, and Keras' layer tests.
FURTHER_RULES = {
    "ia": tfwm.rules.InformationAlignment(),
    "aa": tfwm.rules.ActivationAlignment(),
    "sa": tfwm.rules.SymmetricAlignment(),
    "pfa": tfwm.rules.ProductFeedbackAlignment(expansion=2),
}
CARRIED_BY_B = ("fa", "wm", "kp", "urfb")  # B alone carries the error, whatever W is


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        name: Test id.
        layer: Name of the Keras class; that of the twin has "Feedback" before it.
        options: Arguments of both.
        input_shapes: One for each tensor that the layer is called on, batch included.
    """

    name: str
    layer: str
    options: dict[str, Any]
    input_shapes: tuple[tuple[int, ...], ...]

    def plain(self, **more: Any) -> keras.layers.Layer:
        """The plain layer, not built."""
        return self.plain_class(**{**self.options, **more})

    @property
    def plain_class(self) -> Any:
        """Keras' class; where Keras has none of that name, this library's."""
        return getattr(keras.layers, self.layer, None) or getattr(tfwm.layers, self.layer)

    def twin(self, rule: Any, **more: Any) -> keras.layers.Layer:
        """The feedback layer, not built."""
        cls = getattr(tfwm.layers, f"Feedback{self.layer}")
        return cls(**{**self.options, **more}, rule=rule)

    def inputs(self, seed: int = 0, dtype: str = "float32") -> list[tf.Tensor]:
        """Normal arrays."""
        random = np.random.default_rng(seed)
        return [tf.constant(random.normal(size=shape), dtype) for shape in self.input_shapes]

    @property
    def compiled_by_keras(self) -> bool:
        """Whether Keras wraps the convolution in a nested XLA-compiled function on CPU."""
        return self.options.get("groups", 1) > 1 or (
            self.layer == "Conv3D" and self.options.get("data_format") == "channels_first"
        )

    @property
    def is_recurrent(self) -> bool:
        """Whether the layer holds a cell that it calls at every step."""
        return self.layer in ("SimpleRNN", "LSTM", "GRU")

    @property
    def is_attention(self) -> bool:
        """Whether the layer is a composite of EinsumDense layers."""
        return self.layer.endswith("Attention")


def _kinds() -> list[Kind]:
    kinds: list[Kind] = []

    def add(name: str, layer: str, shape: Any, **options: Any) -> None:
        shapes = (shape,) if isinstance(shape[0], int) else tuple(shape)
        kinds.append(Kind(name, layer, options, shapes))

    for rank, shape in ((2, (4, 5)), (3, (3, 4, 5)), (4, (2, 3, 2, 5))):
        add(f"dense_rank{rank}", "Dense", shape, units=3)

    # Where the last axis is as long as the channels, Keras 3.15 takes it for the channels when it
    # adds a bias (not in every mode). So no channels-first kind here has such an output.
    first = {"data_format": "channels_first"}
    conv = {"filters": 4, "kernel_size": 3}
    add("conv1d", "Conv1D", (3, 9, 3), **conv)
    add("conv1d_same_stride", "Conv1D", (3, 9, 3), **conv, strides=2, padding="same")
    add("conv1d_dilation", "Conv1D", (3, 9, 3), **conv, dilation_rate=2)
    add("conv1d_causal", "Conv1D", (3, 9, 3), **conv, padding="causal", dilation_rate=2)
    add("conv1d_causal_first", "Conv1D", (3, 3, 9), **conv, padding="causal", **first)
    add("conv1d_groups", "Conv1D", (3, 9, 4), **conv, groups=2, padding="same")
    add("conv1d_first", "Conv1D", (3, 3, 9), **conv, **first, padding="same")
    conv = {"filters": 4, "kernel_size": (3, 2)}
    add("conv2d", "Conv2D", (2, 6, 5, 3), **conv)
    add("conv2d_same", "Conv2D", (2, 6, 5, 3), **conv, padding="same")
    add("conv2d_stride", "Conv2D", (2, 6, 5, 3), **conv, strides=2)
    add("conv2d_same_stride", "Conv2D", (2, 6, 5, 3), **conv, strides=2, padding="same")
    add("conv2d_dilation", "Conv2D", (2, 7, 6, 3), **conv, dilation_rate=(2, 3), padding="same")
    add("conv2d_groups", "Conv2D", (2, 6, 5, 4), **conv, groups=2, strides=2, padding="same")
    add("conv2d_first", "Conv2D", (2, 3, 6, 5), **conv, **first, strides=2, padding="same")
    add("conv2d_groups_first", "Conv2D", (2, 4, 6, 7), **conv, **first, groups=2)
    conv = {"filters": 4, "kernel_size": (2, 3, 2)}
    add("conv3d", "Conv3D", (2, 4, 5, 4, 3), **conv)
    add("conv3d_same_stride", "Conv3D", (2, 4, 5, 4, 3), **conv, strides=2, padding="same")
    add("conv3d_dilation", "Conv3D", (2, 4, 5, 4, 3), **conv, dilation_rate=2)
    add("conv3d_groups", "Conv3D", (2, 4, 5, 4, 4), **conv, groups=2, padding="same")
    add("conv3d_first", "Conv3D", (2, 3, 4, 5, 6), **conv, **first, padding="same")

    local = {"filters": 4, "kernel_size": 3}
    add("local1d", "LocallyConnected1D", (3, 3, 11), **local, **first, strides=2)
    local = {"filters": 4, "kernel_size": (3, 2)}
    add("local2d", "LocallyConnected2D", (2, 6, 5, 3), **local)
    add(
        "local2d_same_stride_first",
        "LocallyConnected2D",
        (2, 3, 6, 5),
        **local,
        **first,
        strides=(1, 2),
        padding="same",
    )

    conv = {"filters": 4, "kernel_size": 3}
    wide = {"strides": 3, "output_padding": 1}
    add("conv1d_transpose", "Conv1DTranspose", (3, 5, 3), **conv, strides=2)
    add("conv1d_transpose_padding", "Conv1DTranspose", (3, 5, 3), **conv, **wide)
    add("conv1d_transpose_dilation", "Conv1DTranspose", (3, 5, 3), **conv, dilation_rate=2)
    add("conv1d_transpose_first", "Conv1DTranspose", (3, 3, 5), **conv, **first, padding="same")
    conv = {"filters": 4, "kernel_size": (3, 2)}
    same = {"padding": "same", "strides": 2}
    add("conv2d_transpose", "Conv2DTranspose", (2, 4, 3, 3), **conv, strides=3)
    add("conv2d_transpose_same", "Conv2DTranspose", (2, 4, 3, 3), **conv, **same)
    odd = {"filters": 4, "kernel_size": 3, "output_padding": (1, 0)}
    add("conv2d_transpose_padding", "Conv2DTranspose", (2, 4, 3, 3), **odd, **same)
    add("conv2d_transpose_dilation", "Conv2DTranspose", (2, 4, 3, 3), **conv, dilation_rate=2)
    add("conv2d_transpose_first", "Conv2DTranspose", (2, 3, 4, 3), **conv, **same, **first)
    conv = {"filters": 4, "kernel_size": 2}
    add("conv3d_transpose", "Conv3DTranspose", (2, 3, 2, 3, 3), **conv, strides=2)
    add("conv3d_transpose_padding", "Conv3DTranspose", (2, 3, 2, 3, 3), **conv, **wide)
    add("conv3d_transpose_dilation", "Conv3DTranspose", (2, 3, 2, 3, 3), **conv, dilation_rate=2)
    add("conv3d_transpose_first", "Conv3DTranspose", (2, 3, 3, 2, 3), **conv, **same, **first)

    for family, arguments in (
        ("Depthwise", {"kernel_size": 3, "depth_multiplier": 2}),
        ("Separable", {"filters": 4, "kernel_size": 3, "depth_multiplier": 2}),
    ):
        for rank, last, first_shape in (
            (1, (3, 9, 3), (3, 3, 9)),
            (2, (2, 7, 6, 3), (2, 3, 6, 7)),
        ):
            layer, name = f"{family}Conv{rank}D", f"{family.lower()}{rank}d"
            add(name, layer, last, **arguments)
            add(f"{name}_same_stride", layer, last, **arguments, **same)
            add(f"{name}_dilation", layer, last, **arguments, dilation_rate=2, padding="same")
            add(f"{name}_first", layer, first_shape, **arguments, **first, padding="same")
    add(
        "depthwise2d_stride_dilation",
        "DepthwiseConv2D",
        (2, 7, 6, 3),
        kernel_size=(3, 2),
        strides=2,
        dilation_rate=2,
        padding="same",
    )

    for name, equation, output_shape, bias_axes, shape in EINSUM:
        add(
            f"einsum_{name}",
            "EinsumDense",
            shape,
            equation=equation,
            output_shape=output_shape,
            bias_axes=bias_axes,
        )

    query, other = (2, 4, 6), (2, 5, 3)
    add("attention", "MultiHeadAttention", (query, query), num_heads=2, key_dim=3)
    add(
        "attention_cross_gate",
        "MultiHeadAttention",
        (query, other),
        num_heads=2,
        key_dim=3,
        value_dim=4,
        use_gate=True,
    )
    add("simple_rnn", "SimpleRNN", (3, 4, 5), units=3, return_sequences=True)
    add("lstm", "LSTM", (3, 4, 5), units=3, return_sequences=True)
    add("gru", "GRU", (3, 4, 5), units=3, return_sequences=True)
    grouped = {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2}
    add("grouped_attention", "GroupQueryAttention", (query, query), **grouped)
    add("grouped_attention_gate", "GroupQueryAttention", (query, other), **grouped, use_gate=True)
    return kinds


# Name, equation, output shape, bias axes, input shape.
EINSUM = (
    ("matrix", "ab,bc->ac", 4, "c", (3, 5)),
    ("left_elided", "...x,xy->...y", 4, "y", (3, 2, 5)),
    ("last_axis", "abc,cd->abd", (None, 4), "d", (3, 2, 5)),
    ("to_heads", "abc,cde->abde", (None, 2, 4), "de", (3, 2, 5)),
    ("from_heads", "abcd,cde->abe", (None, 4), "e", (3, 2, 3, 5)),
    ("group", "abc,bcd->abd", (2, 4), "bd", (3, 2, 5)),
    ("group_scattered", "abcd,dbe->abec", (2, 4, None), "be", (3, 2, 2, 5)),
    ("right_elided", "ab...,bc->ac...", 4, "c", (3, 5, 2, 2)),
    ("middle_axis", "abc,bd->adc", (4, 5), "d", (3, 2, 5)),
    ("kernel_transposed", "abc,dc->abd", (None, 4), "d", (3, 2, 5)),
    ("output_transposed", "abc,cde->aebd", (4, 2, 3), "e", (3, 2, 5)),
    ("input_summed", "abc,cd->ad", 4, "d", (3, 2, 5)),
    ("two_fan_in", "abcd,bde->ace", (None, 4), "e", (3, 2, 3, 5)),
    ("diagonal", "abc,c->abc", (None, 5), "c", (3, 2, 5)),
    ("outer", "ab,cd->abcd", (5, 2, 4), "cd", (3, 5)),
    ("to_scalar", "abc,c->ab", (None,), None, (3, 2, 5)),
    ("bias_over_positions", "abc,cd->abd", (2, 4), "bd", (3, 2, 5)),
)

KINDS = _kinds()
BY_NAME = {kind.name: kind for kind in KINDS}
IDS = [kind.name for kind in KINDS]
# One kind of every class, for what need not be repeated for strides, paddings and formats.
ONE_OF_EACH = list({kind.layer: kind for kind in reversed(KINDS)}.values())[::-1]
ONE_OF_EACH_IDS = [kind.name for kind in ONE_OF_EACH]
# Recurrent layers differ by their cells' equations: where those are not the question, LSTM stands
# for them in the default suite, and 2D for locally connected layers.
STOOD_FOR = ("simple_rnn", "gru", "local1d")
one_of_each = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=kind.name, marks=[pytest.mark.slow] * (kind.name in STOOD_FOR))
        for kind in ONE_OF_EACH
    ],
)


def off_the_axes(kind: Kind, rule: str) -> bool:
    """Whether the default suite leaves a kind and a rule to `make slow`.

    How a kernel is used depends on the kind, what carries the error on the rule, and the two meet
    in one place: so the default suite keeps `fa` on every kind, and every rule where one product
    makes a layer, where two or more do, and in a grouped convolution, which Keras compiles.
    """
    return rule != "fa" and kind.name not in (
        *("dense_rank2", "conv2d_groups", "separable2d", "attention"),
    )


def kinds_and_rules(
    rules: Iterable[str] = RULES,
    *,
    kinds: Iterable[Kind] = KINDS,
    slow: Callable[[Kind, str], bool] = off_the_axes,
) -> Any:
    """Parametrize a test by every one of `kinds` and every one of `rules`, some of them slow."""
    return pytest.mark.parametrize(
        ("kind", "rule"),
        [
            pytest.param(
                kind,
                rule,
                id=f"{kind.name}-{rule}",
                marks=[pytest.mark.slow] if slow(kind, rule) else [],
            )
            for kind in kinds
            for rule in rules
        ],
    )


def pathways_of(layer: keras.layers.Layer) -> list[Pathway]:
    """The pathways of a built feedback layer, those of an attention layer's parts included."""
    if hasattr(layer, "projections"):
        return [pathway for part in layer.projections for pathway in part.pathways]
    return layer.pathways


def forward_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Kernels and biases, in the plain layer's order."""
    return [weight for weight in layer.weights if not weight.name.startswith("feedback_")]


def build(kind: Kind, layer: keras.layers.Layer, seed: int = 1) -> keras.layers.Layer:
    """Build a layer of `kind`, with normal kernels, biases and feedback kernels."""
    with mirror_attends():
        layer(*kind.inputs(dtype=layer.compute_dtype))
    random = np.random.default_rng(seed)
    for weight in forward_weights(layer):
        weight.assign(random.normal(size=weight.shape) / 2)
    for weight in layer.weights:
        if weight.name.startswith("feedback_") and weight.dtype != "int32":
            weight.assign(random.normal(size=weight.shape) / 2)
    keep_synapses(layer)
    return layer


def keep_synapses(layer: keras.layers.Layer) -> None:
    """Put weights where no synapse is (on padding) back to 0, as they are born."""
    if getattr(layer, "synapses", None) is not None:
        for weight in layer.weights:
            if weight.shape == layer.kernel.shape:
                weight.assign(np.where(layer.synapses, weight, 0.0))


def twins(kind: Kind, rule: Any, **more: Any) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """The plain layer and its feedback twin, built, with the same kernels and biases."""
    plain, twin = build(kind, kind.plain(**more)), build(kind, kind.twin(rule, **more))
    copy_forward_weights(twin, plain)
    return plain, twin


def copy_forward_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Give `target` the kernels and biases of `source`."""
    pairs = zip(forward_weights(source), forward_weights(target), strict=True)
    for from_, to in pairs:
        to.assign(from_)


def carry_with_kernel(layer: keras.layers.Layer) -> None:
    """Make the tensor that carries the next error equal to W.

    B := W where there is a B. Sign-symmetry without a B cannot carry with any W, so there W
    becomes what the rule carries with: of the next draw, if it draws.
    """
    for pathway in pathways_of(layer):
        if pathway.feedback_kernel is not None:
            pathway.feedback_kernel.assign(pathway.kernel)
        else:
            seed = None if pathway.state is None else pathway.state + tf.constant([0, 1])
            kernel = tf.convert_to_tensor(pathway.kernel)
            pathway.kernel.assign(pathway.rule.backward_kernel(kernel, None, seed))


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What one training call of a layer gives: arrays by name."""

    output: np.ndarray
    inputs: list[np.ndarray]
    weights: dict[str, np.ndarray]

    def forward(self) -> dict[str, np.ndarray]:
        """Gradients of inputs, kernels and biases: what the plain layer has too."""
        inputs = {f"input {index}": array for index, array in enumerate(self.inputs)}
        weights = {n: a for n, a in self.weights.items() if not n.split("/")[-1].startswith("feed")}
        return inputs | weights


def gradients(
    layer: keras.layers.Layer,
    inputs: list[tf.Tensor],
    mode: str = "eager",
    *,
    call: Callable[..., tf.Tensor] | None = None,
) -> Gradients:
    """Gradients of `sum(y * dy)` with a fixed random `dy`: `error_at(y)`.

    Args:
        layer: A built layer.
        inputs: What it is called on.
        mode: `"eager"`, `"graph"` or `"jit"`.
        call: Instead of `layer(*inputs, training=True)`.
    """
    weights = layer.trainable_variables

    def run(*inputs: tf.Tensor) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = (call or layer)(*inputs, training=True)
            loss = tf.reduce_sum(tf.cast(y, "float32") * error_at(y))
        found = tape.gradient(loss, [list(inputs), [weight.value for weight in weights]])
        return y, *found

    step = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    with mirror_attends():
        y, inputs_found, weights_found = step(*inputs)
    # Names inside the layer: its own name counts up with every layer that is made.
    names = [weight.path.split("/", 1)[-1] for weight in weights]
    return Gradients(
        y.numpy(),
        [gradient.numpy() for gradient in inputs_found],
        {name: g.numpy() for name, g in zip(names, weights_found, strict=True)},
    )


def error_at(y: tf.Tensor) -> tf.Tensor:
    """A fixed random error of the shape of `y`, in float32."""
    return tf.constant(np.random.default_rng(7).normal(size=y.shape), "float32")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    return float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))
