"""Canary: every private hook of TensorFlow still does what this library relies on."""

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import chain, compiled, fit, images
from tfweightmirror._internals import tensorflow_hooks as hooks

# `2 x`, whose backward pass is wrong by choice.
twice = hooks.custom_gradient(lambda x: 2.0 * x, lambda tensors, dy: [3.0 * dy])


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_a_custom_gradient_is_taken_eagerly_in_graphs_and_by_a_tape_outside(
    jit_compile: bool | None,
) -> None:
    run = twice if jit_compile is None else tf.function(twice, jit_compile=jit_compile)
    x = tf.constant([1.0, 2.0])
    run(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x)
    assert y.numpy().tolist() == [2.0, 4.0]
    assert tape.gradient(y, x).numpy().tolist() == [3.0, 3.0]


def test_a_custom_gradient_inside_a_loop_and_a_condition() -> None:
    @tf.function
    def run(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, twice(y)), (0, x))[1]
            y = tf.cond(tf.reduce_sum(x) > 0, lambda: twice(y), lambda: y)
        return tape.gradient(y, x)

    assert run(tf.constant(1.0)).numpy() == 27.0


def test_a_graph_without_its_backward_pass_says_so() -> None:
    concrete = tf.function(twice).get_concrete_function(tf.constant(1.0))
    concrete.graph._tfweightmirror_backwards.clear()
    x = tf.Variable(1.0)
    with tf.GradientTape(), pytest.raises(LookupError, match=r"\.keras file"):
        concrete(tf.convert_to_tensor(x))


@pytest.mark.parametrize("rule", ["fa", "brsf"])
def test_a_saved_model_answers_and_refuses_to_send_errors_back(rule: str, tmp_path: Any) -> None:
    """TensorFlow saves one gradient for each name, and ours stands for all layers."""
    x = tf.random.normal((2, 4))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)])
    tfwm.convert_model(model, rule).export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.serve(x), model(x), rtol=1e-5, atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = loaded.serve(x)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\.keras file"):
        tape.gradient(y, x)


def test_a_trace_does_not_keep_the_object_of_a_method_alive() -> None:
    class Doubles:
        def map(self, x: tf.Tensor) -> tf.Tensor:
            return 2.0 * x

    one = Doubles()
    call = hooks.weakly_bound(one.map)
    assert call(2.0) == 4.0
    del one
    with pytest.raises(LookupError, match="keep the model"):
        call(2.0)


def test_what_was_trained_is_forgotten_with_its_traces() -> None:
    model = compiled(tfwm.convert_model(chain(), "fa"))
    fit(model, *images())
    layer = weakref.ref(model.layers[0])
    del model
    keras.backend.clear_session()
    gc.collect()
    assert layer() is None


def test_a_tape_is_known_to_record_in_eager_code_and_while_tracing() -> None:
    seen = {}

    @tf.function
    def traced() -> None:
        seen["outside, traced"] = hooks.tape_records()
        with tf.GradientTape():
            seen["inside, traced"] = hooks.tape_records()

    seen["outside"] = hooks.tape_records()
    with tf.GradientTape():
        seen["inside"] = hooks.tape_records()
    traced()
    assert seen == {
        "outside": False,
        "inside": True,
        "outside, traced": False,
        "inside, traced": True,
    }


def test_a_function_forgets_its_traces() -> None:
    function = tf.function(lambda x: x + 1)
    function(tf.ones(3))
    hooks.forget_traces(function)
    assert function.experimental_get_tracing_count() == 0
    assert function(tf.ones(3)).numpy().tolist() == [2, 2, 2]


@pytest.mark.parametrize("traced", [False, True])
def test_vectorized_calls_refuse_the_error_that_they_would_send_on_w(traced: bool) -> None:
    layer = tfwm.layers.FeedbackDense(3, rule="fa")
    x = tf.random.stateless_normal((4, 5), (0, 0))

    def each(x: tf.Tensor) -> tf.Tensor:
        return tf.vectorized_map(lambda row: layer(row[None])[0], x)

    run = tf.function(each) if traced else each
    np.testing.assert_allclose(layer(x), run(x), atol=1e-6)

    def error() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = run(x)
        return tape.gradient(y, x)

    with pytest.raises(ValueError, match=r"inside tf\.vectorized_map .* would travel on W"):
        error()


def test_errors_sent_back_inside_a_vectorized_call_travel_on_b() -> None:
    layer = tfwm.layers.FeedbackDense(3, rule="fa")
    x = tf.random.stateless_normal((4, 5), (0, 0))
    layer(x)

    def error(row: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(row)
            y = tf.reduce_sum(layer(row[None]))
        return tape.gradient(y, row)

    expected = np.tile(layer.feedback_kernel.numpy().sum(1), (4, 1))
    np.testing.assert_allclose(tf.vectorized_map(error, x), expected, atol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    jacobian = tf.einsum("ajai->aij", tape.jacobian(y, x))
    np.testing.assert_allclose(jacobian, np.tile(layer.feedback_kernel, (4, 1, 1)), atol=1e-6)
