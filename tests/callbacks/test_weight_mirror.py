"""WeightMirror: equal to backprop under impulses, on schedule, and gone without a trace."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import (
    SGD,
    Fails,
    KernelsAfterBatches,
    assert_same_on_replicas,
    compiled,
    convolutional,
    dense,
    distributed,
    eager,
    feedback,
    fit,
    images,
    kernels,
    own_train_step,
    same,
    weights,
)
from tfweightmirror.callbacks import FeedbackMonitor, WeightMirror
from tfweightmirror.mirror import Schedule

UNTAUGHT = "nothing teaches its feedback"


def impulses(**options: Any) -> WeightMirror:
    """The callback whose sweep leaves B equal to W to the bit."""
    return WeightMirror(noise="impulse", **options)


# --- equal to backprop --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",  # replicas:steps_per_execution
    [
        pytest.param(("1:4",), marks=[pytest.mark.slow, pytest.mark.always]),
        pytest.param(("1:1", "2:4", "2:1"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_an_epoch_under_impulses_is_an_epoch_of_backprop_to_the_bit(
    settings: tuple[str, ...],
) -> None:
    # One process for all comparisons: its imports and traces are what takes time.
    command = [sys.executable, "-m", "tests.callbacks.bit_equality", *settings]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    differences = json.loads(run.stdout.splitlines()[-1])
    for setting in settings:
        of_weights = differences[f"weight_mirror {setting}"]
        assert len(of_weights) == 3 * 2 + 2 * 4  # kernels, biases; BatchNorms with statistics
        assert of_weights == dict.fromkeys(of_weights, 0.0), setting
    # The control: where the error comes through another B, it is far more than rounding.
    for name in ("first/kernel", "second/kernel"):
        assert differences[f"feedback_alignment {settings[0]}"][name] > 1e-2, name


# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "steps", "batch"),
    [
        pytest.param(Schedule(), 1 + 16, 16, id="default", marks=pytest.mark.slow),
        pytest.param(
            Schedule(every_batches=3, warm_up_steps=0),
            *(5, 15),
            id="every third batch",
            marks=pytest.mark.slow,
        ),
        pytest.param(Schedule(every_batches=3, steps=2), 1 + 10, 15, id="two steps each"),
        pytest.param(
            Schedule(every_batches=None, warm_up_steps=0, epoch_begin_steps=2), 4, 8, id="begin"
        ),
        pytest.param(
            Schedule(every_batches=None, warm_up_steps=0, epoch_end_steps=1), 2, 16, id="end"
        ),
        pytest.param(
            Schedule(every_batches=None, warm_up_steps=3),
            *(3, 0),
            id="warm-up only",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mirror_mode_runs_when_the_schedule_says(
    schedule: Schedule, steps: int, batch: int
) -> None:
    # `batch`: after how many of the 16 batches B last became W.
    inside = schedule.every_batches is not None  # a trace is needed for what it has in it
    model = compiled(dense("weight_mirror"), run_eagerly=not inside)
    mirror = impulses(schedule=schedule)
    recorder = KernelsAfterBatches()
    fit(model, mirror, recorder, epochs=2)
    assert mirror.mirror_steps.numpy() == steps
    assert len(recorder.kernels) == 17
    equal_at = [t for t, w in enumerate(recorder.kernels) if same(w, feedback(model))]
    assert equal_at == [batch]


def test_a_schedule_counts_batches_not_executions() -> None:
    runs = []
    for steps_per_execution in (1, 4):
        options = {"steps_per_execution": steps_per_execution}
        model = compiled(dense("weight_mirror"), run_eagerly=steps_per_execution == 1, **options)
        mirror = impulses(schedule=Schedule(every_batches=3))
        fit(model, mirror)
        assert mirror.mirror_steps.numpy() == 1 + 2
        assert not same(feedback(model), kernels(model))  # two batches have passed since
        runs.append(feedback(model))
    for name, value in runs[0].items():  # one in a graph: equal up to rounding
        np.testing.assert_allclose(runs[1][name], value, rtol=0, atol=1e-6, err_msg=name)


def test_mirror_mode_follows_every_batch_while_gradients_accumulate() -> None:
    optimizer = SGD(0.05, gradient_accumulation_steps=3)
    model = compiled(dense("weight_mirror"), optimizer, run_eagerly=True)
    mirror, before = impulses(), kernels(model)
    fit(model, mirror)
    assert int(optimizer.iterations) == 2  # of 8 batches
    assert mirror.mirror_steps.numpy() == 1 + 8
    assert not same(kernels(model), before)
    assert same(feedback(model), kernels(model))


# --- several fits, and what is between them -----------------------------------------------------


def test_two_fits_with_evaluation_and_prediction_between_go_on_counting() -> None:
    model, mirror = compiled(dense("weight_mirror")), impulses()
    x, y = images()
    fit(model, mirror, validation_data=(x, y))
    assert mirror.mirror_steps.numpy() == 1 + 8
    assert own_train_step(model)
    held, trained = feedback(model), kernels(model)
    assert same(held, trained)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    assert same(feedback(model), held)
    assert same(kernels(model), trained)
    fit(model, mirror, validation_data=(x, y))
    assert mirror.mirror_steps.numpy() == 2 * (1 + 8)
    assert not same(kernels(model), trained)
    assert same(feedback(model), kernels(model))


def test_after_an_exception_the_next_fit_mirrors_only_if_asked() -> None:
    model = compiled(dense("weight_mirror"))
    with pytest.raises(KeyboardInterrupt, match="stopped by a test"):
        fit(model, impulses(), FeedbackMonitor(), Fails())
    held, trained = feedback(model), kernels(model)
    with pytest.warns(UserWarning, match=UNTAUGHT):
        fit(model)
    assert own_train_step(model)
    assert same(feedback(model), held)
    assert not same(kernels(model), trained)
    mirror = impulses()
    fit(model, mirror)
    assert mirror.mirror_steps.numpy() == 1 + 3 + 1 + 8  # those before the exception, too
    assert same(feedback(model), kernels(model))


def test_a_fit_right_after_an_exception_may_mirror_again() -> None:
    model, mirror = eager(), impulses()
    with pytest.raises(KeyboardInterrupt, match="stopped by a test"):
        fit(model, mirror, Fails())
    assert mirror.mirror_steps.numpy() == 1 + 3
    fit(model, mirror)
    assert mirror.mirror_steps.numpy() == 1 + 3 + 1 + 8
    assert same(feedback(model), kernels(model))
    assert own_train_step(model)


def test_a_train_step_set_on_the_model_itself_comes_back() -> None:
    model = eager()
    own, batches = model.train_step, []

    def train_step(data: Any) -> Any:
        batches.append(data)
        return own(data)

    model.train_step = train_step
    fit(model, impulses(), FeedbackMonitor())
    assert batches
    assert same(feedback(model), kernels(model))
    assert model.train_step is train_step
    assert "make_train_function" not in model.__dict__


# --- other ways to train ------------------------------------------------------------------------


def test_a_users_own_train_step_is_followed_by_mirror_mode() -> None:
    class Halved(keras.Model):
        """Learns from half the loss, by its own gradient tape."""

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                loss = 0.5 * self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"halved": loss}

    def trained(rule: str | None, *callbacks: Any) -> tuple[keras.Model, dict[str, list[float]]]:
        base = dense(rule)
        model = compiled(Halved(base.inputs, base.outputs))
        return model, fit(model, *callbacks)

    plain, _ = trained(None)
    model, history = trained("weight_mirror", impulses())
    assert "halved" in history
    assert same(feedback(model), kernels(model))
    for name, value in weights(plain).items():  # two graphs: equal up to rounding
        np.testing.assert_allclose(weights(model)[name], value, rtol=0, atol=1e-6, err_msg=name)
    assert own_train_step(model)


@pytest.mark.slow  # over replicas: below; a loop of one's own: tests/ways
def test_a_loop_of_ones_own_over_replicas_mirrors(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        model = compiled(dense("weight_mirror"))
        model.optimizer.build(model.trainable_variables)
    mirror = impulses()
    mirror.set_model(model)
    mirror.on_train_begin()

    @tf.function
    def step(batch: Any) -> None:
        two_replicas.run(model.train_step, args=(batch,))

    before = kernels(model)
    with two_replicas.scope():
        for batch in distributed(two_replicas):
            step(batch)
    mirror.on_train_end()
    assert mirror.mirror_steps.numpy() == 1 + 8
    assert not same(kernels(model), before)
    assert same(feedback(model), kernels(model))
    for pathway in tfwm.pathways(model):
        assert_same_on_replicas(pathway.feedback_kernel)
    assert own_train_step(model)


@pytest.mark.slow  # tests/test_jit_compile.py
def test_mirror_mode_runs_inside_a_train_step_compiled_by_xla() -> None:
    model, mirror = compiled(dense("weight_mirror"), jit_compile=True), impulses()
    before = kernels(model)
    fit(model, mirror, batches=4)
    assert mirror.mirror_steps.numpy() == 1 + 4
    assert not same(kernels(model), before)
    # In degrees: XLA may sum in another order, so not asserted to the bit.
    assert max(tfwm.weight_angles(model).values()) < 1e-3


def test_the_papers_mode_comes_close() -> None:
    model = compiled(dense("weight_mirror"), SGD(0.01))
    before = tfwm.weight_angles(model)
    mirror = WeightMirror.akrout2019(activations={"head": "linear"})
    fit(model, mirror, batches=32)
    assert mirror.mirror_steps.numpy() == 1 + 32
    # Random at first; aimed at 12 degrees, with a floor from biases and the activation's bend.
    assert min(before.values()) > 60
    assert max(tfwm.weight_angles(model).values()) < 30


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["gaussian", "orthogonal"])
def test_replicas_hold_the_same_bits_after_training(
    two_replicas: tf.distribute.Strategy, noise: str
) -> None:
    with two_replicas.scope():
        model = compiled(dense("weight_mirror"))
    before = feedback(model)
    schedule = Schedule(every_batches=2)  # so that some steps are not due
    mirror = WeightMirror(noise, schedule=schedule)
    fit(model, mirror)
    assert mirror.mirror_steps.numpy() == 1 + 4
    for pathway in tfwm.pathways(model):
        assert not np.array_equal(pathway.feedback_kernel.numpy(), before[pathway.name])
        assert_same_on_replicas(pathway.feedback_kernel)
        assert_same_on_replicas(pathway.kernel)


# --- what it says -------------------------------------------------------------------------------


def test_samples_per_step_are_those_that_fire() -> None:
    model = convolutional("weight_mirror")
    fan_in = {"first": 9, "second": 16, "head": 54}
    assert WeightMirror().samples_per_step(model) == fan_in
    assert impulses().samples_per_step(model) == fan_in
    assert impulses(sign_pairs=True).samples_per_step(model) == {
        name: 2 * cells for name, cells in fan_in.items()
    }
    assert WeightMirror.akrout2019(samples=7).samples_per_step(model) == dict.fromkeys(fan_in, 7)


def test_the_noise_fired_is_as_many_samples_as_announced() -> None:
    fired: dict[str, int] = {}

    def listening(pathway: tfwm.Pathway, signals: tf.Tensor) -> tf.Tensor:
        cells = int(tf.size(signals)) if tf.executing_eagerly() else signals.shape.num_elements()
        fired[pathway.name] = cells // signals.shape[-1]
        return pathway.respond(signals)

    model = eager()
    mirror = WeightMirror(tfwm.mirror.noise.Gaussian(samples=5), respond=listening)
    fit(model, mirror, batches=1)
    assert fired == mirror.samples_per_step(model) == {"hidden": 5, "head": 5}


def test_an_unbuilt_model_is_a_clear_error() -> None:
    layers = [keras.layers.Flatten(), tfwm.layers.FeedbackDense(4, rule="wm", name="d")]
    with pytest.raises(ValueError, match=r"Layer 'd' has no pathways before it is built.*build it"):
        fit(compiled(keras.Sequential(layers)), WeightMirror())


def test_two_weight_mirrors_are_a_clear_error() -> None:
    model = eager()
    with pytest.raises(ValueError, match=r"'dense' is already trained with a mirror.*one only"):
        fit(model, impulses(), impulses())
    fit(model, impulses())  # and the error leaves nothing behind
    assert same(feedback(model), kernels(model))


@pytest.mark.parametrize(
    ("rule", "found"), [("kolen_pollack", "rules are kolen_pollack"), (None, "no feedback layer")]
)
def test_a_model_without_weight_mirror_layers_is_a_clear_error(
    rule: str | None, found: str
) -> None:
    model = compiled(dense(rule))
    with pytest.raises(ValueError, match=rf"'weight_mirror', but 'dense' has .*{found}.*convert"):
        fit(model, WeightMirror())
    assert own_train_step(model)


def test_training_untaught_warns_once_and_only_training_does() -> None:
    model = compiled(dense("weight_mirror"))
    fit(model, impulses())  # a warning here is an error
    with pytest.warns(UserWarning, match=rf"'dense' trains .*{UNTAUGHT}") as caught:
        fit(model)
    assert sum(UNTAUGHT in str(w.message) for w in caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.make_train_function(force=True)  # traced again, as after `compile`
        fit(model)
