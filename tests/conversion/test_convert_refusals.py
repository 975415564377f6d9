"""Bad input of `convert_model` and `strip_feedback`: one clear sentence, and nothing changed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import chain

layers = keras.layers
# Keras' own, when it quantizes under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class OwnCall(layers.Dense):
    """A subclass with a forward pass of its own."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Twice the parent's."""
        return 2 * super().call(inputs)


class OwnName(layers.Conv2D):
    """A subclass that changes nothing."""


def of(*members: keras.layers.Layer, shape: tuple[int, ...] = (4,)) -> keras.Model:
    """A model of these layers."""
    return keras.Sequential([keras.Input(shape), *members])


def lora() -> keras.Model:
    model = of(layers.Dense(5), layers.Dense(3, name="head"))
    model.get_layer("head").enable_lora(2)
    return model


def lora_in_attention() -> keras.Model:
    inputs = keras.Input((5, 4))
    attention = layers.MultiHeadAttention(2, 3, name="mha")
    model = keras.Model(inputs, attention(inputs, inputs))
    attention.query_dense.enable_lora(2)
    return model


def quantized() -> keras.Model:
    model = of(layers.Dense(5, name="first"), layers.Dense(3))
    model.get_layer("first").quantize("int8")
    return model


def float8() -> keras.Model:
    return of(layers.Dense(5, name="first", dtype="float8_from_float32"), layers.Dense(3))


def replaced_call() -> keras.Model:
    model = of(layers.Dense(5), layers.Dense(3, name="head"))
    model.get_layer("head").call = lambda inputs: inputs
    return model


def with_attention() -> keras.Model:
    inputs = keras.Input((5, 4))
    return keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs))


def convolving_in_time() -> keras.Model:
    return of(layers.ConvLSTM1D(3, 2, name="lstm"), layers.Dense(3), shape=(5, 4, 2))


def recurrent() -> keras.Model:
    return of(layers.SimpleRNN(3, name="rnn"), shape=(5, 4))


def converted() -> keras.Model:
    return tfwm.convert_model(chain(), "fa")


@dataclasses.dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        name: Test id.
        model: Makes the model (or what is no model).
        rule: The argument `rule`.
        says: Pieces that the sentence must contain: what came, what was expected, what to do.
        options: Other arguments.
    """

    name: str
    model: Callable[[], Any]
    rule: Any
    says: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


BAD = [
    Bad("no_model", lambda: layers.Dense(3), "fa", ("Expected a Keras model", "Dense", "Wrap")),
    Bad("none", lambda: None, "fa", ("Expected a Keras model", "NoneType")),
    Bad("unknown_rule", chain, "wmm", ("'wmm'", "Known:", "Did you mean 'wm'?")),
    Bad("unknown_rule_in_dict", chain, {"*": "fb"}, ("'fb'", "Known:", "Did you mean")),
    Bad("unknown_last_rule", chain, "fa", ("'bpp'", "'bp'?"), {"last_layer": "bpp"}),
    Bad("no_rule", chain, None, ("None", "Known:")),
    Bad("no_patterns", chain, {}, ("empty dict of patterns", "'*'")),
    Bad(
        "pattern_matches_nothing",
        chain,
        {"hiden": "fa"},
        ("'hiden' matches no layer", "joined by slashes", "Did you mean 'hidden'?"),
    ),
    Bad(
        "pattern_names_a_cell",
        recurrent,
        {"rnn/simple_rnn_cell": "fa"},
        ("a part of 'rnn' (SimpleRNN), which has one rule",),
    ),
    Bad("pattern_names_a_pathway", recurrent, {"rnn/x/input": "fa"}, ("a part of 'rnn'",)),
    Bad(
        "pattern_on_an_unbuilt_model",
        lambda: chain(with_input=False),
        {"late": "fa"},
        ("'late' matches no layer", "may not exist yet", "Build the model first"),
    ),
    Bad(
        "pattern_after_a_wider_one",
        chain,
        {"*": "fa", "head": "bp"},
        ("'head' decides about no layer", "'*'", "put the narrower pattern first"),
    ),
    Bad(
        "pattern_on_unsupported_layer",
        convolving_in_time,
        {"lstm": "fa", "dense*": "fa"},
        (
            "'fa' on an unsupported".replace("fa", "feedback_alignment"),
            "'lstm' (ConvLSTM1D)",
            "Dense",
        ),
    ),
    Bad(
        "pattern_on_a_model",
        lambda: of(keras.Sequential([layers.Dense(3)], name="inner"), layers.Dense(3)),
        {"inner": "fa"},
        ("'inner' (Sequential)", "write 'inner/*'"),
    ),
    Bad(
        "pattern_on_a_part_of_attention",
        with_attention,
        {"mha/query": "fa"},
        ("'mha/query' matches no layer", "'mha'"),
    ),
    Bad(
        "nothing_supported",
        lambda: of(layers.Embedding(3, 4), layers.Flatten()),
        "fa",
        ("Nothing to convert", "Embedding, Flatten", "Supported: Dense"),
    ),
    Bad("no_layers_yet", keras.Sequential, "fa", ("Nothing to convert", "build it first")),
    Bad(
        "only_a_classifier",
        lambda: of(layers.Dense(3)),
        "fa",
        ("Nothing to convert", "left to 'backprop'"),
        {"last_layer": "backprop"},
    ),
    Bad("only_backprop", chain, {"*": "backprop"}, ("Nothing to convert", "left to 'backprop'")),
    Bad(
        "converted_twice",
        converted,
        "kp",
        ("'conv' (FeedbackConv2D)", "already", "'feedback_alignment'", "strip_feedback(model)"),
    ),
    Bad("converted_twice_by_pattern", converted, {"head": "kp"}, ("'head'", "already")),
    Bad(
        "own_call",
        lambda: of(layers.Dense(5), OwnCall(3, name="mine")),
        "fa",
        ("'mine' is a OwnCall", "subclass of Dense with a `call` of its own", "FeedbackDense"),
    ),
    Bad(
        "own_subclass",
        lambda: of(OwnName(2, 3, name="mine"), shape=(5, 5, 2)),
        "fa",
        ("'mine' is a OwnName, a subclass of Conv2D,", "FeedbackConv2D", "{'mine': 'backprop'"),
    ),
    Bad("replaced_call", replaced_call, "fa", ("`call` of layer 'head'", "replaced", "pattern")),
    Bad("lora", lora, "fa", ("'head' (Dense) uses LoRA", "patterns")),
    Bad("lora_in_attention", lora_in_attention, "fa", ("'query' (EinsumDense) uses LoRA",)),
    Bad("quantized", quantized, "fa", ("'first' (Dense) uses quantization", "patterns")),
    Bad("float8", float8, "fa", ("'first' (Dense) uses quantization",)),
    Bad(
        "batch_label",
        lambda: keras.Sequential([layers.EinsumDense("ab,abc->ac", 3, name="e")]),
        "fa",
        ("'e' with equation 'ab,abc->ac'", "batch label 'a'", "patterns"),
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_input_is_refused_in_one_sentence_and_changes_nothing(bad: Bad) -> None:
    model = bad.model()
    before = _state(model)
    with pytest.raises(ValueError) as caught:
        tfwm.convert_model(model, bad.rule, **bad.options)
    for piece in bad.says:
        assert piece in str(caught.value)
    assert len(str(caught.value)) < 700
    assert _state(model) == before


def _state(model: Any) -> list[Any]:
    """Classes, attributes and weights of every layer."""
    if not isinstance(model, keras.Model):
        return []
    return [
        (type(layer), sorted(vars(layer)), [id(weight) for weight in layer.weights])
        for layer in model._flatten_layers()
    ]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lora, "head"),
        (quantized, "first"),
        (replaced_call, "head"),
        (lambda: of(layers.Dense(4), OwnCall(3, name="mine")), "mine"),
    ],
    ids=["lora", "quantized", "replaced_call", "own_call"],
)
def test_what_is_refused_can_be_left_to_backprop_by_a_pattern(model: Any, name: str) -> None:
    model = tfwm.convert_model(model(), {name: "backprop", "*": "fa"})
    assert len(tfwm.pathways(model)) == 1
    assert not isinstance(model.get_layer(name), tfwm.layers.FeedbackDense)


def test_an_error_in_the_middle_leaves_the_model_as_it_was() -> None:
    @dataclasses.dataclass(frozen=True)
    class Fails(tfwm.rules.FeedbackRule):
        name = "fails"

        def default_initializer(self, fans: Any) -> Any:
            if fans.fan_out == 3 and not fans.convolutional:
                raise RuntimeError("no magnitudes for the head")

    model = chain()
    before, outputs = _state(model), model(np.ones((2, 6, 6, 2))).numpy()
    with pytest.raises(RuntimeError, match="no magnitudes for the head"):
        tfwm.convert_model(model, Fails())
    assert _state(model) == before
    assert np.array_equal(model(np.ones((2, 6, 6, 2))), outputs)
    tfwm.convert_model(model, "fa")


def test_a_converted_layer_refuses_lora_and_quantization() -> None:
    model = converted()
    with pytest.raises(ValueError, match=r"'head' \(FeedbackDense\) uses quantization"):
        model.get_layer("head").quantize("int8")
    with pytest.raises(ValueError, match=r"'head' \(FeedbackDense\) uses LoRA"):
        model.get_layer("head").enable_lora(2)


class OwnFeedback(tfwm.layers.FeedbackDense):
    """A feedback layer of the user's own."""


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: layers.Dense(3), ("Expected a Keras model", "Dense")),
        (chain, ("no feedback layer to strip", "convert_model(model, rule)")),
        (
            lambda: of(OwnFeedback(3, rule="fa", name="mine")),
            ("'mine' is a OwnFeedback", "no plain Keras class", "copy the weights"),
        ),
        (
            lambda: of(layers.RNN(tfwm.layers.FeedbackAddedInputCell(4, rule="fa")), shape=(5, 4)),
            ("_cell' is a FeedbackAddedInputCell", "no plain Keras class"),
        ),
    ],
    ids=["no_model", "nothing_to_strip", "own_feedback_layer", "cell_that_keras_has_not"],
)
def test_bad_input_of_strip_feedback(model: Any, says: tuple[str, ...]) -> None:
    model = model()
    before = _state(model)
    with pytest.raises(ValueError) as caught:
        tfwm.strip_feedback(model)
    for piece in says:
        assert piece in str(caught.value)
    assert _state(model) == before
