"""What a callback has put into the train step stays as long as it is in charge, and no longer."""

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

import tfweightmirror as tfwm
from tests.callbacks.training import (
    SGD,
    Fails,
    compiled,
    dense,
    eager,
    feedback,
    fit,
    images,
    kernels,
    own_train_step,
    same,
)
from tests.slow import slow_but
from tfweightmirror.callbacks import FeedbackMonitor, WeightMirror
from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.mirror import Schedule
from tfweightmirror.mirror.memory import MirrorMemory

UNTAUGHT = "nothing teaches its feedback"


def impulses() -> WeightMirror:
    """Leaves B equal to W to the bit after every batch, and does nothing else."""
    return WeightMirror("impulse", schedule=Schedule(warm_up_steps=0))


def told(model: keras.Model, *callbacks: keras.callbacks.Callback) -> keras.callbacks.CallbackList:
    """Callbacks to drive by hand."""
    return keras.callbacks.CallbackList(list(callbacks), model=model, epochs=1)


def train_on_batch(model: keras.Model) -> None:
    """One batch by hand."""
    model.train_on_batch(*images(1))


class AtSecondEpoch(keras.callbacks.Callback):
    """Calls a function with the model at the begin of the second epoch."""

    def __init__(self, function: Callable[[keras.Model], Any]) -> None:
        super().__init__()
        self.function = function

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.function(self.model)


# --- it stays -----------------------------------------------------------------------------------


def test_callbacks_driven_by_hand_are_in_charge_of_train_on_batch() -> None:
    model, mirror = compiled(dense("weight_mirror")), impulses()
    callbacks, before = told(model, mirror), kernels(model)
    callbacks.on_train_begin()
    for _ in range(3):
        train_on_batch(model)
        assert same(feedback(model), kernels(model))
    assert not same(kernels(model), before)
    assert mirror.mirror_steps.numpy() == 3
    callbacks.on_train_end()
    assert own_train_step(model)
    held = feedback(model)
    with pytest.warns(UserWarning, match=UNTAUGHT):
        train_on_batch(model)
    assert same(feedback(model), held)


def compile_again(model: keras.Model) -> None:
    """As a callback does that unfreezes layers."""
    compiled(model, SGD(0.1))
    model.make_train_function(force=True)


@pytest.mark.parametrize(
    "function", slow_but([compile_again, fit], [compile_again, train_on_batch, fit])
)
def test_the_mirror_goes_on_whatever_another_callback_makes_of_the_train_function(
    function: Callable[[keras.Model], Any],
) -> None:
    model, mirror = compiled(dense("weight_mirror")), impulses()
    fit(model, mirror, AtSecondEpoch(function), epochs=2, batches=2)
    inside = {train_on_batch: 1, fit: 8}.get(function, 0)
    assert mirror.mirror_steps.numpy() == 4 + inside
    assert same(feedback(model), kernels(model))
    assert own_train_step(model)


def test_layers_of_other_rules_may_change_in_mid_training_those_of_the_mirror_may_not() -> None:
    def to_other_rule(model: keras.Model) -> None:
        tfwm.convert_model(model, {"plain": "fa"})

    def with_a_plain_layer(**options: Any) -> keras.Model:
        base = dense("weight_mirror")
        layers = [*base.layers, keras.layers.Dense(4, name="plain")]
        return compiled(keras.Sequential([keras.Input((8, 8, 1)), *layers]), **options)

    model, mirror = with_a_plain_layer(), impulses()
    fit(model, mirror, AtSecondEpoch(to_other_rule), epochs=2, batches=2)
    assert mirror.mirror_steps.numpy() == 4
    taught = [p for p in tfwm.pathways(model) if p.rule.learns_by == "mirror"]
    assert max(tfwm.weight_angles(model)[p.name] for p in taught) == 0
    for change in (
        tfwm.strip_feedback,
        lambda model: tfwm.convert_model(model, {"plain": "wm"}),
    ):
        model = with_a_plain_layer(run_eagerly=True)
        with pytest.raises(ValueError, match=r"converted or stripped in the middle.*Let this fit"):
            fit(model, impulses(), AtSecondEpoch(change), epochs=2, batches=2)


@pytest.mark.parametrize("steps_per_execution", slow_but([2], [1, 2]))
def test_eager_steps_are_mirrored(steps_per_execution: int) -> None:
    model = compiled(
        dense("weight_mirror"), run_eagerly=True, steps_per_execution=steps_per_execution
    )
    mirror = impulses()
    fit(model, mirror, batches=4)
    assert mirror.mirror_steps.numpy() == 4
    assert same(feedback(model), kernels(model))


# --- and no longer ------------------------------------------------------------------------------


def fail(model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
    """A `fit` that ends in an exception after its third batch."""
    with pytest.raises(KeyboardInterrupt, match="stopped by a test"):
        fit(model, *callbacks, Fails())


def test_after_a_failed_fit_train_on_batch_is_on_its_own() -> None:
    model = eager()
    fail(model, impulses(), FeedbackMonitor())
    held = feedback(model)
    with pytest.warns(UserWarning, match=UNTAUGHT):
        train_on_batch(model)
    assert own_train_step(model)
    assert same(feedback(model), held)
    assert not same(kernels(model), held)


def test_after_a_failed_fit_another_mirror_may_be_driven_by_hand() -> None:
    model, mirror = eager(), impulses()
    fail(model, impulses())
    callbacks = told(model, mirror)
    callbacks.on_train_begin()
    train_on_batch(model)
    assert same(feedback(model), kernels(model))
    callbacks.on_train_end()
    assert own_train_step(model)


def test_a_fit_ends_what_was_begun_by_hand() -> None:
    model = eager()
    told(model, impulses()).on_train_begin()
    train_on_batch(model)
    held = feedback(model)
    with pytest.warns(UserWarning, match=UNTAUGHT):
        fit(model, batches=1)
    assert own_train_step(model)
    assert same(feedback(model), held)


def test_by_hand_one_that_begins_again_or_after_steps_of_another_takes_its_place() -> None:
    model, one, other = eager(), impulses(), impulses()
    told(model, one).on_train_begin()
    told(model, one).on_train_begin()
    with pytest.raises(ValueError, match=r"already trained with a mirror.*pass one only"):
        told(model, other).on_train_begin()
    train_on_batch(model)
    told(model, other).on_train_begin()  # the first has failed without an end
    train_on_batch(model)
    assert other.mirror_steps.numpy() == 2
    one.on_train_end()  # late, and no longer in charge
    train_on_batch(model)
    assert same(feedback(model), kernels(model))
    other.on_train_end()
    assert own_train_step(model)


def test_work_is_cleaned_up_once_when_it_leaves() -> None:
    model, ended = eager("feedback_alignment"), []
    step = TrainStep.of(model)

    def add(stage: str, name: str) -> Any:
        around = type(name, (), {"around": lambda self: contextlib.nullcontext()})().around
        step.add(stage, around, lambda: ended.append(name))
        return around

    mirror, kolen_pollack = add("mirror", "one"), add("kolen_pollack", "kp")
    step.remove("mirror", kolen_pollack)
    assert ended == []
    train_on_batch(model)
    add("mirror", "other")
    assert ended == ["one"]
    step.remove("mirror", mirror)
    assert ended == ["one"]
    step.remove("kolen_pollack")
    assert ended == ["one", "kp"]
    step.undo()
    assert ended == ["one", "kp", "other"]
    assert own_train_step(model)


def test_copies_made_in_mid_training_train_by_themselves(tmp_path: Path) -> None:
    copies: list[keras.Model] = []

    def copy_in_every_way(model: keras.Model) -> None:
        model.save(tmp_path / "model.keras")
        copies.extend(
            [
                keras.models.load_model(tmp_path / "model.keras"),
                keras.models.clone_model(model),
                copy.deepcopy(model),
            ]
        )
        assert not own_train_step(model)

    model, mirror = eager(), impulses()
    fit(model, mirror, AtSecondEpoch(copy_in_every_way), epochs=2, batches=1)
    assert mirror.mirror_steps.numpy() == 2
    for other in copies:
        assert own_train_step(other)
        assert "_mirror_memory" not in vars(other)


# --- counting -----------------------------------------------------------------------------------


def gaussian() -> WeightMirror:
    """Independent noise, whose every step leaves a trace in B."""
    noise = tfwm.mirror.noise.Gaussian(samples=20, decay=0.5)
    return WeightMirror(noise, schedule=Schedule(every_batches=2))


@pytest.mark.slow
@pytest.mark.always
def test_a_callback_begins_anew_with_another_model() -> None:
    """As in k folds, each of which is the same alone or after others."""
    mirror, folds = gaussian(), []
    for batches in (3, 3):
        model = eager()
        fit(model, mirror, batches=batches)
        assert mirror.mirror_steps.numpy() == 1 + 1
        folds.append(feedback(model))
    assert same(*folds)


@pytest.mark.slow
@pytest.mark.always
def test_another_callback_of_the_same_seed_goes_on_with_the_model_s_noise() -> None:
    """As in a loop over `fit(callbacks=[WeightMirror(...)])`."""
    ends = []
    for callbacks in ([gaussian()] * 2, [gaussian(), gaussian()]):
        model = eager()
        for mirror in callbacks:
            fit(model, mirror, batches=2)
        assert mirror.mirror_steps.numpy() == 2 * (1 + 1)
        ends.append(feedback(model))
        (warm_up,) = MirrorMemory.of(model).functions.values()
        assert warm_up.experimental_get_tracing_count() == 1
    assert same(*ends)


@pytest.mark.parametrize("mirror_first", slow_but([False], [True, False]))
def test_a_restored_training_fires_noise_that_was_not_fired_before(
    mirror_first: bool, tmp_path: Path
) -> None:
    """Keras' `BackupAndRestore` keeps weights and optimizer, and not what callbacks count."""

    def train(model: keras.Model, *others: keras.callbacks.Callback) -> WeightMirror:
        mirror = WeightMirror(tfwm.mirror.noise.Gaussian(samples=20, decay=0.5))
        backup = keras.callbacks.BackupAndRestore(str(tmp_path), save_freq=2)
        callbacks = [mirror, backup] if mirror_first else [backup, mirror]
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, *callbacks, *others, batches=4)
        return mirror

    fired = []
    for others in ([Fails()], [Fails()], []):
        model = eager()
        mirror = train(model, *others)
        last = int(mirror.mirror_steps.numpy())
        fired.append(range(last - 3 - (not others), last))
    # In each try the first batch has fired what no try before it has.
    ends = [steps.stop for steps in fired]
    assert ends[0] == 1 + 3
    assert all(new.start >= end for new, end in zip(fired[1:], ends, strict=False)), fired
