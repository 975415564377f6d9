"""What a conversion owes to a compiled model: its optimizer's state, its settings."""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import assert_b_carries, chain, compiled, fit, images, vectors
from tests.frozen import frozen
from tests.slow import slow_but
from tfweightmirror.conversion.compiled import optimizers_of

optimizers = keras.optimizers


def excluding_biases() -> keras.optimizers.Optimizer:
    optimizer = optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def several() -> keras.optimizers.Optimizer:
    biases = optimizers.SGD(0.1, momentum=0.5)
    return optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.Adam(0.01), {".*bias": biases})
    )


def scheduled() -> keras.optimizers.Optimizer:
    return optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "accumulating": lambda: optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
    "clipping": lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.01),
    "scheduled": scheduled,
    "adam": lambda: optimizers.Adam(0.01, amsgrad=True),
    "adamw": excluding_biases,
    "nadam": lambda: optimizers.Nadam(0.01),
    "adamax": lambda: optimizers.Adamax(0.01),
    "adagrad": lambda: optimizers.Adagrad(0.1),
    "adadelta": lambda: optimizers.Adadelta(0.1),
    "adafactor": lambda: optimizers.Adafactor(0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "lamb": lambda: optimizers.Lamb(0.01),
    "lion": lambda: optimizers.Lion(0.01),
    "muon": lambda: optimizers.Muon(0.01),
    "loss_scale": lambda: optimizers.LossScaleOptimizer(
        optimizers.Adam(0.01), dynamic_growth_steps=2
    ),
    "several": several,
}


def mlp(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """A trained model of two layers."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    train(model)
    return model


def train(model: keras.Model, steps: int = 2) -> None:
    """Steps of `fit` on one batch."""
    for _ in range(steps):
        fit(model, *vectors())


# Of each form that an optimizer's state has.
MOST_UNLIKE = (
    *("sgd", "adamw", "adafactor", "muon"),
    *("loss_scale", "several"),
)


@pytest.mark.parametrize("name", slow_but(MOST_UNLIKE, OPTIMIZERS))
def test_training_goes_on_as_if_nothing_had_happened(name: str) -> None:
    """With B := W, Kolen-Pollack is backprop: bit-equal if every state has been carried over."""
    make = OPTIMIZERS[name]
    plain, mirrored = mlp(make()), mlp(make())
    optimizer = mirrored.optimizer
    iterations = _iterations(optimizer)
    tfwm.convert_model(mirrored, "kp")
    assert mirrored.optimizer is optimizer
    assert _iterations(optimizer) == iterations
    for layer in mirrored.layers:
        layer.feedback_kernel.assign(layer.kernel)
    train(plain)
    train(mirrored)
    for layer in mirrored.layers:
        # B has W's own state, as if it had been there from the beginning.
        assert np.array_equal(layer.feedback_kernel, layer.kernel), layer.path
    _assert_equal(_forward(mirrored), _forward(plain))

    tfwm.strip_feedback(mirrored)
    assert len(optimizer.variables) == len(plain.optimizer.variables)
    _assert_equal(optimizer.variables, plain.optimizer.variables)
    train(plain)
    train(mirrored)
    _assert_equal(mirrored.weights, plain.weights)


def _iterations(optimizer: Any) -> int:
    return int(optimizer.iterations.numpy())


def _forward(model: keras.Model) -> list[keras.Variable]:
    return [weight for weight in model.weights if weight.name != "feedback_kernel"]


def _assert_equal(found: list[keras.Variable], expected: list[keras.Variable]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other), one.path


@pytest.mark.parametrize("rule", ["fa", "wm", "usf"])
def test_an_optimizer_that_has_no_new_weight_is_not_touched(rule: str) -> None:
    model = mlp(optimizers.Adam())
    variables = model.optimizer.variables
    tfwm.convert_model(model, rule)
    assert [id(v) for v in model.optimizer.variables] == [id(v) for v in variables]


def test_state_of_another_gradient_starts_fresh() -> None:
    model = mlp(optimizers.SGD(0.1, momentum=0.9))
    tfwm.convert_model(model, tfwm.rules.UpdatedRandomFeedback(epsilon=0.5))
    for layer in model.layers:
        slot = _slot(model.optimizer, "momentums", layer.feedback_kernel)
        assert not np.any(slot)
        assert np.any(_slot(model.optimizer, "momentums", layer.kernel))


def _slot(optimizer: Any, name: str, variable: keras.Variable) -> np.ndarray:
    known = [id(v) for v in optimizer._trainable_variables]
    return getattr(optimizer, name)[known.index(id(variable))].numpy()


@pytest.mark.parametrize("rule", ["kp", "urfb"])
def test_an_average_of_b_starts_at_b(rule: str) -> None:
    model = mlp(optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    tfwm.convert_model(model, rule)
    kernel, b = model.layers[0].kernel, model.layers[0].feedback_kernel
    average = "_model_variables_moving_average"
    assert np.array_equal(_slot(model.optimizer, average, b), b)
    assert np.any(_slot(model.optimizer, average, kernel))
    model = mlp(optimizers.ScheduleFreeAdamW(0.1))
    momentum = _slot(model.optimizer, "_momentums", model.layers[0].kernel)
    tfwm.convert_model(model, rule)
    kernel, b = model.layers[0].kernel, model.layers[0].feedback_kernel
    assert np.array_equal(_slot(model.optimizer, "_momentums", b), b)
    assert np.array_equal(_slot(model.optimizer, "_momentums", kernel), momentum)


def test_a_learning_rate_set_after_compile_stays_the_same_variable() -> None:
    model = mlp(optimizers.SGD(0.1))
    rate = model.optimizer.learning_rate
    rate.assign(0.025)
    tfwm.convert_model(model, "kp")
    assert model.optimizer.learning_rate is rate
    before = model.layers[0].kernel.numpy()
    rate.assign(0.0)
    train(model)
    assert np.array_equal(model.layers[0].kernel, before)


def test_an_optimizer_that_is_not_built_stays_so() -> None:
    model = chain()
    model.compile(optimizers.SGD(0.1, momentum=0.9), "mse")
    tfwm.convert_model(model, "kp")
    assert not model.optimizer.built
    fit(model, *images())
    assert len(model.optimizer.variables) == 2 + 12


def test_what_was_compiled_survives() -> None:
    model = chain()
    loss, metric = keras.losses.Huber(), keras.metrics.MeanAbsoluteError(name="error")
    model.compile(optimizers.SGD(0.0), loss, metrics=[metric], jit_compile=True)
    model.steps_per_execution = 3
    x, y = images()
    before = model.evaluate(x, y, verbose=0, return_dict=True)
    tfwm.convert_model(model, "kp")
    assert model.loss is loss
    assert (model.jit_compile, model.run_eagerly, model.steps_per_execution) == (True, False, 3)
    assert model.evaluate(x, y, verbose=0, return_dict=True) == before
    assert set(before) == {"loss", "error"}
    assert model.get_compile_config()["optimizer"]["class_name"] == "SGD"


def test_functions_that_were_never_made_are_not_made() -> None:
    model = tfwm.convert_model(compiled(chain()), "fa")
    assert model.train_function is model.test_function is model.predict_function is None


class Hoarder(optimizers.SGD):
    """Keeps its state where nobody looks."""

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.hoard = {v.path: self.add_variable_from_reference(v, "hoard") for v in variables}


def test_an_optimizer_with_state_of_unknown_form_is_refused_before_anything_changes() -> None:
    model = mlp(Hoarder(0.1))
    with pytest.raises(ValueError, match=r"'hoarder' \(Hoarder\).*Compile the model after"):
        tfwm.convert_model(model, "kp")
    assert {type(layer) for layer in model.layers} == {keras.layers.Dense}
    tfwm.convert_model(model, "fa")
    train(model)


def test_b_joins_only_the_optimizers_that_know_its_kernel() -> None:
    """A backbone that was frozen when the whole was compiled, and trained by itself before."""
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    backbone.compile("adam", "mse")
    train(backbone)
    backbone.trainable = False
    whole = keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(3)])
    whole.compile("adam", "mse")
    train(whole)
    tfwm.convert_model(whole, "kp")
    assert len(backbone.optimizer.variables) == 2 + 2 * 3
    assert len(whole.optimizer.variables) == 2 + 2 * 3
    tfwm.strip_feedback(backbone)
    assert len(backbone.optimizer.variables) == 2 + 2 * 2
    assert len(whole.optimizer.variables) == 2 + 2 * 3


def test_the_optimizer_s_order_is_that_of_a_model_that_is_loaded() -> None:
    """Files hold optimizer variables by position."""
    model = mlp(optimizers.Adam())
    tfwm.convert_model(model, "kp")
    fresh = keras.models.clone_model(model)
    fresh.compile(optimizers.Adam(), "mse")
    fresh.optimizer.build(fresh.trainable_variables)

    def slots(model: keras.Model) -> list[tuple[Any, ...]]:
        kind = re.compile(r"(feedback_)?(kernel|bias)_[a-z]+$|iteration$|learning_rate$")
        return [(kind.search(v.path)[0], *v.shape) for v in model.optimizer.variables]

    assert slots(model) == slots(fresh)
    assert ("feedback_kernel_momentum", 4, 5) in slots(model)


@pytest.mark.parametrize("rule", ["fa", "kp"])
def test_checkpoints_follow_the_carried_over_optimizer(rule: str, tmp_path: Any) -> None:
    model = mlp(optimizers.Adam())
    tfwm.convert_model(model, rule)
    train(model)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
    values = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    train(model)
    restored = tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(path)
    restored.assert_existing_objects_matched()
    for value, variable in zip(values, [*model.variables, *model.optimizer.variables], strict=True):
        assert np.array_equal(value, variable), variable.path


class Two(keras.Model):
    """Two networks, each with an optimizer of its own, as in a GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(3)])
            for _ in range(2)
        ]
        self.own = {"one": optimizers.Adam(0.01), "others": [(optimizers.SGD(0.1, momentum=0.9),)]}

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """One of them."""
        return self.parts[0](inputs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Each on its own."""
        x, y = data
        (sgd,) = self.own["others"][0]
        for part, optimizer in zip(self.parts, (self.own["one"], sgd), strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((part(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, part.trainable_variables)
            optimizer.apply(gradients, part.trainable_variables)
        return {"loss": loss}


def test_several_optimizers_go_on_as_if_nothing_had_happened() -> None:
    plain, mirrored = (_two_trained() for _ in range(2))
    tfwm.convert_model(mirrored, "kp")
    for pathway in tfwm.pathways(mirrored):
        pathway.feedback_kernel.assign(pathway.kernel)
    train(plain)
    train(mirrored)
    for pathway in tfwm.pathways(mirrored):
        assert np.array_equal(pathway.feedback_kernel, pathway.kernel), pathway.name
    _assert_equal(_forward(mirrored), _forward(plain))
    tfwm.strip_feedback(mirrored)
    train(plain)
    train(mirrored)
    _assert_equal(mirrored.weights, plain.weights)
    for one, other in zip(optimizers_of(mirrored), optimizers_of(plain), strict=True):
        _assert_equal(one.variables, other.variables)


def _two_trained() -> Two:
    keras.utils.set_random_seed(5)
    model = Two()
    model.compile(run_eagerly=True)
    train(model)
    return model


def test_optimizers_are_found_in_attributes_the_compiled_one_first_and_none_twice() -> None:
    model = Two()
    assert [type(each) for each in optimizers_of(model)] == [optimizers.Adam, optimizers.SGD]
    sgd = optimizers_of(model)[1]
    model.compile(sgd, "mse")
    assert [type(each) for each in optimizers_of(model)] == [optimizers.SGD, optimizers.Adam]
    # One inside another is the other's.
    model.compile(optimizers.LossScaleOptimizer(sgd), "mse")
    found = [type(each) for each in optimizers_of(model)]
    assert found == [optimizers.LossScaleOptimizer, optimizers.Adam]
    around = keras.Sequential([model])
    assert {type(each) for each in optimizers_of(around)} == set(found)
    assert optimizers_of(keras.Sequential()) == []


def test_b_joins_the_optimizer_of_a_training_loop() -> None:
    x, y = vectors()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    optimizer = optimizers.Adam(0.01)

    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    step()
    layer = tfwm.convert_model(model, "kp").get_layer("d")
    layer.feedback_kernel.assign(layer.kernel)
    step()
    assert np.array_equal(layer.feedback_kernel, layer.kernel)


def test_the_model_itself_does_not_depend_on_the_garbage_collector() -> None:
    """After gc.freeze() the collector shows no model; what it may hide is said."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), inner])
    for one in (inner, model):
        fit(compiled(one), *vectors())
    told = pytest.warns(UserWarning, match=r"gc\.freeze\(\) hides.*compile it again")
    with frozen(), told:
        tfwm.convert_model(model, "kp")
    for one in (inner, model):
        assert_b_carries(one, *vectors())
