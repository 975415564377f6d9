"""Owners of a user's own come back with the rules of the layers inside them, however remade."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import assert_b_carries, compiled, fit, vectors
from tests.slow import slow_but
from tfweightmirror.conversion.composite import Composite

layers = keras.layers
register = keras.saving.register_keras_serializable("composites")


@register
class Pair(layers.Layer):
    """Makes its layers in its constructor; Keras finds out its config."""

    def __init__(self, units: int = 5, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.one = layers.Dense(units, activation="tanh")
        self.other = layers.Dense(units, activation="tanh")

    def build(self, shape: Any) -> None:
        """Both."""
        self.one.build(shape)
        self.other.build((None, self.units))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """One, then the other."""
        return self.other(self.one(inputs))


@register
class Late(layers.Layer):
    """Makes its layers when it is built."""

    def build(self, shape: Any) -> None:
        self.early = layers.Dropout(0.0)
        self.pair = Pair(4)
        self.last = layers.Dense(4, activation="tanh")
        self.pair.build(shape)
        self.last.build((None, 4))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The pair, then the last."""
        return self.last(self.pair(inputs))


@register
class Nested(layers.Layer):
    """Holds owners, lists, dicts and a model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.listed = [Pair(3), layers.Dense(4, activation="tanh")]
        self.named = {"late": Late(), "model": keras.Sequential([layers.Dense(4), Pair(4)])}

    def build(self, shape: Any) -> None:
        """Those that do not build themselves."""
        for layer, width in zip(self.line, (4, 3, 4, 4), strict=True):
            layer.build((None, width))

    @property
    def line(self) -> list[keras.layers.Layer]:
        """All in one line."""
        return [*self.listed, self.named["late"], self.named["model"]]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """One behind the other."""
        for layer in self.line:
            inputs = layer(inputs)
        return inputs


@register
class Holder(layers.Layer):
    """Its own config makes the layer inside."""

    def __init__(self, inner: Any, **options: Any) -> None:
        super().__init__(**options)
        self.inner = inner

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inner layer."""
        return self.inner(inputs)

    def get_config(self) -> dict[str, Any]:
        """With the inner layer."""
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Holder":
        """With the inner layer."""
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


@register
class Subclassed(keras.Model):
    """A model of its own code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pair, self.head = Pair(), layers.Dense(3)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The pair, then the head."""
        return self.head(self.pair(inputs))


@register
class OwnFunctional(keras.Model):
    """A functional model of its own constructor."""

    def __init__(self, units: int, **options: Any) -> None:
        inputs = keras.Input((4,))
        self.units = units
        super().__init__(inputs, layers.Dense(3)(Pair(units)(inputs)), **options)

    def get_config(self) -> dict[str, Any]:
        """What its constructor takes."""
        return {"units": self.units, "name": self.name}


@register
class WithHead(keras.Model):
    """A functional model of any layers, and one that is not among them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extra = layers.Dense(3)
        self.extra.build((None, 3))

    def call(self, inputs: tf.Tensor, **options: Any) -> tf.Tensor:
        """The extra head on top."""
        return self.extra(super().call(inputs, **options))


@register
class Attends(layers.Layer):
    """Attention, whose projections are not the owner's affair."""

    def build(self, shape: Any) -> None:
        self.attention = layers.MultiHeadAttention(2, 2)
        self.attention.build(shape, shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Self-attention."""
        return self.attention(inputs, inputs)


def in_sequence(*middle: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *middle, layers.Dense(3, name="head")])


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def with_head() -> keras.Model:
    inputs = keras.Input((4,))
    return WithHead(inputs, layers.Dense(3)(Pair()(inputs)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "pair": lambda: in_sequence(Pair(6)),
    "late": lambda: in_sequence(Late()),
    "nested": lambda: in_sequence(Nested()),
    "holder": lambda: in_sequence(Holder(layers.Dense(4)), Holder(Pair())),
    "subclassed": subclassed,
    "own functional": lambda: OwnFunctional(5),
    "with head": with_head,
    "attention": lambda: in_sequence(layers.Reshape((2, 2)), Attends(), layers.Flatten()),
}


def saved(model: keras.Model, folder: Path) -> keras.Model:
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


def through_json(model: keras.Model, _: Path) -> keras.Model:
    return keras.models.model_from_json(model.to_json())


def cloned(model: keras.Model, _: Path) -> keras.Model:
    return keras.models.clone_model(model)


def cloned_by_a_function(model: keras.Model, _: Path) -> keras.Model:
    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone, recursive=True)


def copied(model: keras.Model, _: Path) -> keras.Model:
    return copy.deepcopy(model)


def pickled(model: keras.Model, _: Path) -> keras.Model:
    return pickle.loads(pickle.dumps(model))


CASES = [
    *(("nested", rule, saved) for rule in ("brsf", "fa", "wm")),
    *(("nested", "usf", way) for way in (copied, pickled, through_json, cloned_by_a_function)),
    *((name, "kp", saved) for name in MODELS),
    *((name, "usf", cloned) for name in MODELS if name != "with head"),
]


# What a file says of each rule: tests/test_saving.py.
QUICK = [
    ("nested", "brsf", saved),
    *(("nested", "usf", way) for way in (pickled, cloned_by_a_function)),
    *((name, "kp", saved) for name in ("holder", "own functional", "with head", "attention")),
    *((name, "usf", cloned) for name in ("late", "subclassed")),
]


@pytest.mark.parametrize(
    ("name", "rule", "way"),
    slow_but(QUICK, CASES, unpack=True),
)
def test_the_rules_come_back(name: str, rule: str, way: Any, tmp_path: Path) -> None:
    model = compiled(MODELS[name]())
    tfwm.convert_model(model, rule)
    other = way(model, tmp_path)
    _assert_alike(model, other)
    # And from there once more.
    _assert_alike(model, way(other, tmp_path))
    if way in (saved, copied, pickled):
        for one, two in zip(model.variables, other.variables, strict=True):
            assert np.array_equal(one, two), one.path


def _assert_alike(model: keras.Model, other: keras.Model) -> None:
    if not other.built:
        other.build((None, 4))
    assert other is not model
    assert len(tfwm.pathways(model)) > 1
    for one, two in zip(tfwm.pathways(model), tfwm.pathways(other), strict=True):
        assert one.rule == two.rule
        assert type(one.layer) is type(two.layer)


@pytest.mark.parametrize("way", slow_but([saved], [saved, cloned, through_json]))
def test_b_carries_the_error_in_what_has_come_back(way: Any, tmp_path: Path) -> None:
    model = compiled(MODELS["late"]())
    tfwm.convert_model(model, "kp")
    other = way(model, tmp_path)
    assert_b_carries(compiled(other), *vectors())


@pytest.mark.slow  # tests/test_saving.py
def test_a_loaded_composite_goes_on_training_bit_for_bit(tmp_path: Path) -> None:
    model = MODELS["late"]()
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "mse")
    fit(model, *vectors())
    tfwm.convert_model(model, "kp", seed=3)
    fit(model, *vectors())
    loaded = saved(model, tmp_path)
    for one in (model, loaded):
        fit(one, *vectors())
    for one, other in zip(
        [*model.variables, *model.optimizer.variables],
        [*loaded.variables, *loaded.optimizer.variables],
        strict=True,
    ):
        assert np.array_equal(one, other), one.path


def test_initializers_and_seeds_of_b_come_back() -> None:
    model = in_sequence(Pair(2))
    tfwm.convert_model(model, "fa", seed=3)
    inner = model.layers[0].one
    inner.feedback_initializer = keras.initializers.RandomUniform(-3, 3, seed=1)
    other = keras.models.clone_model(model).layers[0]
    assert other.one.feedback_initializer.get_config() == inner.feedback_initializer.get_config()
    assert np.array_equal(other.one.feedback_kernel, inner.feedback_initializer((4, 2)))
    assert other.other._feedback_seed == model.layers[0].other._feedback_seed


def test_patterns_leave_layers_inside_plain() -> None:
    model = in_sequence(Pair(name="pair"))
    one, other = model.layers[0].one, model.layers[0].other
    tfwm.convert_model(model, {f"pair/{one.name}": "usf"})
    pair = keras.models.clone_model(model).layers[0]
    assert type(pair.one) is tfwm.layers.FeedbackDense
    assert type(pair.other) is type(other) is layers.Dense


def test_the_owner_stays_what_it_is_and_is_plain_again_once_stripped(tmp_path: Path) -> None:
    model = in_sequence(Nested(), Pair(), layers.Rescaling(2.0))
    owners = [layer for layer in model._flatten_layers() if type(layer) in (Nested, Pair, Late)]
    assert len(owners) == 6
    plain = model.to_json()
    tfwm.convert_model(model, {"head": "kp"})
    assert not any(isinstance(owner, Composite) for owner in owners)
    tfwm.strip_feedback(model)
    classes = [type(owner) for owner in owners]
    tfwm.convert_model(model, "kp")
    for owner, cls in zip(owners, classes, strict=True):
        assert isinstance(owner, (Composite, cls))
        assert (type(owner).__name__, type(owner).__module__) == (cls.__name__, cls.__module__)
    tfwm.strip_feedback(model)
    assert [type(owner) for owner in owners] == classes
    assert model.to_json() == plain
    assert not isinstance(saved(model, tmp_path).layers[0], Composite)


def test_an_owner_around_the_converted_part_saves_its_rules() -> None:
    model = subclassed()
    part = keras.Sequential([model.pair])
    tfwm.convert_model(part, "usf")
    _assert_alike(model, cloned(model, Path()))


def test_models_that_keras_makes_from_their_layers_are_left_alone() -> None:
    class Stack(keras.Sequential):
        pass

    class Graph(keras.Model):
        pass

    inputs = keras.Input((4,))
    for model in (Stack([keras.Input((4,)), Pair()]), Graph(inputs, Pair()(inputs))):
        cls = type(model)
        tfwm.convert_model(model, "usf")
        assert type(model) is cls


def test_an_owner_is_not_made_by_its_constructor() -> None:
    """Or it would be plain in silence; Keras clones functional models in this way."""
    model = tfwm.convert_model(with_head(), "usf")
    with pytest.raises(ValueError, match=r"WithHead holds converted layers.*from_config"):
        keras.models.clone_model(model)


def test_an_owner_that_is_not_built_has_no_config_yet() -> None:
    model = keras.Sequential([Pair(name="first"), layers.Dense(3)])
    tfwm.convert_model(model, "usf")
    with pytest.raises(ValueError, match=r"'first' \(Pair\) is not built.*would be lost.*Build"):
        model.to_json()
    model.build((None, 4))
    _assert_alike(model, through_json(model, Path()))


def test_an_owner_that_makes_nothing_when_it_is_built_is_plain_again() -> None:
    class Scaled(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return 2 * inputs

    model = keras.Sequential([Scaled(), layers.Dense(3)])
    tfwm.convert_model(model, "usf")
    model.build((None, 4))
    assert type(model.layers[0]) is Scaled


@register
class Fickle(layers.Layer):
    """Made from its config, it is another."""

    def __init__(self, dense: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.inner = layers.Dense(4) if dense else layers.Dropout(0.1)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inner layer."""
        return self.inner(inputs)

    def get_config(self) -> dict[str, Any]:
        """Without what matters."""
        return {"name": self.name}


def test_an_owner_that_comes_back_with_other_layers_is_refused() -> None:
    model = tfwm.convert_model(in_sequence(Fickle(dense=True, name="odd")), "usf")
    with pytest.raises(ValueError, match=r"'odd' \(Fickle\) was saved with a Dense under.*Dropout"):
        keras.models.clone_model(model)


def test_a_legacy_file_keeps_the_rules_of_layers_and_is_refused_for_models(tmp_path: Path) -> None:
    model = tfwm.convert_model(in_sequence(Late(), Pair()), "kp")
    model.save(tmp_path / "m.h5")
    other = keras.models.load_model(tmp_path / "m.h5", compile=False)
    _assert_alike(model, other)
    for one, two in zip(model.variables, other.variables, strict=True):
        assert np.array_equal(one, two), one.path
    own = tfwm.convert_model(OwnFunctional(5), "usf")
    with pytest.raises(ValueError, match=r"\(OwnFunctional\) holds converted.*Save it as \.keras"):
        own.save(tmp_path / "own.h5")


class Unregistered(Pair):
    """Keras does not know it."""


def test_a_class_that_is_not_registered_needs_custom_objects_as_in_keras(tmp_path: Path) -> None:
    model = compiled(tfwm.convert_model(in_sequence(Unregistered()), "usf"))
    _assert_alike(model, cloned(model, tmp_path))
    model.save(tmp_path / "m.keras")
    with pytest.raises(TypeError, match="Unregistered"):
        keras.models.load_model(tmp_path / "m.keras")
    known = {"Unregistered": Unregistered}
    _assert_alike(model, keras.models.load_model(tmp_path / "m.keras", custom_objects=known))
