"""Every gradient twice: against the plain Keras layer with B := W, and against NumPy with B != W.

And, for every kind, the proof that B alone carries the error.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import numpy_recurrent, numpy_reference
from tests.layers.kinds import (
    BY_NAME,
    CARRIED_BY_B,
    KINDS,
    ONE_OF_EACH,
    ONE_OF_EACH_IDS,
    RULES,
    STOOD_FOR,
    Gradients,
    Kind,
    build,
    carry_with_kernel,
    copy_forward_weights,
    error_at,
    gradients,
    kinds_and_rules,
    off_the_axes,
    one_of_each,
    pathways_of,
    relative_error,
    twins,
)
from tests.slow import slow_but
from tfweightmirror.asymmetric_gradient import asymmetric
from tfweightmirror.layers import feedback_layer
from tfweightmirror.pathway import Pathway


def always(kind: Kind, rule: str) -> bool:
    """A test with one that is quicker beside it: `make slow` alone runs it."""
    return True


def few(kind: Kind, rule: str) -> bool:
    """For what goes by the kind or by the rule: all but `fa` on one kind of each class, and the
    other rules on one kind.
    """
    kept = set(ONE_OF_EACH_IDS).difference(STOOD_FOR) if rule == "fa" else {"dense_rank2"}
    return kind.name not in kept


every_rule = pytest.mark.parametrize("rule", RULES)

# The rules that take different paths: B without and with a gradient, and a draw.
DISTINCT = ("fa", "brsf", "kp")

# Every way in which a kernel is used, and the two compiled by Keras on its own.
SAMPLE = [
    BY_NAME[name]
    for name in (
        "dense_rank3",
        "conv1d_causal",
        "conv2d_same_stride",
        "conv2d_groups",
        "conv3d_first",
        "conv2d_transpose_padding",
        "depthwise2d_stride_dilation",
        "separable2d_same_stride",
        "einsum_group_scattered",
        "attention_cross_gate",
    )
]


# --- against the plain layer, B := W ------------------------------------------------------------


def compare_with_plain_layer(
    kind: Kind, rule: str, mode: str, *, tolerance: float = 0.0, **more: object
) -> None:
    """Outputs and gradients of the two layers, one carrying the error with exactly W."""
    plain, twin = twins(kind, RULES[rule], **more)
    carry_with_kernel(twin)
    copy_forward_weights(twin, plain)
    inputs = kind.inputs(dtype=plain.compute_dtype)
    expected, found = gradients(plain, inputs, mode), gradients(twin, inputs, mode)
    np.testing.assert_array_equal(found.output, expected.output)
    assert found.forward().keys() == expected.forward().keys()
    for name, gradient in expected.forward().items():
        if tolerance:
            assert_close(name, found.forward()[name], gradient, tolerance)
        else:
            np.testing.assert_array_equal(found.forward()[name], gradient, err_msg=name)


def assert_close(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """A relative error below `tolerance`."""
    if name == "key/bias":  # softmax ignores what all keys share, so this gradient is zero
        np.testing.assert_allclose(found, 0.0, atol=1e-5)
    else:
        assert relative_error(found, expected) < tolerance, name


def has_activation(kind: Kind) -> dict[str, str]:
    """A nonlinear activation where the layer takes one."""
    return {} if kind.is_attention else {"activation": "tanh"}


@kinds_and_rules(slow=lambda kind, rule: rule not in DISTINCT or off_the_axes(kind, rule))
def test_layer_that_carries_with_w_is_the_plain_layer_to_the_bit_in_eager_mode(
    kind: Kind, rule: str
) -> None:
    compare_with_plain_layer(kind, rule, "eager", **has_activation(kind))


@kinds_and_rules(slow=always)
def test_layer_that_carries_with_w_is_the_plain_layer_to_the_bit_in_a_graph(
    kind: Kind, rule: str
) -> None:
    # Graph optimization may order the sums of attention's many products otherwise.
    rounding = 1e-6 if kind.is_attention else 0.0
    compare_with_plain_layer(kind, rule, "graph", tolerance=rounding, **has_activation(kind))


# Where XLA compiles the whole step it is free to fuse the two programs in two ways: hence a
# tolerance, though on the CPU where this was written they were equal to the bit.
@kinds_and_rules(
    ["fa", "kp"],
    kinds=ONE_OF_EACH,
    slow=lambda kind, rule: (
        kind.name not in ("dense_rank2", "conv2d", "separable2d", "attention") or rule == "kp"
    ),
)
def test_layer_that_carries_with_w_is_the_plain_layer_under_jit_compile(
    kind: Kind, rule: str
) -> None:
    compare_with_plain_layer(kind, rule, "jit", tolerance=1e-6)


@kinds_and_rules(DISTINCT, slow=always)
def test_every_kind_is_the_plain_layer_under_jit_compile(kind: Kind, rule: str) -> None:
    compare_with_plain_layer(kind, rule, "jit", tolerance=1e-6, **has_activation(kind))


def compare_in_mixed_precision(kind: Kind, rule: str, dtype: str) -> None:
    """As `compare_with_plain_layer`."""
    # XLA on CPU convolves bfloat16 in float32. Keras' compiled function also holds the cast of dW
    # back to float32, so that there dW is never rounded to bfloat16; in ours it is, once.
    rounding = 2.0**-8 if kind.compiled_by_keras and dtype == "mixed_bfloat16" else 0.0
    compare_with_plain_layer(kind, rule, "eager", tolerance=rounding, dtype=dtype)


@kinds_and_rules(
    DISTINCT,
    kinds=SAMPLE,
    slow=lambda kind, rule: rule != "fa" and kind.name != "dense_rank3",
)
def test_layer_that_carries_with_w_is_the_plain_layer_in_mixed_bfloat16(
    kind: Kind, rule: str
) -> None:
    compare_in_mixed_precision(kind, rule, "mixed_bfloat16")


@kinds_and_rules(slow=always)
def test_every_kind_and_rule_is_the_plain_layer_in_mixed_bfloat16(kind: Kind, rule: str) -> None:
    compare_in_mixed_precision(kind, rule, "mixed_bfloat16")


def computed_in_float16(kind: Kind) -> bool:
    """Whether plain Keras runs in float16 on a CPU.

    TensorFlow's convolutions there know no channels-first data, and transposed ones no dilation.
    """
    unusual = {"dilation_rate", "data_format"} & kind.options.keys()
    first = "data_format" in kind.options and kind.layer in ("Conv1D", "Conv2D")
    transposed = kind.layer.endswith("Transpose") and unusual
    return not (transposed or (first and not kind.compiled_by_keras))


@kinds_and_rules(kinds=filter(computed_in_float16, KINDS), slow=always)
def test_every_kind_and_rule_is_the_plain_layer_in_mixed_float16(kind: Kind, rule: str) -> None:
    compare_in_mixed_precision(kind, rule, "mixed_float16")


# --- against NumPy, B != W ----------------------------------------------------------------------


def carriers_by_equation(rule: str, layer: object) -> list[np.ndarray]:
    """What carries the error, from each rule's equation, one for each kernel of the layer."""
    found = []
    for pathway in pathways_of(layer):
        kernel = np.asarray(pathway.kernel, "float64")
        feedback = pathway.feedback_kernel
        if rule == "bp":
            found.append(kernel)
        elif rule == "usf":
            found.append(np.sign(kernel) * pathway.rule.scale)
        elif rule == "frsf":
            found.append(np.sign(kernel) * np.abs(feedback))
        elif rule == "brsf":
            found.append(np.sign(kernel) * half_normal(kernel.shape, pathway) * pathway.rule.scale)
        else:
            found.append(np.asarray(feedback, "float64"))
    return found


def half_normal(shape: tuple[int, ...], pathway: Pathway) -> np.ndarray:
    """The magnitudes of the last draw: the only numbers here that TensorFlow makes."""
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=(2, (math.prod(shape) + 1) // 2),
        key=np.asarray(pathway.state).view("uint64"),
        counter=np.zeros(2, "uint64"),
        alg=1,  # Philox
        dtype=tf.int32,
    )
    chance, turn = (np.asarray(bits) % 2**23 + 0.5) / 2**23
    pairs = np.sqrt(-2.0 * np.log(chance)) * np.exp(2j * np.pi * turn)  # Box and Muller
    normal = np.concatenate([pairs.real, pairs.imag])[: math.prod(shape)]
    return np.abs(normal).reshape(shape)


def expected_gradients(
    kind: Kind, layer: object, inputs: list[np.ndarray], rule: str, y_shape: tuple[int, ...]
) -> Gradients:
    """Output and gradients by NumPy."""
    error = np.asarray(error_at(np.empty(y_shape)), "float64")
    pathways, carriers = pathways_of(layer), carriers_by_equation(rule, layer)
    kernels = [np.asarray(pathway.kernel, "float64") for pathway in pathways]
    if kind.is_attention:
        names = [pathway.layer.name for pathway in pathways]
        biases = [np.asarray(pathway.layer.bias, "float64") for pathway in pathways]
        by_name = [dict(zip(names, arrays, strict=True)) for arrays in (kernels, biases, carriers)]
        y, d_inputs, d_kernels, d_biases = numpy_reference.attention(*inputs, *by_name, error)
        weights = {f"{name}/kernel": gradient for name, gradient in d_kernels.items()}
        weights |= {f"{name}/bias": gradient for name, gradient in d_biases.items()}
        return Gradients(y, d_inputs, weights)
    if kind.is_recurrent:
        return recurrent_gradients(kind, layer.cell, *inputs, kernels, carriers)
    maps = numpy_reference.maps_of(kind.layer, kind.options)
    y, d_input, d_kernels = numpy_reference.chain(maps, *inputs, kernels, carriers, error)
    names = [site.kernel for site in layer.sites]
    weights = dict(zip(names, d_kernels, strict=True))
    if layer.bias is not None:
        y, weights["bias"] = with_bias(kind, layer, y, error)
    return Gradients(y, [d_input], weights)


def recurrent_gradients(
    kind: Kind, cell: object, x: np.ndarray, kernels: list[np.ndarray], carriers: list[np.ndarray]
) -> Gradients:
    """Output and gradients of a recurrent layer by NumPy."""
    reset_after = kind.options.get("reset_after", True)
    bias = np.asarray(cell.bias, "float64")
    own = numpy_recurrent.CELLS[kind.layer](*kernels, *carriers, bias, reset_after)
    y, d_x = numpy_recurrent.through_time(own, x, error_at)
    found = {"kernel": own.d_kernel, "recurrent_kernel": own.d_recurrent, "bias": own.d_bias}
    return Gradients(y, [d_x], {f"{cell.name}/{name}": array for name, array in found.items()})


def with_bias(
    kind: Kind, layer: object, y: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The output with its bias, and the bias' gradient: the error summed where it is shared."""
    bias = np.asarray(layer.bias, "float64")
    if kind.options.get("data_format") == "channels_first":
        y, d_bias = with_channels_last_bias(np.moveaxis(y, 1, -1), bias, np.moveaxis(error, 1, -1))
        return np.moveaxis(y, -1, 1), d_bias
    return with_channels_last_bias(y, bias, error)


def with_channels_last_bias(
    y: np.ndarray, bias: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    shape = (1,) * (y.ndim - bias.ndim) + bias.shape
    shared = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return y + bias, error.sum(axis=shared).reshape(bias.shape)


def compare_with_numpy(kind: Kind, rule: str, mode: str) -> None:
    """Output and gradients of the layer with random B, against NumPy."""
    layer = build(kind, kind.twin(RULES[rule]))
    inputs = kind.inputs()
    found = gradients(layer, inputs, mode)
    arrays = [np.asarray(array, "float64") for array in inputs]
    expected = expected_gradients(kind, layer, arrays, rule, found.output.shape)
    assert relative_error(found.output, expected.output) < 1e-5
    assert found.forward().keys() == expected.forward().keys()
    for name, gradient in expected.forward().items():
        assert_close(name, found.forward()[name], gradient, 1e-5)
    feedback = {name: g for name, g in found.weights.items() if "feedback_" in name}
    if rule not in ("kp", "urfb"):
        assert not feedback
        return
    assert len(feedback) == len(pathways_of(layer))
    factor = {"kp": 1.0, "urfb": 0.5}[rule]  # powers of two, so the products are exact
    for name, gradient in feedback.items():
        of_kernel = found.weights[name.replace("feedback_", "")]
        np.testing.assert_array_equal(gradient, factor * of_kernel, err_msg=name)


@kinds_and_rules()
def test_gradients_with_random_b_are_those_of_the_equations(kind: Kind, rule: str) -> None:
    compare_with_numpy(kind, rule, "eager")


@kinds_and_rules(kinds=ONE_OF_EACH, slow=few)
def test_gradients_with_random_b_are_those_of_the_equations_in_a_graph(
    kind: Kind, rule: str
) -> None:
    compare_with_numpy(kind, rule, "graph")


@kinds_and_rules(slow=always)
def test_gradients_with_random_b_of_every_kind_are_those_of_the_equations_in_a_graph(
    kind: Kind, rule: str
) -> None:
    compare_with_numpy(kind, rule, "graph")


@kinds_and_rules(DISTINCT, slow=always)
def test_gradients_with_random_b_of_every_kind_are_those_of_the_equations_under_jit_compile(
    kind: Kind, rule: str
) -> None:
    compare_with_numpy(kind, rule, "jit")


@pytest.mark.slow
@every_rule
@one_of_each
def test_gradients_with_random_b_are_those_of_the_equations_under_jit_compile(
    kind: Kind, rule: str
) -> None:
    compare_with_numpy(kind, rule, "jit")


# --- B carries the error, and W does not --------------------------------------------------------


def perturb_kernels_in_backward_pass(
    monkeypatch: pytest.MonkeyPatch, perturb: Callable[[tf.Tensor], tf.Tensor]
) -> None:
    """From now on, the backward pass of feedback layers sees `perturb(W)` instead of W."""

    def disturbed(op: Callable, rule: object, **options: object) -> Callable:
        plain = asymmetric(op, rule, **options)

        def f(x, kernel, feedback=None, seed=None, carrier=None):  # the rule makes it anew
            @tf.custom_gradient
            def forward(*arguments: tf.Tensor) -> object:
                x, kernel, *feedback = arguments

                def backward(dy: tf.Tensor) -> object:
                    seen = perturb(kernel)
                    watched = [x, seen, *feedback]
                    with tf.GradientTape() as tape:
                        tape.watch(watched)
                        y = plain(x, seen, *(feedback or [None]), seed)
                    found = tape.gradient(y, watched, dy)
                    # What no gradient reaches, such as a fixed B, gets None, as it did before.
                    return tuple(found)

                return op(x, kernel), backward

            return forward(x, kernel, *(() if feedback is None else (feedback,)))

        return f

    monkeypatch.setattr(feedback_layer, "asymmetric", disturbed)


def random_noise(kernel: tf.Tensor) -> tf.Tensor:
    """Another kernel altogether."""
    noise = np.random.default_rng(3).normal(size=kernel.shape)
    return kernel + tf.constant(noise, kernel.dtype)


def random_positive_factors(kernel: tf.Tensor) -> tf.Tensor:
    """A kernel of the same signs and other magnitudes."""
    factors = np.random.default_rng(3).uniform(0.5, 2.0, size=kernel.shape)
    return kernel * tf.constant(factors, kernel.dtype)


def assert_same(found: Gradients, expected: Gradients) -> None:
    """Every gradient equal to the bit."""
    assert found.weights.keys() == expected.weights.keys()
    for found_array, expected_array in zip(found.inputs, expected.inputs, strict=True):
        np.testing.assert_array_equal(found_array, expected_array)
    for name, gradient in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name], gradient, err_msg=name)


@kinds_and_rules(CARRIED_BY_B, slow=few)
def test_other_weights_in_the_backward_pass_change_nothing(
    kind: Kind, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, inputs = build(kind, kind.twin(RULES[rule])), kind.inputs()
    expected = gradients(layer, inputs)
    perturb_kernels_in_backward_pass(monkeypatch, random_noise)
    assert_same(gradients(layer, inputs), expected)


@pytest.mark.parametrize("rule", slow_but(["brsf"], ["usf", "frsf", "brsf"]))
@one_of_each
def test_sign_symmetry_sees_the_signs_of_w_and_nothing_else(
    kind: Kind, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, inputs = build(kind, kind.twin(RULES[rule])), kind.inputs()
    states = [pathway.state for pathway in pathways_of(layer) if pathway.state is not None]
    drawn = [state.numpy() for state in states]

    def again() -> Gradients:
        for state, value in zip(states, drawn, strict=True):
            state.assign(value)
        return gradients(layer, inputs)

    expected = again()
    with monkeypatch.context() as patch:
        perturb_kernels_in_backward_pass(patch, random_positive_factors)
        assert_same(again(), expected)
    perturb_kernels_in_backward_pass(monkeypatch, random_noise)
    for found, before in zip(again().inputs, expected.inputs, strict=True):
        assert relative_error(found, before) > 0.1


@one_of_each
def test_under_backprop_other_weights_in_the_backward_pass_do_change_the_error(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, inputs = build(kind, kind.twin("bp")), kind.inputs()
    expected = gradients(layer, inputs)
    perturb_kernels_in_backward_pass(monkeypatch, random_noise)
    for found, before in zip(gradients(layer, inputs).inputs, expected.inputs, strict=True):
        assert relative_error(found, before) > 0.1


def assert_b_carries_the_error(kind: Kind, rule: Any) -> None:
    """Another B changes every error that is sent down, and no output."""
    layer, inputs = build(kind, kind.twin(rule)), kind.inputs()
    before = gradients(layer, inputs)
    for pathway in pathways_of(layer):
        pathway.feedback_kernel.assign(random_noise(pathway.feedback_kernel.value))
    after = gradients(layer, inputs)
    np.testing.assert_array_equal(after.output, before.output)
    for found, expected in zip(after.inputs, before.inputs, strict=True):
        assert relative_error(found, expected) > 0.1


@kinds_and_rules([*CARRIED_BY_B, "frsf"], slow=few)
def test_another_b_changes_the_error_and_not_the_output(kind: Kind, rule: str) -> None:
    assert_b_carries_the_error(kind, RULES[rule])
