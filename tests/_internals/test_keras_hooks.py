"""Canary: every private hook of Keras and TensorFlow still does what this library relies on."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import backend

from tests.convert_helpers import chain, compiled
from tests.frozen import frozen
from tfweightmirror._internals import keras_hooks as hooks

layers = keras.layers


def dense() -> keras.layers.Dense:
    """A built layer."""
    layer = layers.Dense(3, name="d")
    layer.build((None, 4))
    return layer


class Tripled(layers.Dense):
    """A class to become: other methods, another signature, another weight."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.extra = self.add_weight(name="extra", shape=(2,))

    def call(self, inputs: tf.Tensor, mask: Any = None, training: bool = False) -> tf.Tensor:
        """Three times the parent's, four times in training."""
        return super().call(inputs) * (4 if training else 3)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise RuntimeError("not this one")


def test_child_layers_come_in_tracking_order_and_one_level_deep() -> None:
    inner = keras.Sequential([layers.Dense(2, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="a"), inner])
    assert [child.name for child in hooks.child_layers(model)][-2:] == ["a", "inner"]
    attention = layers.MultiHeadAttention(2, 3)
    attention.build((2, 3, 4), (2, 3, 4))
    names = [child.name for child in hooks.child_layers(attention)]
    assert [n for n in names if n in ("query", "key", "value", "attention_output")] == [
        "query",
        "key",
        "value",
        "attention_output",
    ]


def test_the_outermost_layer_of_a_call_is_known_inside() -> None:
    seen = []

    class Asks(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            seen.append(hooks.outermost_layer(self))
            return inputs

    model = keras.Sequential([Asks()])
    model(np.ones((1, 2)))
    assert seen[-1] is model
    outside = Asks()
    outside.call(tf.ones((1, 2)))  # as Keras rematerializes a layer
    assert seen[-1] is outside


def test_training_is_what_was_given_to_the_present_call_and_nothing_stays_behind() -> None:
    seen = []

    class Asks(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            seen.append(hooks.training_of_call())
            return inputs

    layer, x = Asks(), tf.ones((1, 2))
    model = keras.Sequential([keras.Input((2,)), layer])
    seen.clear()
    model(x, training=True)
    layer(x, training=False)
    layer(x)
    layer.call(x)
    assert seen == [True, False, None, None]


def test_training_that_is_a_default_was_given_by_nobody() -> None:
    seen = []

    class Asks(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            seen.append((hooks.training_of_call(), self._get_call_context().training))
            return inputs

    class PassesOn(layers.Layer):
        def __init__(self, below: keras.layers.Layer) -> None:
            super().__init__()
            self.below = below

        def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            return self.below(inputs, training=training)

    class TakesNone(PassesOn):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.below(inputs)

    x = tf.ones((1, 2))
    functional = keras.Sequential([keras.Input((2,)), layers.Dropout(0.1), Asks()])
    for model in (functional, TakesNone(functional), PassesOn(PassesOn(Asks()))):
        model(x)  # builds it
        seen.clear()
        model(x)
        model(x, training=False)
        model(x, training=True)
        assert seen == [(None, False), (False, False), (True, True)]


def test_calls_are_recorded_in_order_and_nothing_stays_behind() -> None:
    model = chain()
    watched = [model.get_layer("head"), model.get_layer("conv")]
    with hooks.recording_calls_of(watched) as calls:
        model(np.ones((1, 6, 6, 2)))
    assert [call.layer.name for call in calls] == ["conv", "head"]
    assert [tuple(call.inputs.shape[1:]) for call in calls] == [(6, 6, 2), (5,)]
    assert [call.outputs.shape[-1] for call in calls] == [3, 3]
    assert not any("call" in vars(layer) for layer in watched)


def test_a_variable_has_no_value_while_keras_tries_out_shapes() -> None:
    seen = []

    class Asks(layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.weight = self.add_weight(shape=(2,))

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            seen.append(hooks.has_value(self.weight))
            return inputs

    layer = Asks()
    backend.compute_output_spec(layer, keras.Input((2,)))
    layer(tf.ones((1, 2)))
    assert seen == [False, True]


def test_a_built_layer_takes_new_weights_only_in_the_context() -> None:
    layer = dense()
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(name="new", shape=(2,))
    with hooks.adding_weights(layer):
        weight = layer.add_weight(name="new", shape=(2,))
    assert weight.path == "d/new"
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(name="newer", shape=(2,))


def test_an_untracked_weight_is_forgotten_by_the_layer_and_by_checkpoints() -> None:
    layer = dense()
    with hooks.adding_weights(layer):
        layer.new = layer.add_weight(name="new", shape=(2,))
    assert [w.name for w in hooks.own_weights(layer)] == ["kernel", "bias", "new"]
    assert "new" in layer._trackable_children()
    hooks.untrack(layer, layer.new)
    hooks.forget_attribute(layer, "new")
    assert [w.name for w in layer.weights] == ["kernel", "bias"]
    assert "new" not in layer._trackable_children()
    assert not hasattr(layer, "new")


def test_an_inner_layer_s_weight_is_not_the_wrapper_s_own() -> None:
    wrapper = layers.SpectralNormalization(layers.Dense(3))
    wrapper.build((None, 4))
    assert wrapper.kernel is wrapper.layer.kernel
    assert [w.name for w in hooks.own_weights(wrapper)] == ["vector_u"]


def test_a_layer_that_becomes_another_class_runs_its_methods() -> None:
    layer, x = dense(), np.ones((1, 4), "float32")
    output = layer(x).numpy()
    hooks.become(layer, Tripled)
    np.testing.assert_allclose(layer(x), 3 * output)
    np.testing.assert_allclose(layer(x, training=True), 4 * output)
    assert layer._call_has_training_arg
    assert layer._call_has_mask_arg
    with pytest.raises(RuntimeError, match="not this one"):
        layer.quantize("int8")
    hooks.become(layer, layers.Dense)
    assert np.array_equal(layer(x), output)
    layer.quantize("float8")
    assert layer.quantization_mode == "float8"


def test_an_unbuilt_layer_that_becomes_another_class_runs_its_build() -> None:
    layer = layers.Dense(3)
    hooks.become(layer, Tripled)
    keras.Sequential([layer])(np.ones((1, 4)))
    assert [w.name for w in layer.weights] == ["kernel", "bias", "extra"]
    assert layer.get_build_config() == {"input_shape": (1, 4)}
    layer = Tripled(3)
    hooks.become(layer, layers.Dense)
    layer(np.ones((1, 4)))
    assert [w.name for w in layer.weights] == ["kernel", "bias"]


def test_recorded_arguments_can_be_dropped() -> None:
    layer = layers.Dense(3, use_bias=False)
    assert layer._auto_config.config["use_bias"] is False
    hooks.forget_arguments(layer, ["use_bias", "not_there"])
    assert "use_bias" not in layer._auto_config.config
    unknown = layers.Dense(3, kernel_initializer=keras.initializers.Zeros())
    assert unknown._auto_config is None
    hooks.forget_arguments(unknown, ["use_bias"])


def test_after_build_runs_once_and_can_be_undone() -> None:
    ran = []
    layer, other = layers.Dense(3), layers.Dense(3)
    for one in (layer, other):
        hooks.after_build(one, lambda: ran.append(layer.built))
    hooks.forget_after_build(other)
    assert hooks.waits_for_build(layer)
    assert not hooks.waits_for_build(other)
    for one in (layer, other):
        one(np.ones((1, 4)))
    assert ran == [True]
    assert not hooks.waits_for_build(layer)
    hooks.forget_after_build(layer)


def test_models_around_beside_and_inside_are_found() -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    beside = keras.Model(inner.inputs, inner.outputs)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    found = hooks.models_holding(inner.layers)
    for model in (inner, outer, beside):
        assert any(model is one for one in found)
    assert not any(other is one for one in found)
    with frozen():
        found = hooks.models_holding(inner.layers, [outer, inner.layers[0], other])
    assert len(found) == 1
    assert found[0] is outer


def test_traces_of_methods_and_attributes_are_forgotten() -> None:
    traced = []

    class Both(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.attribute = tf.function(lambda x: traced.append("attribute") or x)
            self.listed = {"one": [tf.function(lambda x: traced.append("listed") or x)]}

        @tf.function
        def method(self, x: tf.Tensor) -> tf.Tensor:
            traced.append("method")
            return x

    layer, other = Both(), Both()
    for _ in range(2):
        for one in (layer, other):
            one.attribute(tf.ones(1))
            one.listed["one"][0](tf.ones(1))
            one.method(tf.ones(1))
    assert len(traced) == 6
    hooks.forget_traces(layer)
    traced.clear()
    for one in (layer, other):
        one.attribute(tf.ones(1))
        one.listed["one"][0](tf.ones(1))
        one.method(tf.ones(1))
    assert sorted(traced) == ["attribute", "listed", "method"]


def test_an_optimizers_step_knows_the_place_and_the_decay_of_its_variable() -> None:
    seen = []

    class Asks(keras.optimizers.SGD):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            seen.append((hooks.place_of(variable, self), hooks.decays(variable, self)))

    optimizer, variables = Asks(), [keras.Variable(0.0, name=name) for name in ("one", "other")]
    optimizer.exclude_from_weight_decay(var_names=["other"])
    optimizer.build(variables)
    optimizer.apply([tf.ones(()), tf.ones(())], variables)
    assert seen == [(0, True), (1, False)]


def test_compiled_models_can_be_told_to_trace_again() -> None:
    model = compiled(chain())
    model.make_train_function()
    first = model.train_function
    model.make_train_function()
    assert model.train_function is first
    model.make_train_function(force=True)
    assert model.train_function is not first


def test_a_call_stands_for_itself_and_for_no_other() -> None:
    seen: list[Any] = []

    class Inner(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            seen.append(hooks.present_call())
            return inputs

    class Twice(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.inner(self.inner(inputs))

    model = Twice()
    model(np.ones((1, 2)))  # builds it, in calls of its own
    seen.clear()
    assert hooks.present_call() is None
    model(np.ones((1, 2)))
    model(np.ones((1, 2)))
    assert seen[0] is seen[1]
    assert seen[2] is seen[3]
    assert seen[0] is not seen[2]


def test_variables_are_read_in_their_own_dtype_without_autocast() -> None:
    class Reads(layers.Dense):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            dtypes = [tf.convert_to_tensor(self.kernel).dtype]
            with hooks.without_autocast():
                dtypes.append(tf.convert_to_tensor(self.kernel).dtype)
            dtypes.append(tf.convert_to_tensor(self.kernel).dtype)
            assert dtypes == ["bfloat16", "float32", "bfloat16"]
            return super().call(inputs)

    Reads(3, dtype="mixed_bfloat16")(np.ones((2, 4), "float32"))


@pytest.mark.parametrize("stacked", [False, True])
def test_recurrent_layers_ask_for_masks_before_their_steps_and_reset_them_after(
    stacked: bool,
) -> None:
    told: list[str] = []

    class Cell(layers.SimpleRNNCell):
        def get_dropout_mask(self, step_input: tf.Tensor) -> Any:
            told.append("asked")

        def reset_dropout_mask(self) -> None:
            told.append("reset")

        def call(self, inputs: tf.Tensor, states: Any, training: bool = False) -> Any:
            told.append("step")
            return states[0] + inputs, [states[0] + inputs]

    rnn = layers.RNN([Cell(2)] if stacked else Cell(2))
    rnn.build((2, 3, 2))
    rnn(np.ones((2, 3, 2), "float32"))
    assert told[0] == "asked"
    assert told.count("asked") == told.count("reset") == 1
    assert told[-1] == "reset"
    assert told.count("step") >= 3
