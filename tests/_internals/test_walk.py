"""How pathways are found, named and ordered, and which of them send an error back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import Kind
from tests.mirror.mirroring import model_of


def dense(units: int, name: str, **options: Any) -> keras.layers.Layer:
    """A feedback layer that carries the error on B."""
    return tfwm.layers.FeedbackDense(units, rule="fa", name=name, **options)


def names_of(model: keras.layers.Layer) -> list[str]:
    """Pathway names in order."""
    return [pathway.name for pathway in tfwm.pathways(model)]


def sends(model: keras.layers.Layer) -> dict[str, bool | None]:
    """Whether a pathway sends an error back, by name, in order."""
    return {pathway.name: pathway.sends_error_back for pathway in tfwm.pathways(model)}


class HeadFirst(keras.Model):
    """A model that lists its layers from output to input."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head = dense(2, "head")
        self.blocks = [dense(3, "second"), dense(3, "first")]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """First, second, head."""
        return self.head(self.blocks[0](self.blocks[1](inputs)))


# --- order --------------------------------------------------------------------------------------


def test_order_is_that_in_which_signals_pass_not_that_in_which_layers_are_listed() -> None:
    model = HeadFirst()
    model(tf.ones((1, 4)))
    assert sends(model) == {"first": False, "second": True, "head": True}
    assert names_of(model) == ["first", "second", "head"]


def test_order_crosses_nested_models() -> None:
    body = HeadFirst(name="body")
    head = dense(2, "last")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, head(body(dense(4, "before")(inputs))))
    assert names_of(model) == ["before", "body/first", "body/second", "body/head", "last"]


def test_order_in_a_functional_model_is_not_that_of_its_making() -> None:
    late, early = dense(3, "late"), dense(3, "early")
    late.build((None, 3))
    inputs = keras.Input((3,))
    assert names_of(keras.Model(inputs, late(early(inputs)))) == ["early", "late"]


def test_layers_that_the_model_does_not_call_come_last() -> None:
    class Spare(HeadFirst):
        def __init__(self) -> None:
            super().__init__()
            self.blocks.insert(0, dense(5, "spare"))
            self.blocks[0].build((None, 3))

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.head(self.blocks[1](self.blocks[2](inputs)))

    model = Spare()
    model(tf.ones((1, 4)))
    assert sends(model) == {"first": False, "second": True, "head": True, "spare": None}
    assert names_of(model)[-1] == "spare"


def test_without_an_input_shape_order_is_that_of_tracking_and_sending_is_not_known() -> None:
    model = HeadFirst()
    for layer, width in ((model.head, 3), *zip(model.blocks, (3, 4), strict=True)):
        layer.build((None, width))
    assert sends(model) == {"head": None, "second": None, "first": None}
    assert names_of(model) == ["head", "second", "first"]
    # Once it has been called, its input shape is known.
    model(tf.ones((1, 4)))
    assert names_of(model) == ["first", "second", "head"]
    assert sends(model) == {"first": False, "second": True, "head": True}


def test_a_model_that_cannot_be_called_symbolically_is_walked_as_tracked() -> None:
    class Eager(HeadFirst):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return super().call(tf.constant(inputs.numpy()))

    model = Eager()
    model(tf.ones((1, 4)))
    assert sends(model) == {"head": None, "second": None, "first": None}
    assert names_of(model) == ["head", "second", "first"]


def test_a_layer_with_two_kernels_has_two_pathways_in_order() -> None:
    separable = tfwm.layers.FeedbackSeparableConv1D(4, 3, rule="fa", name="mix")
    model = keras.Sequential([keras.Input((6, 3)), separable, dense(2, "head")])
    assert sends(model) == {"mix/depthwise": False, "mix/pointwise": True, "head": True}
    assert names_of(model) == ["mix/depthwise", "mix/pointwise", "head"]


def test_a_single_layer_is_a_model_of_its_own() -> None:
    layer = dense(2, "alone")
    layer.build((None, 3))
    assert names_of(layer) == ["alone"]
    assert tfwm.pathways(layer)[0].kernel is layer.kernel


def test_a_model_without_feedback_layers_has_no_pathways() -> None:
    assert tfwm.pathways(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])) == []


# --- names --------------------------------------------------------------------------------------


def chain(layers: Sequence[keras.layers.Layer], name: str, width: int = 3) -> keras.Sequential:
    """A built Sequential model."""
    return keras.Sequential([keras.Input((width,)), *layers], name=name)


def test_layers_of_one_name_in_two_nested_models_are_named_by_their_owners() -> None:
    one, other = chain([dense(3, "d")], "one"), chain([dense(3, "d")], "other")
    model = chain([one, other, dense(2, "d")], "outer")
    assert names_of(model) == ["one/d", "other/d", "d"]
    assert len({id(pathway.kernel) for pathway in tfwm.pathways(model)}) == 3


class Listed(keras.Model):
    """A model that calls the layers of a list in turn: nothing keeps their names apart."""

    def __init__(self, layers: Sequence[keras.layers.Layer]) -> None:
        super().__init__()
        self.blocks = list(layers)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """One after another."""
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


@pytest.mark.parametrize(
    ("given", "unique"),
    [
        (["d", "d"], ["d", "d_1"]),
        (["d", "e", "d", "d"], ["d", "e", "d_1", "d_2"]),
        # Keras counts in the same way, and starts anew in `clear_session`.
        (["d", "d_1", "d"], ["d", "d_1", "d_2"]),
        (["d", "d", "d_1"], ["d", "d_1", "d_1_1"]),
    ],
)
def test_layers_of_one_name_in_one_owner_are_counted(given: list[str], unique: list[str]) -> None:
    model = Listed([dense(3, name) for name in given])
    model(tf.ones((1, 3)))
    assert names_of(model) == unique
    kernels = [pathway.kernel for pathway in tfwm.pathways(model)]
    assert all(k is block.kernel for k, block in zip(kernels, model.blocks, strict=True))


def test_the_name_of_the_model_itself_is_not_in_the_names() -> None:
    assert names_of(chain([dense(2, "d")], "net")) == ["d"]


# --- places -------------------------------------------------------------------------------------


def places_of(model: keras.layers.Layer) -> list[int]:
    """Places of the pathways, in execution order."""
    return [pathway.place for pathway in tfwm.pathways(model)]


def test_places_know_no_names_no_freezing_and_no_other_choice_of_layers() -> None:
    def network() -> keras.Model:
        k, x = keras.layers, keras.Input((6, 3))
        low = k.SeparableConv1D(4, 3)
        body = keras.Sequential([k.Dense(4, activation="relu"), k.Dense(4)])
        return keras.Model(x, k.Dense(2)(body(low(x))))

    one, other, third = (network() for _ in range(3))  # the names that Keras gives count up
    for model in (one, other):
        tfwm.convert_model(model, "fa")
    assert names_of(one) != names_of(other)
    places = places_of(one)
    assert len(set(places)) == 5  # two kernels of one layer, nested layers
    assert places_of(other) == places
    other.layers[2].trainable = False
    assert places_of(other) == places
    tfwm.convert_model(third, {f"{third.layers[2].name}/*": "fa"})
    assert places_of(third) == [places[2], places[3]]


def test_places_stay_when_a_model_learns_its_execution_order_and_when_it_is_loaded(
    tmp_path: Path,
) -> None:
    model = HeadFirst()
    for layer, width in ((model.head, 3), *zip(model.blocks, (3, 4), strict=True)):
        layer.build((None, width))
    before = {pathway.name: pathway.place for pathway in tfwm.pathways(model)}
    model(tf.ones((1, 4)))
    assert {pathway.name: pathway.place for pathway in tfwm.pathways(model)} == before
    saved = keras.Sequential([dense(3, "d"), dense(2, "e")])
    saved(tf.ones((1, 4)))
    saved.compile("sgd", "mse")
    places = places_of(saved)
    saved.fit(tf.ones((2, 4)), tf.ones((2, 2)), verbose=0)
    saved.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert places == places_of(saved) == places_of(loaded)


# --- every layer once ---------------------------------------------------------------------------


def test_a_shared_layer_is_one_pathway_at_its_first_call() -> None:
    shared = dense(3, "shared")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, dense(2, "head")(shared(dense(3, "middle")(shared(inputs)))))
    # Its first input needs no gradient, its second does.
    assert sends(model) == {"shared": True, "middle": True, "head": True}
    assert names_of(model) == ["shared", "middle", "head"]


def test_a_shared_layer_sends_an_error_back_if_any_of_its_calls_does() -> None:
    class Shared(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.low = dense(3, "shared"), dense(3, "low")

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.shared(self.low(inputs)) + self.shared(inputs)

    model = Shared()
    model(tf.ones((1, 3)))
    assert sends(model) == {"low": False, "shared": True}


def test_a_layer_in_two_nested_models_is_one_pathway_of_its_first_owner() -> None:
    shared = dense(3, "shared")
    one, other = chain([shared], "one"), chain([shared, dense(3, "own")], "other")
    assert names_of(chain([one, other], "outer")) == ["one/shared", "other/own"]


def test_wrapped_layers_are_found_at_their_place() -> None:
    each = keras.layers.TimeDistributed(dense(3, "inner"), name="each")
    model = keras.Sequential([keras.Input((5, 4)), dense(4, "before"), each, dense(2, "head")])
    assert sends(model) == {"before": False, "each/inner": True, "head": True}
    assert names_of(model) == ["before", "each/inner", "head"]


def test_projections_of_attention_are_pathways_of_their_own() -> None:
    kind = Kind("attention", "MultiHeadAttention", {"num_heads": 2, "key_dim": 3}, ((2, 4, 6),) * 2)
    assert names_of(model_of([kind])) == [
        f"attention/{part}" for part in ("query", "key", "value", "attention_output")
    ]


# --- which send an error back -------------------------------------------------------------------


def test_the_first_layer_sends_no_error_back_and_the_others_do() -> None:
    model = chain([dense(3, "a"), keras.layers.ReLU(), dense(3, "b"), dense(2, "c")], "net")
    assert sends(model) == {"a": False, "b": True, "c": True}


@pytest.mark.parametrize(
    ("below", "needed"),
    [
        (keras.layers.BatchNormalization(), True),
        (keras.layers.LayerNormalization(), True),
        (keras.layers.Embedding(7, 3), True),
        (keras.layers.PReLU(), True),
        # Statistics and constants are variables, but nothing learns there.
        (keras.layers.BatchNormalization(center=False, scale=False), False),
        (keras.layers.Rescaling(2.0), False),
        (keras.layers.Dropout(0.5), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_first_layer_sends_an_error_back_to_what_learns_below(
    below: keras.layers.Layer, needed: bool
) -> None:
    assert sends(chain([below, dense(2, "d")], "net")) == {"d": needed}


def test_nothing_is_sent_to_frozen_layers() -> None:
    low, norm = dense(3, "low"), keras.layers.BatchNormalization()
    model = chain([low, norm, dense(3, "middle"), dense(2, "top")], "net")
    low.trainable = norm.trainable = False
    assert sends(model) == {"low": False, "middle": False, "top": True}


def test_branches_are_told_apart() -> None:
    one, other = keras.Input((3,), name="one"), keras.Input((4,), name="other")
    deep = dense(3, "b")(dense(3, "a")(one))
    joined = keras.layers.Concatenate()([deep, dense(3, "side")(other)])
    model = keras.Model([one, other], dense(2, "head")(joined))
    found = sends(model)
    assert found == {"a": False, "b": True, "side": False, "head": True}
    order = list(found)
    assert order.index("a") < order.index("b") < order.index("head") == 3


def test_models_with_named_inputs_are_called_by_name() -> None:
    inputs = {"left": keras.Input((3,), name="left"), "right": keras.Input((5,), name="right")}
    low = [dense(4, "of_right")(inputs["right"]), dense(4, "of_left")(inputs["left"])]
    model = keras.Model(inputs, dense(2, "head")(keras.layers.Add()(low)))
    found = sends(model)
    assert found == {"of_right": False, "of_left": False, "head": True}
    assert list(found)[-1] == "head"


class Two(keras.Model):
    """A subclassed model of two inputs of different width."""

    def __init__(self) -> None:
        super().__init__()
        self.head = dense(2, "head")
        self.right = dense(4, "of_right")
        self.left = dense(4, "of_left")

    def joined(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Left, right, head."""
        return self.head(self.left(left) + self.right(right))


class TwoInDict(Two):
    def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        return self.joined(inputs["left"], inputs["right"])


class TwoInList(Two):
    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        return self.joined(*inputs)


class TwoArguments(Two):
    def call(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return self.joined(left, right)


class TwoArgumentsBuilt(TwoArguments):
    def build(self, left_shape: tuple[int, ...], right_shape: tuple[int, ...]) -> None:
        self.left.build(left_shape)
        self.right.build(right_shape)
        self.head.build((None, 4))


@pytest.mark.parametrize("how", ["dict", "list", "arguments"])
def test_subclassed_models_of_two_inputs_are_ordered(how: str) -> None:
    left, right = tf.ones((1, 3)), tf.ones((1, 5))
    if how == "dict":
        model: Two = TwoInDict()
        model({"left": left, "right": right})
    elif how == "list":
        model = TwoInList()
        model([left, right])
    else:
        model = TwoArgumentsBuilt()
        model(left, right)
    assert names_of(model) == ["of_left", "of_right", "head"]
    assert sends(model) == {"of_left": False, "of_right": False, "head": True}


def test_of_two_arguments_keras_keeps_one_shape_unless_the_model_builds_itself() -> None:
    model = TwoArguments()
    model(tf.ones((1, 3)), tf.ones((1, 5)))
    assert sends(model) == {"head": None, "of_right": None, "of_left": None}
    assert names_of(model) == ["head", "of_right", "of_left"]


# --- what changes -------------------------------------------------------------------------------


def test_freezing_is_seen_at_the_next_walk() -> None:
    low = dense(3, "low")
    model = chain([low, dense(3, "middle"), dense(2, "top")], "net")
    assert sends(model)["middle"] is True
    low.trainable = False
    assert sends(model) == {"low": False, "middle": False, "top": True}
    low.trainable = True
    assert sends(model)["middle"] is True


def test_conversion_and_stripping_are_seen_at_the_next_walk() -> None:
    plain = [keras.layers.Dense(3, name=name) for name in ("a", "b", "c")]
    model = chain(plain, "net")
    assert names_of(model) == []
    tfwm.convert_model(model, {"b": "fa"})
    assert sends(model) == {"b": True}
    tfwm.convert_model(model, {"a": "wm", "c": "kp"})
    assert sends(model) == {"a": False, "b": True, "c": True}
    tfwm.strip_feedback(model)
    assert names_of(model) == []


def test_layers_that_a_model_gains_are_seen_at_the_next_walk() -> None:
    model = chain([dense(3, "a")], "net")
    assert names_of(model) == ["a"]
    model.add(dense(2, "b"))
    assert sends(model) == {"a": False, "b": True}
    model.pop()
    assert names_of(model) == ["a"]


def test_a_layer_in_the_place_of_another_is_seen_at_the_next_walk() -> None:
    model = chain([dense(3, "a"), dense(2, "b")], "net")
    assert sends(model) == {"a": False, "b": True}
    model.pop()
    model.add(dense(2, "c"))
    assert sends(model) == {"a": False, "c": True}


def test_walking_changes_nothing_and_calls_no_layer_twice() -> None:
    calls = []

    class Counting(HeadFirst):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            calls.append(inputs.shape)
            return super().call(inputs)

    model = Counting()
    model(tf.ones((1, 4)))
    before = [variable.numpy() for variable in model.variables]
    calls.clear()
    tfwm.pathways(model)
    tfwm.pathways(model)
    assert len(calls) == 1  # The second walk of an unchanged model needs no call.
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_statistics_and_random_streams_do_not_move() -> None:
    layers = [dense(3, "a"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = chain([*layers, tfwm.layers.FeedbackDense(2, rule="brsf", name="b")], "net")
    before = [variable.numpy() for variable in model.variables]
    assert names_of(model) == ["a", "b"]
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [lambda: keras.Sequential([dense(2, "d")]), lambda: Listed([dense(2, "d")])],
    ids=["sequential", "subclassed"],
)
def test_a_feedback_layer_that_is_not_built_is_named(model: Any) -> None:
    unbuilt = model()
    with pytest.raises(ValueError, match="'d' has no pathways before it is built"):
        tfwm.pathways(unbuilt)
    unbuilt(tf.ones((1, 3)))
    assert sends(unbuilt) == {"d": False}


def test_receptive_fields_of_an_example_are_counted() -> None:
    shared = keras.layers.Dense(5, name="shared")
    x = inputs = keras.Input((9, 9, 2))
    x = keras.layers.Conv2D(4, 3, name="conv")(x)  # to 7 x 7
    x = keras.layers.SeparableConv2D(6, 3, strides=2, name="separable")(x)  # to 3 x 3
    x = keras.layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    x = shared(keras.layers.Reshape((9, 4))(x))
    x = shared(keras.layers.Dense(4, name="middle")(x))
    outputs = keras.layers.Dense(2, name="head")(keras.layers.Flatten()(x))
    model = tfwm.convert_model(keras.Model(inputs, outputs), "wm")
    fields = {p.name: p.fields for p in tfwm.pathways(model)}
    assert fields == {
        "conv": 49,
        "separable/depthwise": 9,
        "separable/pointwise": 9,
        "grouped": 9,
        "shared": 18,
        "middle": 9,
        "head": 1,
    }
    any_size = keras.Sequential([keras.Input((None, None, 2)), keras.layers.Conv2D(4, 3)])
    (pathway,) = tfwm.pathways(tfwm.convert_model(any_size, "wm"))
    assert pathway.fields is None


def test_what_is_no_layer_is_refused_in_a_sentence() -> None:
    for look in (tfwm.pathways, tfwm.weight_angles, tfwm.norm_ratios):
        with pytest.raises(ValueError, match=r"built Keras model or layer\. Received: ndarray"):
            look(np.ones(3))
