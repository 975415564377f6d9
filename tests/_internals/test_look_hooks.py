"""Canary: the private hooks that looks at a model rely on do what they did."""

import threading
from typing import Any

import keras
import pytest
import tensorflow as tf

from tfweightmirror._internals import look_hooks as hooks
from tfweightmirror._internals.look_hooks import inlining_functions

Function = type(tf.function(lambda: None))


def traced_with_inlining(function: object) -> tf.Graph:
    """The graph of a call of `function` on a vector, its own functions inlined."""

    @tf.function(autograph=False)
    def outer(x: tf.Tensor) -> tf.Tensor:
        return function(x)

    with inlining_functions():
        return outer.get_concrete_function(tf.TensorSpec((3,))).graph


def calls(graph: tf.Graph) -> list[str]:
    """The calls of functions in a graph."""
    return [op.type for op in graph.get_operations() if op.type.endswith("PartitionedCall")]


@tf.function
def doubled_if_positive(x: tf.Tensor) -> tf.Tensor:
    """What only AutoGraph can trace."""
    if tf.reduce_sum(x) > 0:
        x = 2 * x
    return x


def test_functions_are_inlined_and_keep_no_trace() -> None:
    plain = tf.function(lambda x: doubled_if_positive(x) + 1, autograph=False)
    graph = traced_with_inlining(plain)
    assert calls(graph) == []
    assert "If" in {op.type.removeprefix("Stateless") for op in graph.get_operations()}
    assert plain.experimental_get_tracing_count() == 0
    assert doubled_if_positive.experimental_get_tracing_count() == 0


def test_the_context_lists_the_functions_and_puts_everything_back() -> None:
    call = Function.__call__
    with inlining_functions() as outer, inlining_functions() as inner:
        assert Function.__call__ is not call
        assert doubled_if_positive(tf.ones(3)).numpy().tolist() == [2, 2, 2]
    assert [id(f) for f in outer] == [id(f) for f in inner] == [id(doubled_if_positive)]
    assert Function.__call__ is call


def test_other_threads_go_on_with_traced_functions() -> None:
    function = tf.function(lambda x: x + 1)
    with inlining_functions():
        thread = threading.Thread(target=function, args=(tf.ones(3),))
        thread.start()
        thread.join()
    assert function.experimental_get_tracing_count() == 1


def test_compiled_functions_of_keras_stay_functions() -> None:
    def grouped(x: tf.Tensor) -> tf.Tensor:
        images = tf.reshape(tf.tile(x, [12]), (1, 3, 3, 4))
        return keras.ops.conv(images, tf.ones((2, 2, 2, 4)))

    assert len(calls(traced_with_inlining(grouped))) == 1


def test_a_call_that_would_build_a_layer_raises_where_nothing_is_to_be_built() -> None:
    class Unbuilt(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.weightless = keras.layers.Dense(2), keras.layers.ReLU()

        def build(self, shape: Any) -> None:
            pass

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.inner(self.weightless(inputs))

    owner = Unbuilt()
    owner.build((1, 3))
    with hooks.building_nothing([owner.inner, owner.weightless]):
        with pytest.raises(RuntimeError, match="is not built"):
            owner(tf.ones((1, 3)))
        assert not owner.inner.built
    assert owner(tf.ones((1, 3))).shape == (1, 2)


_NOT_ELEMENTWISE = {"glu", "softmax", "log_softmax", "sparsemax"}
# Keras cannot put these into a graph as one operation.
_NO_OPERATION = {"linear", "hard_silu", "hard_swish", "mish", "threshold"}


def test_elementwise_activations_of_keras_are_known_as_operations() -> None:
    inputs = keras.Input((4,))
    names = {n for n, f in vars(keras.activations).items() if callable(f) and n[0] != "_"}
    functions = names - {"get", "serialize", "deserialize"} - _NO_OPERATION - _NOT_ELEMENTWISE
    assert len(functions) > 20
    for name in sorted(functions):
        operation = getattr(keras.activations, name)(inputs)._keras_history.operation
        assert hooks.is_activation(operation), name
    for other in (-inputs, inputs * inputs, keras.ops.abs(inputs), keras.activations.glu(inputs)):
        assert not hooks.is_activation(other._keras_history.operation)


def test_the_options_of_an_operation_tell_it_from_others() -> None:
    inputs = keras.Input((4,))
    one, same, other = (
        hooks.options_of(keras.ops.leaky_relu(inputs, slope)._keras_history.operation)
        for slope in (0.2, 0.2, 0.3)
    )
    assert one == same != other
