"""Rules whose B goes down a loss of its layer's signals: the losses, and that they read no W."""

import dataclasses
import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers import numpy_reference
from tests.layers.kinds import (
    BY_NAME,
    KINDS,
    ONE_OF_EACH,
    Kind,
    build,
    carry_with_kernel,
    copy_forward_weights,
    gradients,
    relative_error,
    twins,
)
from tests.layers.test_gradients import assert_b_carries_the_error
from tests.test_higher_derivatives import assert_as_plain, taken_at_once
from tfweightmirror import rules
from tfweightmirror.layers import feedback_layer
from tfweightmirror.layers.gated_cells import gated_map
from tfweightmirror.rules import ActivationAlignment, InformationAlignment, SymmetricAlignment

IA = InformationAlignment(amplify=0.75, decay=0.5, null=0.25)
AA = ActivationAlignment(amplify=0.75, sparse=0.5)
SA = SymmetricAlignment(alike=0.75, decay=0.5)
EVERY = {"ia": IA, "aa": AA, "sa": SA}
every_rule = pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)
SOME = [BY_NAME[name] for name in ("dense_rank3", "separable2d", "local2d")]


def some_kinds(kinds: list[Kind], quick: list[Kind] = SOME) -> Any:
    """Parametrize by `kinds`, of which `quick` are in the default suite."""
    marked = [
        pytest.param(kind, id=kind.name, marks=() if kind in quick else pytest.mark.slow)
        for kind in kinds
    ]
    return pytest.mark.parametrize("kind", marked)


# --- the gradient of B --------------------------------------------------------------------------


def gradient_by_equation(rule: Any, one: Any, x: Any, w: Any, b: Any) -> np.ndarray:
    """What a rule's terms give B, in float64; `one` is a map of `numpy_reference`."""
    y, n = one.forward(x, w), len(x)
    hebb = one.to_kernel(x, y, w.shape) / n
    if isinstance(rule, InformationAlignment):
        back = one.to_input(y, b, x.shape)
        null = one.to_kernel(back, y, w.shape) / n
        return rule.decay * b - rule.amplify * hebb + rule.null * null
    if isinstance(rule, ActivationAlignment):
        sparse = one.to_kernel(x, one.forward(x, b), w.shape) / n
        return rule.sparse * sparse - rule.amplify * hebb
    return rule.decay * b - rule.alike * w


@every_rule
@pytest.mark.parametrize("mode", ["eager", pytest.param("jit", marks=pytest.mark.slow)])
@some_kinds([kind for kind in KINDS if not kind.is_recurrent and not kind.is_attention])
def test_b_s_gradient_is_that_of_the_equations(kind: Kind, mode: str, rule: Any) -> None:
    layer, inputs = build(kind, kind.twin(rule)), kind.inputs()
    found = gradients(layer, inputs, mode)
    signal = np.asarray(inputs[0], "f8")
    maps = numpy_reference.maps_of(kind.layer, kind.options)
    for one, pathway, site in zip(maps, layer.pathways, layer.sites, strict=True):
        w, b = (np.asarray(v, "f8") for v in (pathway.kernel, pathway.feedback_kernel))
        expected = gradient_by_equation(rule, one, signal, w, b)
        assert relative_error(found.weights[site.feedback], expected) < 1e-5
        signal = one.forward(signal, w)


@every_rule
def test_a_recurrent_layer_learns_at_every_step(rule: Any) -> None:
    kind = BY_NAME["simple_rnn"]
    layer, inputs = build(kind, kind.twin(rule)), kind.inputs()
    found = gradients(layer, inputs)
    x, states = (np.asarray(array, "f8") for array in (inputs[0], found.output))
    before = np.concatenate([np.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
    for pathway, signals in zip(layer.pathways, (x, before), strict=True):
        w, b = (np.asarray(v, "f8") for v in (pathway.kernel, pathway.feedback_kernel))
        one = numpy_reference.maps_of("Dense", {})[0]
        steps = [gradient_by_equation(rule, one, signals[:, t], w, b) for t in range(4)]
        name = f"{layer.cell.name}/{pathway.feedback_kernel.name}"
        assert relative_error(found.weights[name], sum(steps)) < 1e-5


def test_inputs_that_differ_from_gate_to_gate_are_averaged_over_examples_all_the_same() -> None:
    random = np.random.default_rng(0)
    x, w, b = (random.normal(size=shape) for shape in ((3, 7, 5), (5, 6), (5, 6)))

    def op(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return gated_map(x, kernel, gates=range(3), units=2, apart=True)

    rule = InformationAlignment(amplify=1.0, decay=0.0, null=0.0, centered=True)
    f = tfwm.asymmetric(op, rule, batch_axis=1)
    x, w, b = (tf.constant(array) for array in (x, w, b))
    with tf.GradientTape() as tape:
        tape.watch(b)
        y = f(x, w, b)
    found = tape.gradient(y, b)
    x, y = (np.asarray(a) - np.mean(a, axis, keepdims=True) for a, axis in ((x, 1), (y, 0)))
    gates = [-x[gate].T @ y[:, 2 * gate : 2 * gate + 2] / 7 for gate in range(3)]
    assert relative_error(found, np.concatenate(gates, axis=1)) < 1e-12


def test_cells_say_along_which_axis_their_examples_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, asymmetric = [], feedback_layer.asymmetric

    def listening(*arguments: Any, **options: Any) -> Any:
        axes.append(options["batch_axis"])
        return asymmetric(*arguments, **options)

    layer = tfwm.layers.FeedbackLSTM(2, rule=IA, dropout=0.5, implementation=1, unroll=True)
    monkeypatch.setattr(feedback_layer, "asymmetric", listening)
    layer(tf.ones((3, 1, 4)), training=True)
    assert axes[-2:] == [1, 0]  # the inputs, masked for every gate, and the state


NUMBERS = json.loads((pathlib.Path(__file__).parent / "neural_alignment.json").read_text())


@pytest.mark.parametrize("case", NUMBERS)
def test_losses_and_gradients_are_those_of_the_authors_code(case: str) -> None:
    """Numbers of neuroailab/Neural-Alignment at d83defb, whose losses have no factor 1/2.

    Its code ran in TensorFlow 2's mode of version 1, in float64; W has no gradient there either.
    """
    of = NUMBERS[case]
    x, w, b, expected = (np.array(of[n]) for n in ("x", "kernel", "feedback", "gradient"))
    rule = getattr(rules, of["rule"])(**of["options"])
    op = tf.matmul if x.ndim == 2 else (lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"))
    x, w, b = (tf.constant(array, tf.float64) for array in (x, w, b))
    f = tfwm.asymmetric(op, rule)
    with tf.GradientTape() as tape:
        tape.watch(b)
        y = f(x, w, b)
    assert relative_error(tape.gradient(y, b), expected) < 1e-8
    signals = rules.Signals(x, y, b, op, kernel=w)
    # Decay of W, a constant there, and sums of squares that read no B.
    constants = {
        "symmetric": 0.5 * tf.reduce_sum(w**2),
        "information": 0.25 * tf.reduce_sum(w**2),
        "mirror_centered": 0.25 * tf.reduce_sum(w**2),
        "activation": 0.5 * signals.mean(y**2),
    }
    loss = rule.local_loss(signals) + constants[case.rpartition("_")[0]]
    assert loss.numpy() == pytest.approx(of["loss"], rel=1e-8)


# --- what carries the error, and what B reads ---------------------------------------------------


@every_rule
@some_kinds(ONE_OF_EACH, [BY_NAME["dense_rank2"]])
def test_with_b_equal_to_w_a_layer_is_the_plain_one_to_the_bit(kind: Kind, rule: Any) -> None:
    plain, twin = twins(kind, rule)
    carry_with_kernel(twin)
    copy_forward_weights(twin, plain)
    expected, found = (gradients(layer, kind.inputs()) for layer in (plain, twin))
    np.testing.assert_array_equal(found.output, expected.output)
    for name, gradient in expected.forward().items():
        np.testing.assert_array_equal(found.forward()[name], gradient, err_msg=name)


@pytest.mark.parametrize("rule", ["ia", "aa", "sa"])
def test_with_b_equal_to_w_a_gradient_penalty_is_backprops(rule: str) -> None:
    assert_as_plain(BY_NAME["dense_rank2"], rule, taken_at_once)


@every_rule
@some_kinds(ONE_OF_EACH, [BY_NAME["dense_rank2"]])
def test_another_b_changes_the_error_and_not_the_output(kind: Kind, rule: Any) -> None:
    assert_b_carries_the_error(kind, rule)


def reached_from_b(rule: Any) -> bool:
    """Whether in the traced program a path leads from W to B's gradient past the forward answer."""

    def op(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.identity(tf.matmul(x, kernel), name="answer")

    f = tfwm.asymmetric(op, rule)

    @tf.function
    def gradient(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch([w, b])
            loss = tf.reduce_sum(f(x, w, b) ** 2)
        return tape.gradient(loss, b)

    shapes = [(4, 5), (5, 3), (5, 3)]
    graph = gradient.get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes)).graph
    left, seen = list(graph.outputs), set()
    while left:
        tensor = left.pop()
        operation = tensor.op
        if tensor.name in seen or operation.name == "answer":  # the forward pass' alone
            continue
        seen.add(tensor.name)
        alone = operation.type == "IdentityN"  # as many outputs as inputs, each one's own
        left += [operation.inputs[tensor.value_index]] if alone else list(operation.inputs)
    assert graph.inputs[2].name in seen  # B's own gradient depends on B
    return graph.inputs[1].name in seen


@dataclasses.dataclass(frozen=True)
class Peeking(InformationAlignment):
    """A rule that finds a way to W."""

    name = "peeking"
    reads_kernel = True

    def local_loss(self, signals: rules.Signals) -> tf.Tensor:
        return super().local_loss(signals) - 1e-6 * tf.reduce_sum(signals.kernel * signals.feedback)


def test_no_path_leads_from_w_to_b_but_through_the_answer() -> None:
    assert not reached_from_b(IA)
    assert not reached_from_b(AA)


def test_a_rule_that_reads_w_is_seen_to_and_says_so() -> None:
    assert reached_from_b(SA)
    assert reached_from_b(Peeking())
    assert [rule.name for rule in rules.RULES if rule.reads_kernel] == ["symmetric_alignment"]
    assert "Reads W" in SymmetricAlignment.__doc__.splitlines()[0]


@pytest.mark.parametrize("rule", [IA, AA], ids=["ia", "aa"])
def test_another_forward_map_of_the_same_answers_moves_b_the_same(rule: Any) -> None:
    """W plus anything that the inputs do not excite: SCIENCE 2.5 (b)."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 9)).astype("f4")
    unseen = np.linalg.svd(x)[2][4:]  # directions in which no input goes
    layer = tfwm.layers.FeedbackDense(3, rule=rule)
    layer.build((None, 9))
    moved = {}
    for name, change in (("as it is", 0.0), ("other", unseen.T @ random.normal(size=(5, 3)))):
        layer.kernel.assign_add(np.asarray(change, "f4") + np.zeros((9, 3), "f4"))
        moved[name] = gradients(layer, [tf.constant(x)]).weights["feedback_kernel"]
    assert relative_error(moved["other"], moved["as it is"]) < 1e-5


# --- a rule that learns from errors, too --------------------------------------------------------


class Both(InformationAlignment):
    """A rule whose B learns from errors and from signals at once."""

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        return kernel_gradient


def test_b_gets_the_sum_of_what_errors_and_signals_teach() -> None:
    kind = BY_NAME["dense_rank2"]
    local, both = (build(kind, kind.twin(rule)) for rule in (IA, Both(0.75, 0.5, 0.25)))
    both.kernel.assign(local.kernel)
    both.feedback_kernel.assign(local.feedback_kernel)
    one, two = (gradients(layer, kind.inputs()).weights for layer in (local, both))
    expected = one["feedback_kernel"] + one["kernel"]
    assert relative_error(two["feedback_kernel"], expected) < 1e-6


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_sum_of_which_one_part_is_scaled_is_refused(dynamic: bool) -> None:
    """Scaled as a whole, the part of the errors would be taken `scale` times too large."""
    layer = tfwm.layers.FeedbackDense(3, rule=Both())
    layer.build((None, 4))
    variables, fixed = layer.trainable_variables, keras.optimizers.SGD(loss_scale_factor=8.0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()) if dynamic else fixed
    before = layer.get_weights()
    with pytest.raises(ValueError, match=f"{type(optimizer).__name__}.* scales the loss, and"):
        optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    for value, same in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, same)
    keras.optimizers.SGD().apply([tf.ones(v.shape) for v in variables], variables)
