"""Canary: every private hook of Keras' optimizers still does what this library relies on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import fit, vectors
from tfweightmirror._internals import optimizer_hooks
from tfweightmirror._internals.optimizer_hooks import (
    coupled_decay_of,
    decay_of,
    per_step_decay_of,
    same_update,
    that_constrains,
    velocity_of,
)

O = keras.optimizers  # noqa: E741  # as `K` and `L` elsewhere


def network() -> keras.Model:
    """Two Kolen-Pollack layers: matrices with biases, each with its B."""
    dense = tfwm.layers.FeedbackDense
    layers = [dense(4, name="hidden", rule="kp"), dense(3, name="head", rule="kp")]
    return keras.Sequential([keras.Input((5,)), *layers], name="model")


def named(model: keras.Model) -> dict[str, keras.Variable]:
    """Trainable variables by path."""
    return {
        variable.path.removeprefix("model/"): variable for variable in model.trainable_variables
    }


def twins(model: keras.Model) -> list[tuple[keras.Variable, keras.Variable]]:
    """(W, B) of both layers."""
    return [(p.kernel, p.feedback_kernel) for p in tfwm.pathways(model)]


# --- decay --------------------------------------------------------------------------------------


def excluding(optimizer: Any, **what: Any) -> Any:
    """`optimizer` with something taken out of its decay."""
    optimizer.exclude_from_weight_decay(**what)
    return optimizer


DECAYING = {
    "none": lambda: O.SGD(0.1),
    "zero": lambda: O.SGD(0.1, weight_decay=0.0),
    "sgd": lambda: O.SGD(0.1, weight_decay=0.5),
    "adamw": lambda: O.AdamW(0.1, weight_decay=0.5),
    "lion": lambda: O.Lion(0.1, weight_decay=0.5),
    "muon": lambda: O.Muon(0.1, weight_decay=0.5, adam_weight_decay=0.25),
    "muon on matrices alone": lambda: O.Muon(0.1, weight_decay=0.5, adam_weight_decay=None),
    "muon without one layer": lambda: O.Muon(
        0.1, weight_decay=0.5, adam_weight_decay=0.25, exclude_layers=["head"]
    ),
    "without a name": lambda: excluding(O.SGD(0.1, weight_decay=0.5), var_names=["bias"]),
    "without a layer": lambda: excluding(O.SGD(0.1, weight_decay=0.5), var_names=["hidden/"]),
    "without one of a pair": lambda: excluding(
        O.AdamW(0.1, weight_decay=0.5), var_names=["hidden/kernel", "head/feedback"]
    ),
    "muon without a path": lambda: excluding(
        O.Muon(0.1, weight_decay=0.5), var_names=["hidden/kernel", "bias"]
    ),
}


def taken(optimizer: Any, variables: dict[str, keras.Variable]) -> dict[str, float]:
    """What an update without gradients takes from ones, over the learning rate of 0.1."""
    for variable in variables.values():
        variable.assign(tf.ones(variable.shape))
    optimizer.build(list(variables.values()))
    optimizer.apply([tf.zeros(v.shape) for v in variables.values()], list(variables.values()))
    return {path: float(1 - tf.reduce_max(v.value)) / 0.1 for path, v in variables.items()}


@pytest.mark.parametrize("name", DECAYING)
def test_decay_is_what_the_optimizer_takes_and_asking_for_it_changes_nothing(name: str) -> None:
    expected = pytest.approx(taken(DECAYING[name](), named(network())), abs=1e-5)
    optimizer, variables = DECAYING[name](), named(network())
    assert {path: decay_of(optimizer, v) for path, v in variables.items()} == expected
    assert taken(optimizer, variables) == expected  # Keras remembers the answer it gave.


def test_exclusions_meant_by_layer_or_by_name_are_told_apart() -> None:
    """The table above is of different optimizers indeed."""
    found = {}
    for name, make in DECAYING.items():
        optimizer, variables = make(), named(network())
        found[name] = [decay_of(optimizer, v) for v in variables.values()]
    assert found["sgd"] == [0.5] * 6
    assert found["without a layer"] == [0.0] * 3 + [0.5] * 3
    assert found["without one of a pair"] == [0.0, 0.5, 0.5, 0.5, 0.5, 0.0]


def test_coupled_decay_is_what_the_attribute_says_but_for_exclusions() -> None:
    variables = named(network())
    optimizer = excluding(O.SGD(0.1), var_names=["bias"])
    assert {coupled_decay_of(optimizer, v) for v in variables.values()} == {0.0}
    optimizer.coupled_weight_decay = 0.5
    found = {path: coupled_decay_of(optimizer, v) for path, v in variables.items()}
    assert found == {path: 0.0 if "bias" in path else 0.5 for path in variables}
    assert {decay_of(optimizer, v) for v in variables.values()} == {0.0}


def test_per_step_decay_is_what_the_attribute_says_but_for_exclusions() -> None:
    variables = named(network())
    optimizer = excluding(O.SGD(0.1), var_names=["bias"])
    assert {per_step_decay_of(optimizer, v) for v in variables.values()} == {0.0}
    optimizer.per_step_weight_decay = 0.01
    found = {path: per_step_decay_of(optimizer, v) for path, v in variables.items()}
    assert found == {path: 0.0 if "bias" in path else 0.01 for path in variables}
    assert {coupled_decay_of(optimizer, v) for v in variables.values()} == {0.0}


# --- momentum -----------------------------------------------------------------------------------


def test_velocity_is_the_step_that_momentum_took() -> None:
    variables = named(network())
    kernel = variables["head/kernel"]
    optimizer = O.SGD(0.1, momentum=0.9)
    assert velocity_of(optimizer, kernel) is None  # not built
    optimizer.build(list(variables.values()))
    before = kernel.numpy()
    optimizer.apply([tf.ones(v.shape) for v in variables.values()], list(variables.values()))
    np.testing.assert_allclose(velocity_of(optimizer, kernel), kernel.numpy() - before, atol=1e-6)
    plain = O.SGD(0.1)
    plain.build(list(variables.values()))
    assert velocity_of(plain, kernel) is None


# --- Muon ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "same"),
    [
        (lambda: O.SGD(), True),
        (lambda: O.Muon(), True),
        (lambda: O.Muon(exclude_layers=["hidden"]), True),
        (lambda: O.Muon(exclude_layers=["feedback"]), False),
        (lambda: O.Muon(exclude_layers=["hidden/kernel"]), False),
    ],
)
def test_muon_treats_a_pair_alike_unless_one_is_excluded(optimizer: Any, same: bool) -> None:
    kernel, feedback = twins(network())[0]
    assert same_update(optimizer(), kernel, feedback) == same


def test_velocity_of_a_variable_that_the_optimizer_does_not_know_is_none() -> None:
    model = network()
    optimizer = O.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables[:1])
    assert velocity_of(optimizer, model.trainable_variables[-1]) is None


def test_optimizers_that_know_a_variable_are_found() -> None:
    one, other = keras.layers.Dense(3), keras.layers.Dense(3)
    for layer in (one, other):
        layer.build((None, 4))
    optimizers = [keras.optimizers.SGD() for _ in range(3)]
    optimizers[0].build([one.kernel, other.kernel])
    optimizers[1].build([other.kernel])
    found = optimizer_hooks.optimizers_knowing([one.kernel])
    assert [id(each) for each in found] == [id(optimizers[0])]


def test_an_optimizer_can_be_built_again_with_its_own_variables_in_place(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    fit(model, *vectors())
    optimizer = model.optimizer
    known = optimizer_hooks.known_variables(optimizer)
    assert [id(v) for v in known] == [id(v) for v in model.trainable_variables]
    state = optimizer_hooks.optimizer_state(optimizer)
    assert {"_iterations", "_learning_rate", "_momentums", "_velocities"} == set(state)
    assert len(state["_momentums"]) == 4
    optimizer_hooks.build_again([optimizer], known[:2])
    assert optimizer.iterations is state["_iterations"]
    assert optimizer.learning_rate is state["_learning_rate"]
    assert [v.path.split("/")[-1].split("_")[-1] for v in optimizer.variables] == [
        "iteration",
        "rate",
        *["momentum", "velocity"] * 2,
    ]
    assert not np.any(optimizer.variables[2])
    # What it makes from now on is tracked as at birth, and checkpoints hold it.
    optimizer.add_variable((), name="later")
    assert len(optimizer.variables) == 7
    checkpoint = tf.train.Checkpoint(optimizer=optimizer)
    saved = {name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "c"))}
    assert sum("_variables/" in name for name in saved) == 7


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_constraint_finds_the_optimizer_that_asks_it(scaled: bool, compiled: bool) -> None:
    found, weight = [], keras.Variable([1.0])

    def constraint(value: Any) -> tf.Tensor:
        found.append(that_constrains())
        return tf.convert_to_tensor(value)

    weight.constraint = constraint
    inner = O.SGD(0.1)
    optimizer = O.LossScaleOptimizer(inner) if scaled else inner
    optimizer.build([weight])

    def step() -> None:
        optimizer.apply([tf.constant([1.0])], [weight])

    (tf.function(step) if compiled else step)()
    assert found
    assert all(each is inner for each in found)
    assert that_constrains() is None


# --- gradients of local losses ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [
        (lambda: O.SGD(1.0), 1.0),
        (lambda: O.SGD(1.0, loss_scale_factor=64.0), 64.0),
        (lambda: O.LossScaleOptimizer(O.SGD(1.0), initial_scale=1024.0), 1024.0),
        (lambda: O.LossScaleOptimizer(O.Adam(1.0, loss_scale_factor=8.0), initial_scale=16.0), 16),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_gradient_that_no_loss_has_scaled_is_not_unscaled(
    optimizer: Any, scale: float, named: bool
) -> None:
    scaled, own = (keras.Variable(np.zeros(3, "f4")) for _ in range(2))
    own.learns_from_signals = True
    by = optimizer()
    by.build([scaled, own])
    gradient = tf.constant([0.5, 1.0, 2.0])
    by.apply([scale * gradient, gradient], [scaled, own] if named else None)
    assert np.abs(own).max() > 0.1
    np.testing.assert_array_equal(own, scaled)
