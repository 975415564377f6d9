"""Learning rates over the steps, and their reduction in the middle of a run."""

import itertools
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.slow import slow_but
from train.config import ScheduleConfig
from train.errors import UserError
from train.parts.schedules import (
    ReducibleSchedule,
    build_schedule,
    learning_rate_now,
    rate_variables,
    reduce_learning_rate,
)

EPOCHS, STEPS = 10, 20  # epochs, and steps in each


def rates(config: ScheduleConfig) -> list[float]:
    """The rate of every step of a training that starts at 0.5."""
    schedule = build_schedule(config, 0.5, steps_per_epoch=STEPS, steps=EPOCHS * STEPS)
    every_step = tf.range(EPOCHS * STEPS + 1, dtype=tf.int64)
    compiled = tf.function(lambda: tf.map_fn(schedule, every_step, fn_output_signature=tf.float32))
    return list(compiled().numpy())


def test_constant_rate_is_the_optimizers_own_number() -> None:
    rate = build_schedule(ScheduleConfig(), 0.5, steps_per_epoch=STEPS, steps=EPOCHS * STEPS)
    assert rate == 0.5
    assert isinstance(rate, float)


def test_piecewise_drops_at_the_first_step_behind_each_boundary() -> None:
    config = ScheduleConfig(name="piecewise", boundaries_epochs=(3, 7.5), factor=0.1)
    expected = [0.5] * 60 + [0.05] * 90 + [0.005] * 51
    np.testing.assert_allclose(rates(config), expected, rtol=1e-6)


def test_boundaries_and_warm_up_may_be_given_in_steps() -> None:
    in_steps = ScheduleConfig(name="piecewise", boundaries_steps=(60, 150), warm_up_steps=10)
    in_epochs = ScheduleConfig(name="piecewise", boundaries_epochs=(3, 7.5), warm_up_epochs=0.5)
    assert rates(in_steps) == rates(in_epochs)


def test_cosine_falls_to_its_final_factor() -> None:
    config = ScheduleConfig(name="cosine", final_factor=0.02)
    expected = [
        0.5 * (0.02 + 0.98 * (1 + math.cos(math.pi * step / 200)) / 2) for step in range(201)
    ]
    np.testing.assert_allclose(rates(config), expected, rtol=1e-5, atol=1e-8)
    assert rates(config)[-1] == pytest.approx(0.01)


def test_warm_up_rises_linearly_from_zero() -> None:
    config = ScheduleConfig(warm_up_epochs=0.5)
    expected = [0.05 * step for step in range(10)] + [0.5] * 191
    np.testing.assert_allclose(rates(config), expected, rtol=1e-6)


def test_boundaries_count_from_the_begin_of_the_warm_up() -> None:
    config = ScheduleConfig(name="piecewise", boundaries_epochs=(3,), warm_up_epochs=2)
    expected = [0.5 * step / 40 for step in range(40)] + [0.5] * 20 + [0.05] * 141
    np.testing.assert_allclose(rates(config), expected, rtol=1e-6)


def test_cosine_begins_where_the_warm_up_ends_as_in_keras() -> None:
    config = ScheduleConfig(name="cosine", warm_up_epochs=2)
    by_hand = [0.5 * step / 40 for step in range(40)]
    by_hand += [0.25 * (1 + math.cos(math.pi * step / 160)) for step in range(161)]
    np.testing.assert_allclose(rates(config), by_hand, rtol=1e-5, atol=1e-8)
    keras_own = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=160, warmup_target=0.5, warmup_steps=40
    )
    np.testing.assert_allclose(
        rates(config), [float(keras_own(step)) for step in range(201)], rtol=1e-5, atol=1e-8
    )


def test_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match="warm_up_epochs is 10, 200 of 200 training steps"):
        rates(ScheduleConfig(warm_up_epochs=10))


# --- reducing -----------------------------------------------------------------------------------

SCHEDULES = {
    "constant": ScheduleConfig(),
    "warm-up": ScheduleConfig(warm_up_epochs=0.1),
    "piecewise": ScheduleConfig(name="piecewise", boundaries_epochs=(0.15,), factor=0.5),
    "cosine": ScheduleConfig(name="cosine"),
    "cosine with warm-up": ScheduleConfig(name="cosine", warm_up_epochs=0.1),
}


def optimizer_of(name: str, **options: Any) -> Any:
    rate = build_schedule(SCHEDULES[name], 0.5, steps_per_epoch=STEPS, steps=STEPS)
    return keras.optimizers.SGD(rate, **options)


def compiled_step(optimizer: Any, weight: Any) -> Any:
    """A compiled step with a gradient of 1, which returns how far it went."""

    @tf.function
    def step() -> tf.Tensor:
        before = tf.identity(weight.value)
        optimizer.apply([tf.ones(())], [weight])
        return before - weight.value

    return step


@pytest.mark.parametrize(
    ("name", "scaled"),
    slow_but(
        [("constant", False), ("cosine with warm-up", True)],
        itertools.product(SCHEDULES, [False, True]),
        unpack=True,
    ),
)
def test_reduction_takes_effect_in_a_step_that_is_already_compiled(name: str, scaled: bool) -> None:
    expected = rates_of_one_epoch(name)
    optimizer, weight = optimizer_of(name), keras.Variable(0.0)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    optimizer.build([weight])
    step = compiled_step(optimizer, weight)
    steps = [float(step()) for _ in range(5)]
    reduce_learning_rate(optimizer, 0.5)
    assert learning_rate_now(optimizer) == pytest.approx(expected[5] / 2)
    steps += [float(step()) for _ in range(5)]
    reduce_learning_rate(optimizer, 0.5)
    steps += [float(step()) for _ in range(5)]
    factors = [1.0] * 5 + [0.5] * 5 + [0.25] * 5
    np.testing.assert_allclose(steps, np.multiply(expected[:15], factors), rtol=1e-4, atol=1e-6)
    assert step.experimental_get_tracing_count() == 1


def rates_of_one_epoch(name: str) -> list[float]:
    rate = build_schedule(SCHEDULES[name], 0.5, steps_per_epoch=STEPS, steps=STEPS)
    return [float(rate(step)) if callable(rate) else rate for step in range(STEPS)]


@pytest.mark.parametrize("name", slow_but(["constant", "cosine"], SCHEDULES))
def test_reduction_is_in_a_checkpoint_of_the_named_variables(name: str, tmp_path: Path) -> None:
    def state(optimizer: Any) -> Any:
        return tf.train.Checkpoint(
            variables=[v.value for v in optimizer.variables], rate=rate_variables(optimizer)
        )

    optimizer, other = optimizer_of(name), optimizer_of(name)
    assert len(rate_variables(optimizer)) == (name != "constant")
    for each in (optimizer, other):
        each.build([keras.Variable(0.0)])
        each.iterations.assign(3)
    reduce_learning_rate(optimizer, 0.25)
    path = state(optimizer).write(str(tmp_path / "checkpoint"))
    assert learning_rate_now(other) == pytest.approx(4 * learning_rate_now(optimizer))
    state(other).read(path).assert_consumed()
    assert learning_rate_now(other) == learning_rate_now(optimizer)


@pytest.mark.parametrize("decay", slow_but([0.5], [None, 0.5]))
@pytest.mark.parametrize("name", slow_but(["constant", "cosine with warm-up"], SCHEDULES))
def test_two_replicas_take_the_rates_of_one_and_are_reduced_together(
    two_replicas: tf.distribute.Strategy, name: str, decay: float | None
) -> None:
    def trained(strategy: tf.distribute.Strategy) -> list[float]:
        with strategy.scope():
            weight = keras.Variable(1.0)
            optimizer = optimizer_of(name, momentum=0.5, weight_decay=decay)
            optimizer.build([weight])

        def replica_step() -> None:
            # The sum over replicas is 1 for either strategy.
            optimizer.apply([tf.ones(()) / strategy.num_replicas_in_sync], [weight])

        step = tf.function(lambda: strategy.run(replica_step))

        values = []
        for _ in range(2):
            for _ in range(4):
                step()
                values.append(float(weight.numpy()))
            reduce_learning_rate(optimizer, 0.5)
        for variable in rate_variables(optimizer) if strategy is two_replicas else []:
            assert [float(copy.numpy()) for copy in variable.values] == [0.25, 0.25]
        return values

    one = trained(tf.distribute.get_strategy())
    assert len(set(one)) >= 7
    np.testing.assert_allclose(trained(two_replicas), one, rtol=1e-6)


def test_schedule_is_saved_with_its_scale() -> None:
    schedule = build_schedule(
        SCHEDULES["cosine with warm-up"], 0.5, steps_per_epoch=STEPS, steps=STEPS
    )
    schedule.scale.assign(0.25)
    saved = keras.optimizers.schedules.serialize(schedule)
    loaded = keras.optimizers.schedules.deserialize(saved)
    assert isinstance(loaded, ReducibleSchedule)
    for step in (0, 1, 5, 19):
        assert float(loaded(step)) == float(schedule(step))
    constant = ReducibleSchedule(0.5, warm_up_steps=2)
    assert float(ReducibleSchedule.from_config(constant.get_config())(1)) == 0.25
