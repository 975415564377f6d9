"""`strip_feedback` leaves a plain Keras model, as if there had never been a feedback layer."""

import gc
import json
import re
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import chain, compiled, fit, images, vectors
from tests.layers.kinds import BY_NAME, ONE_OF_EACH, ONE_OF_EACH_IDS, Kind
from tests.slow import slow_but
from tfweightmirror.conversion.twins import TWINS

layers = keras.layers
# Of each family of layers.
FEW = (
    *("dense_rank2", "conv2d", "conv2d_transpose", "depthwise2d", "separable1d", "attention"),
    "local2d",
)
PLAIN_BUT_NOT_KERAS = r"tfweightmirror(\.layers\.locally_connected|>LocallyConnected.D)"


def model_of(kind: Kind, layer: keras.layers.Layer) -> keras.Model:
    """A functional model of one layer."""
    inputs = [keras.Input(shape[1:]) for shape in kind.input_shapes]
    return keras.Model(inputs, layer(*inputs))


def traces_in(model: keras.Model) -> list[str]:
    """What still speaks of this library in a model's layers and config."""
    found = []
    for layer in model._flatten_layers():
        if not type(layer).__module__.startswith("keras.") and type(layer) not in TWINS:
            found.append(f"class of {layer.path}")
        found += [f"{layer.path}.{name}" for name in vars(layer) if "feedback" in name]
        found += [f"{layer.path}.{name}" for name in ("rule",) if hasattr(layer, name)]
        found += [f"config of {layer.path}"] * ("rule" in json.dumps(layer.get_config()))
        found += [f"arguments of {layer.path}"] * ("rule" in _arguments(layer))
    found += [weight.path for weight in model.weights if "feedback" in weight.name]
    if "tfweightmirror" in re.sub(PLAIN_BUT_NOT_KERAS, "", model.to_json()):
        found.append("config")
    return found


def _arguments(layer: keras.layers.Layer) -> str:
    """What Keras recorded of the constructor's call."""
    return str(layer._auto_config and layer._auto_config.config)


@pytest.mark.parametrize("name", slow_but(FEW, ONE_OF_EACH_IDS))
def test_every_layer_kind_comes_back_as_it_was(name: str) -> None:
    kind = BY_NAME[name]
    layer = kind.plain()
    model = model_of(kind, layer)
    output = model([*kind.inputs()]).numpy()  # in which Keras gives recurrent cells attributes
    attributes = {part.path: set(vars(part)) for part in model._flatten_layers()}
    config, weights = layer.get_config(), layer.weights
    children = list(layer._trackable_children())
    for rule in ("kp", "frsf", "brsf"):
        tfwm.convert_model(model, rule)
        assert type(layer) is TWINS[kind.plain_class]
        assert traces_in(model)
        assert np.array_equal(model([*kind.inputs()]), output)
        assert tfwm.strip_feedback(model) is model
        assert type(layer) is kind.plain_class
        assert not traces_in(model)
        assert {part.path: set(vars(part)) for part in model._flatten_layers()} == attributes
        assert layer.get_config() == config
        assert [id(weight) for weight in layer.weights] == [id(weight) for weight in weights]
        assert list(layer._trackable_children()) == children
        assert np.array_equal(model([*kind.inputs()]), output)


@pytest.mark.parametrize("kind", ONE_OF_EACH, ids=ONE_OF_EACH_IDS)
@pytest.mark.parametrize("build", [True, False], ids=["built", "unbuilt"])
def test_layers_made_by_hand_become_plain(kind: Kind, build: bool) -> None:
    layer = kind.twin(tfwm.rules.KolenPollack())
    model = model_of(kind, layer) if build else keras.Sequential([layer])
    forward = {weight.path: weight.numpy() for weight in layer.weights if build}
    tfwm.strip_feedback(model)
    assert not traces_in(model) or not build
    if not build:
        layer(*kind.inputs())
    plain = kind.plain()
    plain(*kind.inputs())
    assert [w.shape for w in layer.weights] == [w.shape for w in plain.weights]
    for weight in layer.weights:
        assert np.array_equal(weight, forward.get(weight.path, weight))
    assert layer.get_config().keys() == plain.get_config().keys()


def test_a_stripped_model_trains_by_plain_backprop() -> None:
    plain, stripped = compiled(chain()), compiled(chain())
    stripped.set_weights(plain.get_weights())
    tfwm.convert_model(stripped, "kp")
    fit(stripped, *images())
    tfwm.strip_feedback(stripped)
    stripped.set_weights(plain.get_weights())
    for model in (plain, stripped):
        fit(model, *images())
    for found, expected in zip(stripped.weights, plain.weights, strict=True):
        assert np.array_equal(found, expected), found.path


def test_an_unbuilt_model_is_stripped_of_what_it_would_have_built() -> None:
    model = tfwm.convert_model(chain(with_input=False), "kp")
    tfwm.strip_feedback(model)
    model(images()[0])
    assert len(model.weights) == 8
    assert not traces_in(model)


class Late(keras.Model):
    """Makes its second layer when it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(4)

    def build(self, input_shape: Any) -> None:
        self.second = layers.Dense(3)
        self.first.build(input_shape)
        self.second.build((None, 4))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """First, second."""
        return self.second(self.first(inputs))


def test_layers_made_after_stripping_stay_plain() -> None:
    model = tfwm.strip_feedback(tfwm.convert_model(Late(), "fa"))
    model(vectors()[0])
    assert [type(layer) for layer in model._flatten_layers()[1:]] == [layers.Dense] * 2
    converted = tfwm.convert_model(Late(), "fa")
    converted(vectors()[0])
    assert type(converted.second) is tfwm.layers.FeedbackDense
    assert [type(layer) for layer in tfwm.strip_feedback(converted)._flatten_layers()[1:]] == [
        layers.Dense
    ] * 2


def test_a_stripped_model_quantizes_and_takes_lora_as_keras_does() -> None:
    model = tfwm.strip_feedback(tfwm.convert_model(chain(), "kp"))
    model.get_layer("hidden").enable_lora(2)
    model.get_layer("head").quantize("float8")
    assert model.get_layer("head").quantization_mode == "float8"
    assert model.get_layer("hidden").lora_enabled


def test_feedback_kernels_are_freed() -> None:
    model = tfwm.convert_model(compiled(chain()), "kp")
    fit(model, *images())
    b = weakref.ref(model.get_layer("hidden").feedback_kernel)
    tfwm.strip_feedback(model)
    gc.collect()
    assert b() is None


def test_stripping_under_a_strategy(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        hidden = [layers.Dense(4, activation="tanh"), layers.Dense(3)]
        model = compiled(keras.Sequential([keras.Input((4,)), *hidden]))
    tfwm.convert_model(model, "kp")
    fit(model, *vectors())
    tfwm.strip_feedback(model)
    assert not traces_in(model)
    fit(model, *vectors())


def test_a_reloaded_model_can_be_stripped(tmp_path: Any) -> None:
    model = tfwm.convert_model(compiled(chain()), "kp")
    fit(model, *images())
    model.save(tmp_path / "m.keras")
    loaded = tfwm.strip_feedback(keras.models.load_model(tmp_path / "m.keras"))
    assert not traces_in(loaded)
    x, _ = images()
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert len(loaded.optimizer.variables) == 2
    fit(loaded, *images())
