"""The train and mirror steps compile, whole, for a real TPU target. Nothing here runs on a TPU.

`make tpu-check` runs these, without most rules in bfloat16 (`ALL=1`: with them); each step takes
the TPU compiler a second, with mirror mode up to half a minute.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.communication import paper
from tests.layers.kinds import RULES
from tests.tpu.conftest import Compile
from tests.tpu.steps import mirror_alone, recurrent, resnet, small, train_step, trainable
from tests.tpu.target import RefusedError, Target, TpuProgram, compiler_python, host_operations
from tfweightmirror.callbacks import FeedbackMonitor, KolenPollack, WeightMirror
from tfweightmirror.mirror import Schedule
from tfweightmirror.mirror.noise import Orthogonal

if compiler_python() is None:
    reason = "needs the TPU compiler, the packages of the extra `tpu-check`: run `make tpu-check`"
    pytest.skip(reason, allow_module_level=True)

# With the extra installed beside TensorFlow, `make slow` runs these too.
pytestmark = pytest.mark.slow

DTYPES = ("float32", "mixed_bfloat16")


def with_dtypes(name: str, values: Iterable[str], in_both: Sequence[str]) -> Any:
    """Parametrize by `values` and precisions; `make tpu-check` takes a few in bfloat16."""
    return pytest.mark.parametrize(
        (name, "dtype"),
        [
            pytest.param(
                value,
                dtype,
                id=f"{value}-{dtype}",
                marks=() if dtype == "float32" or value in in_both else pytest.mark.tpu_product,
            )
            for value in values
            for dtype in DTYPES
        ],
    )


WITHOUT_MIRROR = [rule for rule in RULES if rule != "wm"]

MIRRORS: dict[str, Any] = {
    "balanced": WeightMirror,
    "impulse": functools.partial(WeightMirror, "impulse"),
    "gaussian": functools.partial(WeightMirror, "gaussian"),
    "akrout2019": functools.partial(paper, schedule=Schedule()),
    "now and then": paper,
}


@pytest.fixture(scope="session")
def plain(compiled: Compile) -> Any:
    """`plain(make, dtype)`: the program of the plain Keras model."""

    @functools.cache
    def compile_plain(make: Any, dtype: str) -> TpuProgram:
        step = train_step(trainable(make, None, dtype))
        return compiled(f"{make.__name__} plain {dtype}", step)

    return compile_plain


def callbacks_of(rule: str) -> list[keras.callbacks.Callback]:
    return [KolenPollack()] if rule == "kp" else []


def stored_feedback(model: keras.Model, like: TpuProgram) -> int:
    """Bytes that all B, and their momentum, take on the chip, if stored as W is.

    Under `KolenPollack()` B has no momentum of its own.
    """
    stored = 0
    for pathway in tfwm.pathways(model):
        if pathway.feedback_kernel is not None:
            own = isinstance(pathway.rule, tfwm.rules.UpdatedRandomFeedback)
            copies = 2 if own else 1
            stored += copies * like.stored_bytes[tuple(pathway.kernel.shape)]
    return stored


def in_blocks(model: keras.Model) -> int:
    """Pathways whose cells fire together, where the noise is the default."""
    return sum(Orthogonal().plan(p).shape[-1] > 1 for p in tfwm.pathways(model))


def assert_computed_in(dtype: str, program: TpuProgram) -> None:
    """Every convolution and matrix product got operands of the policy's compute dtype."""
    expected = {"float32": "f32", "mixed_bfloat16": "bf16"}[dtype]
    assert program.products
    assert {operand for product in program.products for operand in product} == {expected}


# --- train steps --------------------------------------------------------------------------------


@with_dtypes("rule", WITHOUT_MIRROR, in_both=("fa", "brsf", "kp"))
def test_a_train_step_is_backprop_s_and_the_memory_of_b(
    rule: str, dtype: str, compiled: Compile, plain: Any
) -> None:
    model = trainable(small, rule, dtype)
    found = compiled(f"small {rule} {dtype}", train_step(model, *callbacks_of(rule)))
    expected = plain(small, dtype)
    assert found.host_operations == expected.host_operations == []
    # By hand: four forward, four for the kernels, three errors sent back.
    assert found.convolutions == expected.convolutions == 11
    if rule != "brsf":  # which draws magnitudes in every step
        assert found.flops == pytest.approx(expected.flops, rel=0.01)
    extra = found.argument_bytes - expected.argument_bytes
    # Counters and seeds take a tile each.
    assert extra == pytest.approx(stored_feedback(model, expected), rel=0.01, abs=4096)
    assert_computed_in(dtype, found)


@with_dtypes("rule", ["dfa"], in_both=())
def test_a_step_of_direct_feedback_alignment_sends_every_error_by_one_product(
    rule: str, dtype: str, compiled: Compile, plain: Any
) -> None:
    model = trainable(small, rule, dtype)
    found, expected = compiled(f"small {rule} {dtype}", train_step(model)), plain(small, dtype)
    assert found.host_operations == []
    # Four forward, four for the kernels, and e B^T to three layers.
    assert found.convolutions == expected.convolutions == 11
    assert found.flops < expected.flops  # no convolution sends an error
    assert_computed_in(dtype, found)


@pytest.mark.parametrize("rule", ["ia", "aa", "sa", "pfa"])
def test_a_train_step_whose_b_learns_from_signals_or_is_a_product(
    rule: str, compiled: Compile, plain: Any
) -> None:
    model = trainable(small, rule)
    found, expected = compiled(f"small {rule}", train_step(model)), plain(small, "float32")
    assert found.host_operations == []
    # A pathway: Hebb's product and two for `B y`; Hebb's and two for `x^T B`; none; B, and dR.
    most = {"ia": 3, "aa": 3, "sa": 0, "pfa": 2}[rule] * len(tfwm.pathways(model))
    assert expected.convolutions <= found.convolutions <= expected.convolutions + most
    assert (found.convolutions > expected.convolutions) == (rule != "sa")
    assert_computed_in("float32", found)


@with_dtypes("mirror", MIRRORS, in_both=("balanced",))
def test_a_train_step_with_mirror_mode_inside(
    mirror: str, dtype: str, compiled: Compile, plain: Any
) -> None:
    model = trainable(small, "wm", dtype)
    callbacks = [MIRRORS[mirror](), *([FeedbackMonitor()] if mirror == "balanced" else [])]
    found = compiled(f"small wm {mirror} {dtype}", train_step(model, *callbacks))
    expected = plain(small, dtype)
    assert found.host_operations == []
    # Every pathway's answer and Hebbian product. One cell at a time needs no sums.
    products = 2 * {"impulse": 0, "balanced": in_blocks(model)}.get(mirror, 4)
    assert found.convolutions == expected.convolutions + products
    extra = found.argument_bytes - expected.argument_bytes
    assert extra == pytest.approx(stored_feedback(model, expected), rel=0.01, abs=4096)
    # A step that is not always due, and several at a time, stay in the one program.
    loops = 1 if mirror == "now and then" else 0
    assert (found.operations["conditional"], found.operations["while"]) == (loops, loops)


@pytest.mark.parametrize("rule", ["fa", "brsf", "kp"])
def test_a_train_step_of_a_recurrent_network(rule: str, compiled: Compile, plain: Any) -> None:
    model = trainable(recurrent, rule)
    found = compiled(f"recurrent {rule} float32", train_step(model, *callbacks_of(rule)))
    expected = plain(recurrent, "float32")
    assert found.host_operations == expected.host_operations == []
    assert found.convolutions == expected.convolutions == 8
    if rule != "brsf":
        assert found.flops == pytest.approx(expected.flops, rel=0.02)


@pytest.mark.parametrize("rule", ["kp", "wm"])
def test_a_train_step_of_resnet18(rule: str, compiled: Compile, plain: Any) -> None:
    model = trainable(resnet, rule)
    callbacks = [WeightMirror()] if rule == "wm" else callbacks_of(rule)
    found = compiled(f"resnet {rule} float32", train_step(model, *callbacks))
    expected = plain(resnet, "float32")
    assert found.host_operations == expected.host_operations == []
    # 20 convolutions and the head, each with three products; the first layer sends no error back.
    mirrored = 2 * in_blocks(model) if rule == "wm" else 0
    assert found.convolutions - mirrored == expected.convolutions == 62
    if rule == "wm":  # a sweep, 4 b n_in n_out, and the draws for it: less than 1 % in all
        plans = [(Orthogonal().plan(pathway).shape, pathway) for pathway in tfwm.pathways(model)]
        sweep = sum(
            (4 if shape[-1] > 1 else 2) * math.prod(shape) * pathway.fan_out
            for shape, pathway in plans
        )
        assert sweep < found.flops - expected.flops < 0.01 * expected.flops
    else:
        assert found.flops == pytest.approx(expected.flops, rel=0.01)
    stored = stored_feedback(model, expected)
    assert found.argument_bytes - expected.argument_bytes == pytest.approx(stored, rel=0.01)
    # The rest depends on what the compiler keeps in scratch memory.
    assert found.total_bytes < expected.total_bytes + 3 * stored
    # B and its momentum are read and written once, or W is read and B written.
    assert found.memory_traffic < expected.memory_traffic + 2 * stored


# --- the mirror step alone ----------------------------------------------------------------------

INDEPENDENT: dict[str, dict[str, Any]] = {
    "independent": {},
    "the paper's": {
        "through_activation": True,
        "bias_blocking": False,
        "activations": {"head": "linear"},
    },
}


@pytest.mark.parametrize("mode", INDEPENDENT)
def test_a_mirror_step_is_two_products_a_pathway(mode: str, compiled: Compile) -> None:
    step = mirror_alone(trainable(small, "wm"), noise="gaussian", **INDEPENDENT[mode])
    found = compiled(f"small mirror alone, {mode}", step)
    assert found.host_operations == []
    assert found.convolutions == 2 * 4


def test_a_balanced_sweep_is_in_float32_only_where_tensorflow_is_told_so(
    compiled: Compile,
) -> None:
    """By default a TPU rounds the factors of float32 products to bfloat16, W among them."""
    model = trainable(small, "wm")
    by_default = compiled("small mirror alone, balanced", mirror_alone(model))
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        exact = compiled("small mirror alone, balanced, exact", mirror_alone(model))
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
    for found in (by_default, exact):
        assert found.host_operations == []
        assert found.convolutions == 2 * in_blocks(model) > 0
    assert "bf16[" in by_default.text
    assert "bf16[" not in exact.text


# --- that the check can fail --------------------------------------------------------------------


def test_a_host_callback_in_the_step_is_refused(target: Target) -> None:
    model = trainable(small, "fa")
    step, specs = train_step(model)

    def faulty(x: tf.Tensor, y: tf.Tensor) -> Any:
        tf.py_function(lambda: None, [], [])
        return step(x, y)

    with pytest.raises(RefusedError, match="EagerPyFunc"):
        target.compile(faulty, specs)


def test_a_batch_of_any_size_is_refused(target: Target) -> None:
    step, (x, y) = train_step(trainable(small, "fa"))
    with pytest.raises(RefusedError, match="static input shape"):
        target.compile(step, [tf.TensorSpec((None, *x.shape[1:])), y])


def test_a_shape_that_depends_on_values_is_refused(target: Target) -> None:
    def samples(number: tf.Tensor) -> tf.Tensor:
        return tf.zeros((number, 20))

    with pytest.raises(RefusedError, match="compile-time constant"):
        target.compile(samples, [tf.TensorSpec((), tf.int32)])


def test_what_the_tpu_compiler_refuses_is_reported(target: Target) -> None:
    """Three matrices of 16 GiB, on a chip of 16 GB."""
    matrix = tf.TensorSpec((2**16, 2**16))
    with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
        target.compile(lambda x, y: x @ y, [matrix, matrix])


def test_a_forward_pass_that_runs_twice_is_counted(compiled: Compile) -> None:
    model = trainable(small, "fa")
    step, specs = train_step(model)

    def faulty(x: tf.Tensor, y: tf.Tensor) -> Any:
        return step(x, y), model(2.0 * x, training=False)

    assert compiled("small fa, a forward pass too many", (faulty, specs)).convolutions == 11 + 4


@pytest.mark.parametrize(
    "line",
    [
        "  %outfeed = token[] outfeed(%x, %token), outfeed_shape=f32[2]{0}",
        "  %infeed.1 = ((f32[2]{0}), token[]) infeed(%token.1)",
        "  %send = (f32[2]{0}, u32[], token[]) send(%x, %token), channel_id=1",
        "  %done = (f32[2]{0}, token[]) recv-done(%recv), channel_id=2, is_host_transfer=true",
        '  %call = f32[2]{0} custom-call(%x), custom_call_target="xla_ffi_python_cpu_callback"',
    ],
    ids=lambda line: line.split()[0],
)
def test_whatever_talks_to_the_host_is_found_in_a_program(line: str) -> None:
    assert len(host_operations(f"ENTRY %main {{\n{line}\n}}")) == 1
