"""`untie` gives every position of a convolution its own copy of W and B, and changes no output."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import assert_b_carries, chain, compiled, fit, images
from tests.layers.kinds import relative_error
from tests.slow import slow_but
from tfweightmirror import layers
from tfweightmirror.callbacks import KolenPollack
from tfweightmirror.conversion import untie

k = keras.layers


def two_convolutions(**options: Any) -> keras.Sequential:
    """Two convolutions in line, and a head."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            k.Conv2D(3, 3, activation="tanh", name="low", **options),
            k.Conv2D(4, (2, 3), activation="tanh", name="high", padding="same", strides=2),
            k.Flatten(),
            k.Dense(3, name="head"),
        ]
    )


def nested() -> keras.Model:
    """A convolution in a model in a model, and one in a line."""
    inside = keras.Sequential([keras.Input((6, 6, 2)), k.Conv2D(3, 3, name="conv")], name="inside")
    line = [k.Reshape((16, 3)), k.Conv1D(2, 5, strides=3, name="line")]
    return keras.Sequential(
        [keras.Input((6, 6, 2)), inside, *line, k.Flatten(), k.Dense(3, name="head")]
    )


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.Model):
    """A model of a user's own that makes its convolutions itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low = k.Conv2D(3, 3, activation="tanh", name="low")
        self.high = k.Conv2D(4, 2, padding="same", activation="tanh", name="high")
        self.head = k.Dense(3, name="head")

    def build(self, input_shape: Any) -> None:
        self.low.build((None, 6, 6, 2))
        self.high.build((None, 4, 4, 3))
        self.head.build((None, 64))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Convolve, flatten, read out."""
        return self.head(tf.reshape(self.high(self.low(x)), (-1, 64)))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def own() -> keras.Model:
    """`Own`, built."""
    model = Own()
    model(images()[0])
    return model


def trained(make: Callable[[], keras.Model], rule: str | None, **options: Any) -> keras.Model:
    """A model, converted, compiled with momentum, and trained by a step."""
    keras.utils.set_random_seed(2)
    model = make()
    if rule is not None:
        tfwm.convert_model(model, rule, seed=5)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **options)
    model.compile(optimizer, "mse", run_eagerly=True)
    fit(model, *images())
    return model


# --- what stays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", slow_but(["brsf"], [None, "fa", "kp", "frsf", "brsf"]))
@pytest.mark.parametrize("make", slow_but([two_convolutions], [two_convolutions, nested, own]))
def test_outputs_stay_and_every_position_has_its_copy(
    make: Callable[[], keras.Model], rule: str | None
) -> None:
    model = trained(make, rule)
    x, _ = images()
    output = model.predict(x, verbose=0)
    convs = [layer for layer in model._flatten_layers() if isinstance(layer, k.Conv1D | k.Conv2D)]
    assert len(convs) == 2
    before = [{w.name: w.numpy() for w in conv.weights} for conv in convs]
    assert untie(model) is model
    assert relative_error(model.predict(x, verbose=0), output) < 1e-5
    prefix = "Feedback" if rule else ""
    for layer, weights in zip(convs, before, strict=True):
        assert type(layer).__name__ == f"{prefix}LocallyConnected{layer.rank}D"
        assert [weight.name for weight in layer.weights] == list(weights)
        for weight in layer.weights:
            tied = weights[weight.name]
            if weight.name == "feedback_state":
                np.testing.assert_array_equal(weight, tied)
                continue
            assert weight.ndim == tied.ndim + layer.rank
            copies = np.broadcast_to(tied, weight.shape)
            if weight.shape == layer.kernel.shape and layer.synapses is not None:
                copies = np.where(layer.synapses, copies, 0.0)
            np.testing.assert_array_equal(weight, copies)


def test_frozen_kernels_stay_frozen() -> None:
    model = two_convolutions()
    model.get_layer("low").trainable = False
    model.get_layer("high").bias.trainable = False
    tfwm.convert_model(model, "kp")
    untie(model)
    assert not model.get_layer("high").bias.trainable
    assert not model.get_layer("low").trainable_weights
    assert len(model.get_layer("high").trainable_weights) == 2
    model.get_layer("low").trainable = True
    assert len(model.get_layer("low").trainable_weights) == 3


def test_the_pattern_says_which() -> None:
    model = untie(two_convolutions(), "h*")
    assert type(model.get_layer("low")) is k.Conv2D
    assert type(model.get_layer("high")) is layers.LocallyConnected2D
    assert type(model.get_layer("head")) is k.Dense


# --- training goes on ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", slow_but(["fa"], ["fa", "wm"]))
def test_errors_travel_on_the_untied_b_in_the_compiled_step(rule: str) -> None:
    model = compiled(tfwm.convert_model(two_convolutions(), rule))
    x, y = images()
    fit(model, x, y)
    untie(model)
    fit(model, x, y)
    assert_b_carries(model, x, y)


@pytest.mark.slow
def test_a_step_s_changes_of_the_copies_add_up_to_that_of_the_tied_kernel() -> None:
    x, y = images()
    changes = []
    for then in (lambda model: model, untie):
        keras.utils.set_random_seed(2)
        model = compiled(two_convolutions(), run_eagerly=True)
        fit(model, x, y)
        then(model)
        before = [weight.numpy() for weight in model.weights]
        fit(model, x, y)
        changes.append([w.numpy() - b for w, b in zip(model.weights, before, strict=True)])
    for tied, untied in zip(*changes, strict=True):
        added = untied.sum(axis=tuple(range(untied.ndim - tied.ndim)))
        assert relative_error(added, tied) < 1e-4
    first = changes[1][0]  # from now on positions differ
    assert np.abs(first - first[:1, :1]).max() > 1e-4


def test_the_optimizer_keeps_what_it_knows_of_the_other_weights() -> None:
    model = trained(two_convolutions, "kp")
    optimizer = model.optimizer
    momentum = {v.path.split("/")[-1]: v.numpy() for v in optimizer.variables}
    untie(model, "low")
    assert model.optimizer is optimizer
    assert optimizer.iterations.numpy() == 1
    known = {v.path.split("/")[-1]: v for v in optimizer.variables}
    assert known.keys() == momentum.keys()
    for name, variable in known.items():
        if "low_" in name:
            assert variable.ndim == momentum[name].ndim + 2
            assert not np.any(variable)
        else:
            np.testing.assert_array_equal(variable, momentum[name])
    fit(model, *images())
    (slot,) = [v for name, v in known.items() if name.endswith("low_kernel_momentum")]
    assert np.any(slot)


@pytest.mark.slow
def test_kolen_pollack_s_law_holds_for_untied_copies() -> None:
    model = trained(two_convolutions, "kp", weight_decay=0.5)
    untie(model)
    x, y = images(32)
    options = {"batch_size": 4, "verbose": 0, "callbacks": [KolenPollack()]}
    history = model.fit(x, y, **options).history
    np.testing.assert_allclose(
        history["feedback_gap"], history["feedback_gap_predicted"], rtol=2e-4
    )


def test_convert_and_strip_go_on_from_there() -> None:
    model = untie(two_convolutions())
    weights, config = [w.numpy() for w in model.weights], model.get_layer("low").get_config()
    tfwm.convert_model(model, "kp")
    assert type(model.get_layer("low")) is layers.FeedbackLocallyConnected2D
    tfwm.strip_feedback(model)
    assert type(model.get_layer("low")) is layers.LocallyConnected2D
    assert model.get_layer("low").get_config() == config
    for weight, before in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, before)


# --- saving -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "rule"),
    slow_but(
        [(own, None)],
        itertools.product([two_convolutions, own], [None, "kp", "brsf"]),
        unpack=True,
    ),
)
def test_files_hold_untied_models(
    make: Callable[[], keras.Model], rule: str | None, tmp_path: Path
) -> None:
    model = untie(trained(make, rule))
    fit(model, *images())
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    for one, other in zip(tfwm.pathways(model), tfwm.pathways(loaded), strict=True):
        assert one.rule == other.rule
    for each in (model, loaded):
        fit(each, *images())
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


# --- refusals -----------------------------------------------------------------------------------


def of(*more: Any, shape: tuple[Any, ...] = (6, 6, 2)) -> keras.Model:
    """A model of these layers, and a convolution before them that could be untied."""
    return keras.Sequential([keras.Input(shape), k.Conv2D(2, 3, name="first"), *more])


class Wider(k.Conv2D):
    """A convolution of a user's own."""


def with_an_op_of_its_own() -> keras.Model:
    model = of()
    model.layers[0].convolution_op = lambda inputs, kernel: inputs
    return model


def on_two_sizes() -> keras.Model:
    inputs, conv = keras.Input((6, 6, 2)), k.Conv2D(2, 3, padding="same", name="conv")
    return keras.Model(inputs, k.Flatten()(conv(k.MaxPooling2D()(conv(inputs)))))


REFUSED: list[tuple[str, Callable[[], Any], str, str]] = [
    ("no_model", lambda: k.Conv2D(2, 3), "*", "Expected a Keras model. Received: Conv2D"),
    ("no_match", of, "no*", "'no*' of untie matches no layer. Convolutions to untie: first."),
    (
        "no_convolution",
        lambda: of(k.Dense(3, name="head")),
        "head",
        "'head' of untie matches no convolution, but 'head' (Dense). Expected Conv1D, Conv2D",
    ),
    (
        "depthwise",
        lambda: of(k.DepthwiseConv2D(2, name="depth")),
        "*",
        "'depth' (DepthwiseConv2D) cannot be untied: it is of a class that has no untied twin.",
    ),
    ("subclass", lambda: of(Wider(2, 3, name="own")), "*", "'own' (Wider) cannot be untied: it is"),
    ("own_op", with_an_op_of_its_own, "*", "it has a `convolution_op` of its own."),
    ("dilation", lambda: of(k.Conv2D(2, 2, dilation_rate=2)), "*", "it has dilation_rate=(2, 2)."),
    ("groups", lambda: of(k.Conv2D(2, 2, groups=2)), "*", "it has groups=2."),
    (
        "causal",
        lambda: of(k.Reshape((16, 2)), k.Conv1D(2, 2, padding="causal")),
        "*",
        "it has padding='causal'.",
    ),
    (
        "constraint",
        lambda: of(k.Conv2D(2, 2, kernel_constraint="max_norm")),
        "*",
        "it has a constraint, which would bind other axes than before.",
    ),
    (
        "not_built",
        lambda: keras.Sequential([k.Conv2D(2, 3, name="conv")]),
        "*",
        "'conv' (Conv2D) cannot be untied: how many positions it has must be known. Received a "
        "layer that is not built",
    ),
    (
        "no_size",
        lambda: of(shape=(None, None, 2)),
        "*",
        "Received the input shape (None, None, None, 2): build the model on inputs of a fixed",
    ),
    (
        "two_sizes",
        on_two_sizes,
        "*",
        "it is called on maps of several sizes, (6, 6, 2) and (3, 3, 2), and has one set",
    ),
    (
        "untied_already",
        lambda: untie(of()),
        "first",
        "matches no convolution, but 'first' (LocallyConnected2D)",
    ),
]


@pytest.mark.parametrize(
    ("make", "pattern", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_cannot_be_untied_is_refused_in_one_sentence_and_nothing_changes(
    make: Callable[[], Any], pattern: str, said: str
) -> None:
    model = make()
    below = list(model._flatten_layers())
    classes, weights = [type(layer) for layer in below], [id(w) for w in model.weights]
    with pytest.raises(ValueError) as error:
        untie(model, pattern)
    assert said in str(error.value)
    assert [type(layer) for layer in below] == classes
    assert [id(weight) for weight in model.weights] == weights


def test_lora_is_refused() -> None:
    model = chain()
    model.get_layer("conv").enable_lora(2)
    with pytest.raises(ValueError, match=r"'conv' .* uses LoRA, where no single kernel"):
        untie(model, "conv")


@pytest.mark.slow
def test_untying_under_a_strategy(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        model = compiled(two_convolutions())
    tfwm.convert_model(model, "kp")
    x, y = images()
    fit(model, x, y)
    output = model.predict(x, verbose=0)
    untie(model)
    assert relative_error(model.predict(x, verbose=0), output) < 1e-5
    before = model.get_layer("low").feedback_kernel.numpy()
    fit(model, x, y)
    feedback = model.get_layer("low").feedback_kernel
    assert np.abs(feedback.numpy() - before).max() > 0
    copies = [copy.numpy() for copy in feedback.value.values]
    assert len(copies) == 2
    np.testing.assert_array_equal(*copies)
