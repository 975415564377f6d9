"""Recurrent layers beyond what all layers are tested for: time, options, wrappers, cells."""

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import (
    RULES,
    Kind,
    build,
    carry_with_kernel,
    error_at,
    gradients,
    relative_error,
    twins,
)
from tests.layers.numpy_recurrent import AddedInput, through_time
from tests.layers.test_gradients import compare_with_numpy
from tests.slow import slow_but
from tfweightmirror import layers

k = keras.layers
SHAPE = (3, 4, 5)  # batch, time, n_in
NAMES = ("SimpleRNN", "LSTM", "GRU")


def recurrent(layer: str, **options: Any) -> Kind:
    """A kind of recurrent layer of three units."""
    return Kind(layer, layer, {"units": 3, **options}, (SHAPE,))


def normal(*shape: int, seed: int = 3) -> np.ndarray:
    """A normal array."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", slow_but(["fa"], RULES))
@pytest.mark.parametrize("mode", slow_but(["eager"], ["eager", "graph"]))
def test_a_gru_that_resets_before_the_product_has_the_gradients_of_its_equations(
    mode: str, rule: str
) -> None:
    kind = recurrent("GRU", reset_after=False, return_sequences=True)
    compare_with_numpy(kind, rule, mode)


@pytest.mark.parametrize("name", slow_but(["LSTM"], NAMES))
def test_an_unrolled_layer_has_the_gradients_of_its_equations(name: str) -> None:
    compare_with_numpy(recurrent(name, unroll=True, return_sequences=True), "kp", "graph")


OPTIONS = (
    ("SimpleRNN", {"go_backwards": True, "use_bias": False, "activation": "sigmoid"}),
    ("SimpleRNN", {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 1}),
    ("LSTM", {"return_sequences": True, "unit_forget_bias": False, "use_bias": False}),
    ("LSTM", {"dropout": 0.3, "seed": 1}),
    ("LSTM", {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 1}),
    ("LSTM", {"implementation": 1, "unroll": True}),
    ("GRU", {"implementation": 1, "use_bias": False, "return_sequences": True}),
    ("GRU", {"implementation": 1, "reset_after": False}),
    ("GRU", {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 1}),
    ("GRU", {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 1, "reset_after": False}),
)

FEW = (OPTIONS[4], OPTIONS[9])


@pytest.mark.parametrize(("name", "options"), slow_but(FEW, OPTIONS, unpack=True))
def test_with_b_equal_to_w_every_option_is_the_plain_layers(
    name: str, options: dict[str, Any]
) -> None:
    compare(recurrent(name, **options))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "jit"])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_with_b_equal_to_w_every_option_is_the_plain_layers_in_a_graph(
    name: str, options: dict[str, Any], mode: str
) -> None:
    compare(recurrent(name, **options), mode)


def compare(
    kind: Kind, mode: str = "eager", call: Callable[[Any], Callable[..., Any]] | None = None
) -> None:
    """Outputs and gradients of the plain layer and of its twin with B := W."""
    plain, twin = twins(kind, "fa")
    carry_with_kernel(twin)
    found = []
    for layer in (plain, twin):
        for variable in layer.non_trainable_variables:
            if "seed" in variable.name:  # dropout drew while the layers were built
                variable.assign([1, 0])
        found.append(gradients(layer, kind.inputs(), mode, call=call(layer) if call else None))
    assert relative_error(found[1].output, found[0].output) < 1e-6
    for name, gradient in found[0].forward().items():
        assert relative_error(found[1].forward()[name], gradient) < 1e-6, name


MASK = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)


@pytest.mark.parametrize("mode", slow_but(["eager"], ["eager", "graph"]))
@pytest.mark.parametrize("name", slow_but(["GRU"], NAMES))
def test_masked_steps_send_nothing_back(name: str, mode: str) -> None:
    kind = recurrent(name, return_sequences=True, zero_output_for_mask=name == "GRU")

    def masked(layer: Any) -> Callable[..., Any]:
        return lambda x, training: layer(x, mask=tf.constant(MASK), training=training)

    compare(kind, mode, masked)
    layer = build(kind, kind.twin("fa"))
    sent = gradients(layer, kind.inputs(), call=masked(layer)).inputs[0]
    assert not sent[~MASK].any()
    assert (np.abs(sent[MASK]).max(axis=-1) > 0).all()


@pytest.mark.parametrize("name", slow_but(["LSTM"], NAMES))
def test_a_stateful_layer_goes_on_from_its_state(name: str) -> None:
    kind = recurrent(name, stateful=True)
    plain, twin = twins(kind, "fa")
    carry_with_kernel(twin)
    for layer in (plain, twin):
        layer.reset_state()
    for turn in range(2):
        expected, found = (gradients(layer, kind.inputs(turn)) for layer in (plain, twin))
        np.testing.assert_array_equal(found.output, expected.output)
        for key, gradient in expected.forward().items():
            assert relative_error(found.forward()[key], gradient) < 1e-6, key


@pytest.mark.parametrize("name", slow_but(["LSTM"], NAMES))
def test_errors_at_states_go_back_on_b(name: str) -> None:
    """From the last states to the first, which come from other layers."""
    kind = recurrent(name, return_state=True)
    plain, twin = twins(kind, "fa")
    carry_with_kernel(twin)
    found = []
    for layer in (plain, twin):
        first = [tf.constant(normal(3, 3, seed=i)) for i in range(2 if name == "LSTM" else 1)]
        with tf.GradientTape() as tape:
            tape.watch(first)
            _, *last = layer(*kind.inputs(), initial_state=first, training=True)
            loss = sum(tf.reduce_sum(state * normal(3, 3, seed=9)) for state in last)
        found.append(tape.gradient(loss, first))
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert relative_error(ours, theirs) < 1e-6


# --- never past the cell ------------------------------------------------------------------------


def forbid_fused_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where cuDNN is: Keras' fused functions exist, and whoever calls them is seen."""
    backend = importlib.import_module("keras.src.backend")

    def taken(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("plain backprop by a fused function")

    for name in ("lstm", "gru", "bidirectional_lstm", "bidirectional_gru"):
        monkeypatch.setattr(backend, name, taken)


@pytest.mark.parametrize("name", slow_but(["LSTM"], ["LSTM", "GRU"]))
@pytest.mark.parametrize("how", slow_but(["converted"], ["by hand", "converted"]))
def test_keras_fused_functions_are_never_taken(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(cls: type[Any], **options: Any) -> keras.Model:
        both = k.Bidirectional(cls(3, return_sequences=True, **options))
        return keras.Sequential([keras.Input(SHAPE[1:]), both, cls(3, **options)])

    plain = model(getattr(k, name))
    if how == "by hand":
        ours = model(getattr(layers, f"Feedback{name}"), rule="fa")
    else:
        ours = tfwm.convert_model(model(getattr(k, name)), "fa")
    forbid_fused_paths(monkeypatch)
    with pytest.raises(AssertionError, match="by a fused function"):
        plain(normal(*SHAPE), training=True)
    ours(normal(*SHAPE), training=True)
    tfwm.strip_feedback(ours)
    with pytest.raises(AssertionError, match="by a fused function"):
        ours.layers[-1](normal(*SHAPE, seed=1)[..., :3], training=True)


def test_cudnn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a_name' \(FeedbackLSTM\) received use_cudnn=True"):
        layers.FeedbackLSTM(3, use_cudnn=True, name="a_name")
    model = keras.Sequential([keras.Input(SHAPE[1:]), k.GRU(3, use_cudnn=True, name="gru")])
    with pytest.raises(ValueError, match=r"'gru' \(GRU\) has use_cudnn=True.*'gru': 'backprop'"):
        tfwm.convert_model(model, "fa")


def test_a_cell_of_ones_own_in_keras_layer_is_refused() -> None:
    class Twice(k.LSTMCell):
        def call(self, *args: Any, **kwargs: Any) -> Any:
            output, states = super().call(*args, **kwargs)
            return 2 * output, states

    lstm = k.LSTM(3, name="lstm")
    lstm.cell = Twice(3)
    model = keras.Sequential([keras.Input(SHAPE[1:]), lstm])
    with pytest.raises(ValueError, match=r"The cell of layer 'lstm' .* of your own \(Twice\)"):
        tfwm.convert_model(model, "fa")


# --- a cell that adds its input ------------------------------------------------------------------


@pytest.mark.parametrize("rule", slow_but(["kp"], RULES))
def test_a_cell_that_adds_its_input_has_the_gradients_of_its_equation(rule: str) -> None:
    cell = layers.FeedbackAddedInputCell(5, rule=RULES[rule])
    layer = build(recurrent("LSTM"), k.RNN(cell, return_sequences=True))
    (pathway,), nothing = cell.pathways, np.zeros(0)
    found = gradients(layer, [tf.constant(normal(*SHAPE))], "graph")
    carrier = np.asarray(pathway.backward_kernel(), "float64")
    kernel = np.asarray(cell.recurrent_kernel, "float64")
    own = AddedInput(nothing, kernel, nothing, carrier, nothing)
    y, d_x = through_time(own, normal(*SHAPE).astype("float64"), error_at)
    assert relative_error(found.output, y) < 1e-5
    assert relative_error(found.inputs[0], d_x) < 1e-5
    (name,) = [name for name in found.weights if name.endswith("/recurrent_kernel")]
    assert relative_error(found.weights[name], own.d_recurrent) < 1e-5
    assert (relative_error(carrier, kernel) < 0.1) == (rule == "bp")


def test_a_cell_that_adds_its_input_keeps_its_rule_and_takes_nothing_else() -> None:
    cell = layers.FeedbackAddedInputCell(5, rule="kp", activation="tanh")
    model = keras.Sequential([keras.Input(SHAPE[1:]), k.RNN(cell)])
    again = keras.models.clone_model(model).layers[0].cell
    assert (again.get_config(), again.rule) == (cell.get_config(), cell.rule)
    assert [weight.name for weight in again.weights] == [
        "recurrent_kernel",
        "feedback_recurrent_kernel",
    ]
    with pytest.raises(ValueError, match="received 'dropout', 'use_bias': it has no input matrix"):
        layers.FeedbackAddedInputCell(5, use_bias=True, dropout=0.1)
    with pytest.raises(ValueError, match="received 5 inputs for 3 units"):
        k.RNN(layers.FeedbackAddedInputCell(3, rule="fa"))(normal(*SHAPE))
