"""Models with recurrent layers: one reading for all steps, pathways, training, saving."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.convert_helpers import assert_b_carries, compiled, fit
from tests.layers.kinds import build, relative_error
from tests.layers.test_recurrent import NAMES, SHAPE, k, normal, recurrent
from tests.slow import slow_but
from tfweightmirror import layers
from tfweightmirror._internals.attendance import mirror_attends

# --- one reading for all steps ------------------------------------------------------------------


def stacked() -> keras.layers.Layer:
    cells = [k.LSTMCell(3, dropout=0.1), k.GRUCell(3), k.SimpleRNNCell(3)]
    return k.RNN(cells, name="stack")


@pytest.mark.slow
@pytest.mark.parametrize("eagerly", [True, False])
def test_magnitudes_are_drawn_once_for_all_steps(eagerly: bool) -> None:
    cells = [k.LSTMCell(3, dropout=0.1), k.SimpleRNNCell(3)]
    below = k.GRU(3, return_sequences=True)
    model = keras.Sequential([keras.Input(SHAPE[1:]), below, k.RNN(cells)])
    tfwm.convert_model(model, "brsf")
    compiled(model, run_eagerly=eagerly)
    for turn in (1, 2):
        fit(model, normal(*SHAPE), normal(3, 3))
        drawn = [int(pathway.state.numpy()[1]) for pathway in tfwm.pathways(model)]
        assert drawn == [turn] * 6
    model.predict(normal(*SHAPE), verbose=0)
    assert [int(p.state.numpy()[1]) for p in tfwm.pathways(model)] == [2] * 6


@pytest.mark.slow
def test_on_two_replicas_magnitudes_are_drawn_once_for_all_steps(
    two_replicas: tf.distribute.Strategy,
) -> None:
    with two_replicas.scope():
        model = keras.Sequential([keras.Input(SHAPE[1:]), stacked()])
        tfwm.convert_model(model, "brsf")
        compiled(model)
    fit(model, normal(4, *SHAPE[1:]), normal(4, 3))
    for pathway in tfwm.pathways(model):
        assert [int(value[1]) for value in pathway.state.value.values] == [1, 1]


class TakesNoTraining(keras.Model):
    """Its recurrent layer's own default says that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = k.SimpleRNN(3), k.Dense(3)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.head(self.rnn(inputs))


def test_where_nobody_says_that_a_layer_trains_the_tape_does() -> None:
    model, x, y = TakesNoTraining(), normal(*SHAPE), normal(3, 3)
    model(x)
    tfwm.convert_model(model, "brsf")
    fit(compiled(model, run_eagerly=True), x, y)
    with tf.GradientTape():
        model(x)
        model(x, training=False)
    model(x)
    model.evaluate(x, y, verbose=0)
    assert [int(p.state.numpy()[1]) for p in tfwm.pathways(model)] == [2, 2, 2]


def test_a_model_that_takes_no_training_is_warned_that_nobody_teaches_b() -> None:
    model, x = TakesNoTraining(), normal(*SHAPE)
    model(x)
    tfwm.convert_model(model, "wm")
    with tf.GradientTape(), pytest.warns(UserWarning, match="nothing teaches its feedback"):
        model(x)


def test_a_cell_called_by_itself_keeps_no_masks_of_conversion() -> None:
    class Steps(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.cell = k.SimpleRNNCell(3, dropout=0.5, recurrent_dropout=0.5)

        def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            state = tf.zeros((3, 3))
            for step in range(2):
                _, (state,) = self.cell(inputs[:, step], [state], training=training)
            return state

    model, x = Steps(), normal(*SHAPE)
    model(x)
    model.cell.reset_dropout_mask()
    model.cell.reset_recurrent_dropout_mask()
    fit(compiled(tfwm.convert_model(model, "fa")), x, normal(3, 3))


def test_a_reading_does_not_outlive_a_call_that_fails() -> None:
    cell = layers.FeedbackSimpleRNNCell(3, rule="fa", activation=None, use_bias=False)
    rnn, x = k.RNN(cell), normal(*SHAPE)
    rnn(x)

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("in the midst of it")

    cell.__dict__["call"] = fails
    with pytest.raises(RuntimeError, match="in the midst"):
        rnn(x)
    del cell.__dict__["call"]
    cell.kernel.assign(2.0 * cell.kernel)
    output, _ = cell(x[:, 0], [np.zeros((3, 3), "float32")])
    np.testing.assert_allclose(output, x[:, 0] @ cell.kernel.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("outside", "inside"),
    slow_but(
        [("mixed_bfloat16", "mixed_bfloat16")],
        itertools.product(["float32", "mixed_bfloat16"], repeat=2),
        unpack=True,
    ),
)
def test_a_cell_reads_in_its_own_precision(outside: str, inside: str) -> None:
    x, found = tf.constant(normal(*SHAPE)), []
    for cls, options in ((k.LSTMCell, {}), (layers.FeedbackLSTMCell, {"rule": "kp"})):
        cell = cls(3, dtype=inside, **options)
        rnn = k.RNN(cell, dtype=outside)
        rnn(x)
        random = np.random.default_rng(1)
        kernels = [random.normal(size=w.shape) for w in (cell.kernel, cell.recurrent_kernel)]
        for name in ("", "feedback_")[: 1 + bool(options)]:
            getattr(cell, f"{name}kernel").assign(kernels[0])
            getattr(cell, f"{name}recurrent_kernel").assign(kernels[1])
        with tf.GradientTape() as tape, mirror_attends():
            tape.watch(x)
            loss = tf.reduce_sum(tf.cast(rnn(x, training=True), "float32") * normal(3, 3))
        found.append(tape.gradient(loss, [x, cell.kernel.value, cell.recurrent_kernel.value]))
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- pathways -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", slow_but([{}], [{}, {"reset_after": False}, {"use_bias": False}])
)
@pytest.mark.parametrize("name", NAMES)
def test_a_pathways_answer_and_bias_are_its_part_of_what_the_cell_adds(
    name: str, options: dict[str, Any]
) -> None:
    kind = recurrent(name, **(options if name == "GRU" or "use_bias" in options else {}))
    cell = build(kind, kind.twin("wm")).cell
    for pathway, site, n in zip(cell.pathways, cell.sites, (5, 3), strict=True):
        x = normal(4, n)
        answer = pathway.respond(tf.constant(x[None]))
        assert relative_error(answer[0], cell.product(site, tf.constant(x))) < 1e-6
        bias = pathway.bias_matrix()
        if cell.bias is None:
            assert bias is None
            continue
        own = cell.bias.numpy()
        expected = own[cell.sites.index(site)] if own.ndim == 2 else own
        np.testing.assert_array_equal(bias[0, 0], expected)


def test_pathways_are_two_a_cell_and_only_a_simple_cell_has_one_activation() -> None:
    model = keras.Sequential(
        [
            keras.Input(SHAPE[1:]),
            k.Bidirectional(k.LSTM(3, return_sequences=True, name="lstm"), name="both"),
            stacked(),
        ]
    )
    found = {p.name: p for p in tfwm.pathways(tfwm.convert_model(model, "wm"))}
    assert len(found) == 10
    ways = [f"both/{way}_lstm/lstm_cell" for way in ("forward", "backward")]
    assert {f"{way}/{name}" for way in ways for name in ("input", "recurrent")} <= found.keys()
    for name, pathway in found.items():
        simple = "simple" in name
        assert (pathway.activation is keras.activations.tanh) == simple, name
        assert (pathway.activation is None) != simple
        assert pathway.fields is None  # of a loop


def of_rnn(**options: Any) -> dict[str, float]:
    """Delta angles of a small network."""
    layer = k.SimpleRNN(3, name="rnn", **options)
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer, k.Dense(3), k.Dense(2)])
    tfwm.convert_model(compiled(model), "fa", seed=1)
    return tfwm.delta_angles(model, normal(*SHAPE), normal(3, 2))


@pytest.mark.slow
def test_delta_angles_of_an_unrolled_layer_are_seen() -> None:
    found = of_rnn(unroll=True)
    assert list(found)[:2] == [f"rnn/simple_rnn_cell/{way}" for way in ("input", "recurrent")]
    assert all(found[name] > 1.0 for name in list(found)[:2])


def test_delta_angles_of_a_loop_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'rnn/simple_rnn_cell/input' cannot be .*unroll=True"):
        of_rnn()


# --- models -------------------------------------------------------------------------------------


def deep() -> keras.Model:
    """Every way in which a model holds recurrent cells."""
    return keras.Sequential(
        [
            keras.Input(SHAPE[1:]),
            k.Dense(4, name="below"),
            k.Bidirectional(k.LSTM(3, return_sequences=True), name="both"),
            k.GRU(3, return_sequences=True, name="gru"),
            k.SimpleRNN(3, return_sequences=True, name="simple"),
            stacked(),
            k.Dense(3, name="head"),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["fa", "kp", "wm", "urfb"])
def test_b_carries_the_error_through_every_recurrent_layer(rule: str) -> None:
    model, x, y = compiled(deep()), normal(*SHAPE), normal(3, 3)
    fit(model, x, y)
    tfwm.convert_model(model, rule)
    cells = [pathway.name for pathway in tfwm.pathways(model) if "cell" in pathway.name]
    assert len(cells) == 14
    order, below = ["both", "gru", "simple", "stack"], {"head": ["below", *cells]}
    for name in (name for name in cells if name.endswith("input")):
        rank = order.index(name.split("/")[0])
        lower = [cell for cell in cells if order.index(cell.split("/")[0]) < rank]
        below[name] = ["below", *lower] if rank else []  # one of two directions
    assert_b_carries(model, x, y, below=below)


@pytest.mark.slow
def test_a_converted_model_answers_as_before_and_comes_back() -> None:
    model, x = deep(), normal(*SHAPE)
    before, config = model.predict(x, verbose=0), model.to_json()
    tfwm.convert_model(model, "kp")
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert len(tfwm.pathways(model)) == 16
    tfwm.strip_feedback(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert model.to_json() == config
    assert not any(type(layer).__module__.startswith("tfw") for layer in model._flatten_layers())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_a_deep_model_comes_back_from_a_file(name: str, tmp_path: Any) -> None:
    model, x = tfwm.convert_model(deep(), "frsf"), normal(*SHAPE)
    if name == "m.keras":
        model.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name)
    else:
        model.save_weights(tmp_path / name)
        loaded = tfwm.convert_model(deep(), "frsf")
        loaded.load_weights(tmp_path / name)
    np.testing.assert_array_equal(loaded(x), model(x))
    for one, other in zip(tfwm.pathways(model), tfwm.pathways(loaded), strict=True):
        assert one.rule == other.rule
        np.testing.assert_array_equal(one.feedback_kernel, other.feedback_kernel)


def trained(model: keras.Model, callback: keras.callbacks.Callback) -> list[np.ndarray]:
    """Train two steps in `fit`; the gaps between B and W before."""
    gaps = [p.feedback_kernel.numpy() - p.kernel.numpy() for p in tfwm.pathways(model)]
    x, y = normal(8, *SHAPE[1:]), normal(8, 3)
    model.fit(in_batches(x, y), epochs=2, callbacks=[callback], shuffle=False, verbose=0)
    return gaps


def follows_kolen_pollack(name: str) -> keras.Model:
    layer = getattr(layers, f"Feedback{name}")(3, rule="kp")
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.5), "mse", jit_compile=False)
    return model


def assert_gaps_shrink(model: keras.Model, gaps: list[np.ndarray]) -> None:
    """By the decay in each of two steps, while W moves otherwise."""
    for pathway, gap in zip(tfwm.pathways(model), gaps, strict=True):
        now = pathway.feedback_kernel.numpy() - pathway.kernel.numpy()
        np.testing.assert_allclose(now, 0.95**2 * gap, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", slow_but(["SimpleRNN"], NAMES))
def test_kolen_pollack_keeps_its_law(name: str) -> None:
    model = follows_kolen_pollack(name)
    before = [pathway.kernel.numpy() for pathway in tfwm.pathways(model)]
    assert_gaps_shrink(model, trained(model, tfwm.callbacks.KolenPollack()))
    for pathway, kernel in zip(tfwm.pathways(model), before, strict=True):
        assert relative_error(pathway.kernel.numpy(), 0.95**2 * kernel) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_two_replicas_kolen_pollack_keeps_its_law(
    name: str, two_replicas: tf.distribute.Strategy
) -> None:
    with two_replicas.scope():
        model = follows_kolen_pollack(name)
    assert_gaps_shrink(model, trained(model, tfwm.callbacks.KolenPollack()))
    for pathway in tfwm.pathways(model):
        for value in pathway.feedback_kernel.value.values:
            np.testing.assert_array_equal(value, pathway.feedback_kernel)


@pytest.mark.parametrize("name", slow_but(["LSTM"], NAMES))
def test_mirror_mode_in_fit_turns_both_bs_to_w(name: str) -> None:
    layer = getattr(layers, f"Feedback{name}")(3, rule="wm")
    model = compiled(keras.Sequential([keras.Input(SHAPE[1:]), layer]))
    gaps = trained(model, tfwm.callbacks.WeightMirror())
    assert [np.abs(gap).max() > 0.3 for gap in gaps] == [True, True]
    assert max(tfwm.weight_angles(model).values()) < 0.1


@pytest.mark.slow
def test_mirror_mode_turns_every_cells_b_to_w() -> None:
    model = tfwm.convert_model(compiled(deep()), "wm")
    callback = tfwm.callbacks.WeightMirror()
    model.fit(normal(*SHAPE), normal(3, 3), callbacks=[callback], verbose=0)
    assert max(tfwm.weight_angles(model).values()) < 0.1
