"""Files and checkpoints hold feedback kernels, rules and optimizer state bit for bit."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import assert_b_carries, chain, compiled, fit, images
from tests.layers.kinds import BY_NAME, ONE_OF_EACH, RULES, Kind
from tests.slow import slow_but

layers = keras.layers


FEW = [BY_NAME[name] for name in ("conv2d_groups", "separable1d", "dense_rank2")]


def model_of_every_kind(
    rule: Any, *, by_hand: bool = False, seed: int = 1, kinds: list[Kind] = ONE_OF_EACH
) -> keras.Model:
    """One layer of each kind side by side, converted or made by hand, with random weights."""
    inputs: list[Any] = []
    outputs: list[Any] = []
    for kind in kinds:
        own = [keras.Input(shape[1:]) for shape in kind.input_shapes]
        layer = (
            kind.twin(rule, name=f"{kind.name}_layer")
            if by_hand
            else kind.plain(name=f"{kind.name}_layer")
        )
        outputs.append(layer(*own))
        inputs += own
    model = keras.Model(inputs, outputs)
    if not by_hand:
        tfwm.convert_model(model, rule, seed=seed)
    random = np.random.default_rng(seed)
    for variable in model.variables:
        integer = variable.dtype == "int32"
        value = (
            random.integers(0, 99, variable.shape)
            if integer
            else random.normal(size=variable.shape)
        )
        variable.assign(value)
    return model


def saved(model: keras.Model) -> list[keras.Variable]:
    """What files hold: Keras writes no seed generator's state, a plain Dropout's neither."""
    return [v for v in model.variables if v.name != "seed_generator_state"]


def through_keras(model: keras.Model, folder: Path, _: Callable[[], Any]) -> keras.Model:
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


def through_weights(model: keras.Model, folder: Path, other: Callable[[], Any]) -> keras.Model:
    model.save_weights(folder / "m.weights.h5")
    loaded = other()
    loaded.load_weights(folder / "m.weights.h5")
    return loaded


def through_checkpoint(model: keras.Model, folder: Path, other: Callable[[], Any]) -> keras.Model:
    path = tf.train.Checkpoint(model=model).save(folder / "m")
    loaded = other()
    tf.train.Checkpoint(model=loaded).restore(path).assert_consumed()
    return loaded


def through_deepcopy(model: keras.Model, _: Path, __: Callable[[], Any]) -> keras.Model:
    return copy.deepcopy(model)


def through_pickle(model: keras.Model, _: Path, __: Callable[[], Any]) -> keras.Model:
    return pickle.loads(pickle.dumps(model))


ROUND_TRIPS = [
    *(
        (way, name)
        for way in (through_keras, through_weights, through_checkpoint)
        for name in RULES
    ),
    *((way, name) for way in (through_deepcopy, through_pickle) for name in ("frsf", "kp")),
]
# A file of Keras names the rule; the others hold variables: B that learns, or the seed of a draw.
QUICK = [
    *((through_keras, name) for name in RULES),
    *((way, name) for way in (through_weights, through_checkpoint) for name in ("brsf", "kp")),
    *((way, "kp") for way in (through_deepcopy, through_pickle)),
]
EVERY_KIND = [(through_keras, "kp"), (through_weights, "brsf"), (through_checkpoint, "kp")]


@pytest.mark.parametrize(("way", "name"), slow_but(EVERY_KIND, ROUND_TRIPS, unpack=True))
def test_round_trips_are_bit_equal_for_every_layer_kind(
    way: Callable[..., keras.Model], name: str, tmp_path: Path
) -> None:
    assert_bit_equal_after(way, RULES[name], tmp_path, ONE_OF_EACH)


@pytest.mark.parametrize(("way", "name"), QUICK)
def test_round_trips_are_bit_equal_for_every_rule(
    way: Callable[..., keras.Model], name: str, tmp_path: Path
) -> None:
    assert_bit_equal_after(way, RULES[name], tmp_path, FEW)


def assert_bit_equal_after(
    way: Callable[..., keras.Model], rule: Any, folder: Path, kinds: list[Kind]
) -> None:
    """All variables and what carries the error are what they were."""
    model = model_of_every_kind(rule, kinds=kinds)
    loaded = way(model, folder, lambda: model_of_every_kind(rule, seed=2, kinds=kinds))
    assert loaded is not model
    for one, other in zip(saved(model), saved(loaded), strict=True):
        assert np.array_equal(one, other), one.path
        assert one.trainable == other.trainable, one.path
    for one, other in zip(tfwm.pathways(model), tfwm.pathways(loaded), strict=True):
        assert (one.name, one.rule) == (other.name, other.rule)
        assert np.array_equal(one.backward_kernel(), other.backward_kernel()), one.name


@pytest.mark.parametrize("way", [through_keras, through_checkpoint], ids=lambda way: way.__name__)
def test_layers_made_by_hand_are_saved_as_converted_ones(
    way: Callable[..., keras.Model], tmp_path: Path
) -> None:
    model = model_of_every_kind("kp", by_hand=True)
    loaded = way(model, tmp_path, lambda: model_of_every_kind("kp", seed=2))
    for one, other in zip(saved(model), saved(loaded), strict=True):
        assert np.array_equal(one, other), one.path


@pytest.mark.parametrize("way", [through_keras, through_weights, through_checkpoint])
def test_b_carries_the_error_after_loading(way: Any, tmp_path: Path) -> None:
    def make() -> keras.Model:
        # The compiled step is saved with the model; those of the other ways were there before.
        eager = way is not through_keras
        model = tfwm.convert_model(compiled(chain(), run_eagerly=eager), "kp")
        fit(model, *images())
        return model

    model = make()
    loaded = way(model, tmp_path, make)
    assert_b_carries(loaded, *images())


def test_a_loaded_model_goes_on_training_bit_for_bit(tmp_path: Path) -> None:
    model = chain()
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "mse")
    fit(model, *images())
    tfwm.convert_model(model, "kp", last_layer="backprop")
    fit(model, *images())
    loaded = through_keras(model, tmp_path, lambda: None)
    assert int(loaded.optimizer.iterations.numpy()) == 2
    for one in (model, loaded):
        fit(one, *images())
    for one, other in zip(
        [*model.variables, *model.optimizer.variables],
        [*loaded.variables, *loaded.optimizer.variables],
        strict=True,
    ):
        assert np.array_equal(one, other), one.path


def test_plain_weights_are_loaded_before_converting_or_from_a_checkpoint(tmp_path: Path) -> None:
    plain = chain()
    plain.save_weights(tmp_path / "plain.weights.h5")
    path = tf.train.Checkpoint(model=plain).save(tmp_path / "plain")
    first = chain()
    first.load_weights(tmp_path / "plain.weights.h5")
    tfwm.convert_model(first, "fa")
    second = tfwm.convert_model(chain(), "fa")
    tf.train.Checkpoint(model=second).restore(path).expect_partial()
    for model in (first, second):
        for layer in ("conv", "depth", "hidden", "head"):
            assert np.array_equal(model.get_layer(layer).kernel, plain.get_layer(layer).kernel)
    # Weight files name layers by class: loading them into other classes fails, and says so.
    with pytest.raises(ValueError):
        second.load_weights(tmp_path / "plain.weights.h5")


@keras.saving.register_keras_serializable("tests")
class Pair(keras.Model):
    """A subclassed model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second = layers.Dense(4, activation="tanh"), layers.Dense(3)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """First, second."""
        return self.second(self.first(inputs))


def test_the_weights_of_a_subclassed_model_load_into_one_that_is_converted_alike(
    tmp_path: Path,
) -> None:
    model = Pair()
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    model(x)
    tfwm.convert_model(model, "fa")
    model.save_weights(tmp_path / "pair.weights.h5")
    again = Pair()
    again(x)
    tfwm.convert_model(again, "fa", seed=1)
    again.load_weights(tmp_path / "pair.weights.h5")
    for one, other in zip(model.variables, again.variables, strict=True):
        assert np.array_equal(one, other), one.path


# --- a fresh process ---------------------------------------------------------------------------

LOAD = """
import sys
import numpy as np
import {module}
import keras
model = keras.models.load_model(sys.argv[1])
x = np.load(sys.argv[2])
variables = [*model.variables, *model.optimizer.variables]
arrays = {{str(i): v.numpy() for i, v in enumerate(variables)}}
model.fit(x, np.zeros((len(x), 3)), verbose=0)
after = {{f"after {{i}}": v.numpy() for i, v in enumerate(variables)}}
np.savez(sys.argv[3], output=model.predict(x, verbose=0), **arrays, **after)
loaded = [name for name in sys.modules if name.startswith("tfweightmirror")]
assert bool(loaded) == ({module!r} == "tfweightmirror"), loaded
"""


@pytest.mark.slow
@pytest.mark.always
@pytest.mark.parametrize("module", ["tfweightmirror", "keras"])
def test_a_fresh_process_loads_the_file(module: str, tmp_path: Path) -> None:
    """With this library imported and nothing else; without it, once stripped."""
    model, (x, _) = chain(), images()
    model.compile(keras.optimizers.AdamW(0.01), "mse")
    fit(model, *images())
    patterns = {"conv": "kp", "depth": "urfb", "hidden": "frsf", "head": "fa"}
    tfwm.convert_model(model, patterns)
    fit(model, *images())
    if module == "keras":
        tfwm.strip_feedback(model)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", x)
    script = tmp_path / "load.py"
    script.write_text(LOAD.format(module=module))
    files = [str(tmp_path / name) for name in ("m.keras", "x.npy", "out.npz")]
    environment = {**os.environ, "PYTHONPATH": str(Path(tfwm.__file__).parents[1])}
    subprocess.run([sys.executable, script, *files], check=True, env=environment, timeout=300)
    variables = [*model.variables, *model.optimizer.variables]
    with np.load(tmp_path / "out.npz") as found:
        for index, variable in enumerate(variables):
            assert np.array_equal(found[str(index)], variable), variable.path
        model.fit(x, np.zeros((len(x), 3)), verbose=0, shuffle=False)
        for index, variable in enumerate(variables):
            np.testing.assert_allclose(found[f"after {index}"], variable, atol=1e-6)
        np.testing.assert_allclose(found["output"], model.predict(x, verbose=0), atol=1e-5)


# --- a rule of one's own -----------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class Halfway(tfwm.rules.FeedbackRule):
    """The error travels on B; B learns from a share of dW with the other sign."""

    share: float = 0.5

    name = "halfway"
    learns_by = "optimizer"

    def backward_kernel(self, kernel: Any, feedback: Any, seed: Any) -> tf.Tensor:
        """B times a number."""
        return feedback * tf.cast(self.share, feedback.dtype)

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        """A share of -dW."""
        return tf.cast(-self.share, kernel_gradient.dtype) * kernel_gradient


def test_a_rule_of_one_s_own_is_converted_trained_saved_and_loaded(tmp_path: Path) -> None:
    assert tfwm.rules.get("tests>Halfway") == Halfway()
    model = compiled(chain())
    fit(model, *images())
    tfwm.convert_model(model, Halfway(share=0.25))
    layer = model.get_layer("hidden")
    kernel, b = layer.kernel.numpy(), layer.feedback_kernel.numpy()
    fit(model, *images())
    share = layer.rule.share
    moved = layer.kernel.numpy() - kernel
    np.testing.assert_allclose(layer.feedback_kernel.numpy() - b, -share * moved, atol=1e-6)
    assert np.abs(moved).max() > 1e-4
    assert_b_carries(model, *images())
    for way in (through_keras, through_deepcopy):
        loaded = way(model, tmp_path, lambda: None)
        assert loaded.get_layer("hidden").rule == layer.rule
        fit(loaded, *images())
    fit(model, *images())
    for one, other in zip(saved(model), saved(loaded), strict=True):
        assert np.array_equal(one, other), one.path
    tfwm.strip_feedback(model)
    fit(model, *images())
