"""A second fit under the same callbacks goes on with the traces of the first, where it may."""

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import (
    SGD,
    Fails,
    compiled,
    convolutional,
    feedback,
    fit,
    images,
    kernels,
    same,
)
from tests.slow import slow_but
from tfweightmirror.callbacks import FeedbackMonitor, KolenPollack, WeightMirror
from tfweightmirror.callbacks.train_functions import TrainFunctions
from tfweightmirror.mirror import Schedule
from tfweightmirror.mirror.noise import Gaussian

Callbacks = list[keras.callbacks.Callback]
Change = Callable[[keras.Model], Any]


class Counts(keras.layers.Layer):
    """Passes signals on, and counts how often a training step was traced."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(name="counts")
        self.traces = 0
        self.scale = scale

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The inputs, scaled."""
        self.traces += bool(training)
        return x * self.scale


def counting(rule: str, **options: Any) -> keras.Model:
    """64 pixels, a layer that counts traces, 6 tanh cells, 4 logits."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Flatten(),
        Counts(),
        tfwm.layers.FeedbackDense(6, activation="tanh", rule=rule, name="hidden"),
        keras.layers.Dropout(0.2, seed=1, name="dropout"),
        tfwm.layers.FeedbackDense(4, rule=rule, name="head"),
    ]
    optimizer = options.pop("optimizer", None) or SGD(0.05, momentum=0.9, weight_decay=0.01)
    return compiled(
        keras.Sequential([keras.Input((8, 8, 1)), *layers], name="counting"), optimizer, **options
    )


def traces(model: keras.Model) -> int:
    """How often its training step was traced."""
    return int(model.get_layer("counts").traces)


def gaussian(**options: Any) -> WeightMirror:
    """Independent noise, whose every step leaves a trace in B."""
    return WeightMirror(
        Gaussian(samples=20, decay=0.5), schedule=Schedule(every_batches=2), **options
    )


KINDS: dict[str, tuple[str, Callable[[], Callbacks]]] = {
    "gaussian": ("weight_mirror", lambda: [gaussian()]),
    "impulse": ("weight_mirror", lambda: [WeightMirror("impulse")]),
    "akrout2019": (
        "weight_mirror",
        lambda: [WeightMirror.akrout2019(activations={"head": "linear"})],
    ),
    "monitored": ("weight_mirror", lambda: [gaussian(), FeedbackMonitor()]),
    "kolen_pollack": ("kolen_pollack", lambda: [KolenPollack()]),
}


def state(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of all that training moves."""
    variables = [*model.variables, *model.optimizer.variables]
    return {str(i): np.array(v.numpy()) for i, v in enumerate(variables)}


def anew(model: keras.Model) -> None:
    """Make the model forget what it has traced."""
    model.make_train_function(force=True)


# --- it goes on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", slow_but([True], [True, False]))
@pytest.mark.parametrize("kind", slow_but(["kolen_pollack"], KINDS))
def test_a_second_fit_traces_nothing_and_gives_the_bits_of_one_that_does(
    kind: str, fresh: bool
) -> None:
    rule, make = KINDS[kind]
    ends, logs = [], []
    for between in (lambda model: None, anew):
        model, callbacks = counting(rule, metrics=["accuracy"]), make()
        logs.append([fit(model, *callbacks, batches=3)])
        assert traces(model) == 1
        between(model)
        for _ in range(2):
            callbacks = make() if fresh else callbacks
            logs[-1].append(fit(model, *callbacks, batches=3))
        assert traces(model) == 1 + (between is anew)
        ends.append(state(model))
    assert same(*ends)
    assert logs[0] == logs[1]


def test_plain_fits_in_between_are_traced_once_and_do_not_teach() -> None:
    model = counting("weight_mirror")
    fit(model, gaussian(), batches=2)
    held = feedback(model)
    with pytest.warns(UserWarning, match="nothing teaches"):
        fit(model, batches=2)
    assert same(feedback(model), held)
    assert traces(model) == 2
    fit(model, gaussian(), batches=2)
    held = feedback(model)
    fit(model, batches=2)
    assert same(feedback(model), held)
    assert traces(model) == 2


@pytest.mark.slow
@pytest.mark.parametrize("rule", slow_but(["kolen_pollack"], ["kolen_pollack", "weight_mirror"]))
def test_another_batch_size_in_the_second_fit_is_traced_with_what_the_callback_put_in(
    rule: str,
) -> None:
    ends = []
    for between in (lambda model: None, anew):
        model = counting(rule)
        make = KolenPollack if rule == "kolen_pollack" else gaussian
        fit(model, make(), batches=2)
        between(model)
        fit(model, make(), batches=3, size=6)
        fit(model, make(), batches=2)
        ends.append(state(model))
    assert same(*ends)


def test_callbacks_of_one_kind_count_their_batches_apart() -> None:
    """They share the variable that the trace counts by."""
    model, one = counting("weight_mirror"), gaussian()
    fit(model, one, batches=3)
    assert one.mirror_steps.numpy() == 1 + 1
    fit(model, gaussian(), batches=1)  # its first, so not due
    assert one.mirror_steps.numpy() == 2 + 1
    fit(model, one, batches=1)  # its fourth
    assert one.mirror_steps.numpy() == 3 + 1 + 1
    assert traces(model) == 1


class Clipped(keras.Sequential):
    """Clips by the global norm in a step of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def test_which_optimizer_updates_a_pair_is_known_from_the_trace_of_the_fit_before() -> None:
    model = counting("kolen_pollack")
    model = compiled(Clipped([keras.Input((8, 8, 1)), *model.layers]), SGD(0.1, weight_decay=0.6))
    histories = [fit(model, KolenPollack(), batches=2) for _ in range(2)]
    assert traces(model) == 1
    for history in histories:
        assert history["feedback_gap"] == pytest.approx(history["feedback_gap_predicted"], rel=1e-4)


# --- where it may ------------------------------------------------------------------------


def freeze(model: keras.Model) -> None:
    """Turn a flag over."""
    model.get_layer("head").trainable = not model.get_layer("head").trainable


def compile_again(model: keras.Model) -> None:
    """Another optimizer."""
    compiled(model, SGD(0.2, weight_decay=0.05))


def convert_again(model: keras.Model) -> None:
    """Other feedback kernels."""
    rule = model.get_layer("head").rule
    tfwm.strip_feedback(model)
    tfwm.convert_model(model, rule, seed=5)


def own_step(model: keras.Model) -> None:
    """A train step on the instance."""
    step = model.train_step
    model.train_step = lambda data: step((2.0 * data[0], data[1]))


def setting(path: str, value: Any) -> Change:
    """Sets an attribute of the model, or of what it has."""

    def change(model: keras.Model) -> None:
        *owners, name = path.split(".")
        thing: Any = model
        for owner in owners:
            thing = getattr(thing, owner) if hasattr(thing, owner) else thing.get_layer(owner)
        setattr(thing, name, value)

    change.__name__ = path
    return change


CHANGES: list[Change] = [
    freeze,
    compile_again,
    convert_again,
    own_step,
    setting("hidden.kernel.trainable", False),
    setting("steps_per_execution", 2),
    setting("run_eagerly", True),
]


@pytest.mark.parametrize("change", slow_but([freeze], CHANGES), ids=lambda change: change.__name__)
@pytest.mark.parametrize("rule", slow_but(["kolen_pollack"], ["weight_mirror", "kolen_pollack"]))
def test_what_has_changed_between_fits_is_traced_as_ever(change: Change, rule: str) -> None:
    if rule == "kolen_pollack" and change.__name__ == "hidden.kernel.trainable":
        pytest.skip("refused: W without B")
    make = KolenPollack if rule == "kolen_pollack" else gaussian
    ends = []
    for between in (lambda model: None, anew, None):
        model = counting(rule)
        fit(model, make(), batches=2)
        before = traces(model)
        if between is not None:
            change(model)
            between(model)
        fit(model, make(), batches=2)
        assert (traces(model) > before) == (between is not None)
        ends.append(state(model))
    *changed, unchanged = ends
    assert same(*changed)
    if change.__name__ not in (
        "steps_per_execution",
        "run_eagerly",
    ):  # another trace, no other step
        assert not same(changed[0], unchanged)


OTHERS: dict[str, Callable[[], Callbacks]] = {
    "noise": lambda: [WeightMirror(Gaussian(samples=20, decay=0.4))],
    "schedule": lambda: [WeightMirror(Gaussian(samples=20, decay=0.5))],
    "seed": lambda: [gaussian(seed=7)],
    "option": lambda: [gaussian(response_noise_std=0.5)],
    "monitor": lambda: [gaussian(), FeedbackMonitor()],
}


@pytest.mark.parametrize("name", slow_but([], OTHERS))
def test_a_callback_that_does_something_else_is_traced(name: str) -> None:
    ends = []
    for between in (lambda model: None, anew):
        model = counting("weight_mirror")
        fit(model, gaussian(), batches=2)
        between(model)
        histories = [fit(model, *OTHERS[name](), batches=2)]
        assert traces(model) == 2
        histories.append(fit(model, gaussian(), batches=2))
        ends.append((state(model), histories))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def fail(model: keras.Model) -> None:
    """A fit that ends in an exception."""
    make = KolenPollack if model.get_layer("head").rule.name == "kolen_pollack" else gaussian
    with contextlib.suppress(KeyboardInterrupt):
        fit(model, make(), Fails())


def train_on_batch(model: keras.Model) -> None:
    """One batch by hand."""
    model.train_on_batch(*images(1))


@pytest.mark.slow
@pytest.mark.parametrize("event", slow_but([fail], [fail, train_on_batch]))
@pytest.mark.parametrize("rule", slow_but(["kolen_pollack"], ["kolen_pollack", "weight_mirror"]))
@pytest.mark.filterwarnings("ignore:.*nothing teaches:UserWarning")
def test_b_is_taught_after_what_has_happened_in_between(event: Change, rule: str) -> None:
    make = KolenPollack if rule == "kolen_pollack" else gaussian
    ends = []
    for between in (lambda model: None, anew):
        model = counting(rule)
        fit(model, make(), batches=2)
        event(model)
        between(model)
        fit(model, make(), batches=2)
        ends.append(state(model))
    assert same(*ends)


# --- and nothing is left ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", slow_but([compile_again], [compile_again, tfwm.strip_feedback, anew])
)
def test_what_makes_keras_forget_its_train_function_forgets_them_all(change: Change) -> None:
    model = counting("weight_mirror")
    fit(model, gaussian(), batches=1)
    functions = weakref.ref(model.train_function)
    assert isinstance(functions(), TrainFunctions)
    change(model)
    gc.collect()
    assert functions() is None


@pytest.mark.slow
def test_two_functions_are_kept() -> None:
    model = counting("weight_mirror")
    for seed in (0, 1, 2):
        fit(model, gaussian(seed=seed), batches=1)
    assert traces(model) == 3
    fit(model, gaussian(seed=1), batches=1)
    assert traces(model) == 3
    fit(model, gaussian(seed=0), batches=1)
    assert traces(model) == 4


# --- the first trace ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*nothing teaches:UserWarning")
@pytest.mark.parametrize("rule", slow_but(["kolen_pollack"], ["weight_mirror", "kolen_pollack"]))
def test_the_variables_of_optimizer_and_metrics_are_those_that_keras_makes(rule: str) -> None:
    """They are made before the first trace, which would be traced twice for them."""
    make = KolenPollack if rule == "kolen_pollack" else gaussian
    ends = []
    for callbacks in ([], [make()]):
        keras.backend.clear_session()
        model = counting(
            rule, optimizer=keras.optimizers.AdamW(weight_decay=1.0), metrics=["accuracy"]
        )
        fit(model, *callbacks, batches=1)
        ends.append(
            [(v.path, tuple(v.shape)) for v in (*model.optimizer.variables, *model.variables)]
        )
    assert ends[0] == ends[1]


# --- replicas -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.always
@pytest.mark.parametrize("rule", ["weight_mirror", "kolen_pollack"])
def test_replicas_go_on_too(rule: str, two_replicas: tf.distribute.Strategy) -> None:
    make = KolenPollack if rule == "kolen_pollack" else gaussian
    ends = []
    for between in (lambda model: None, anew):
        with two_replicas.scope():
            model = compiled(convolutional(rule), SGD(0.05, momentum=0.9, weight_decay=0.01))
        fit(model, make(), batches=2)
        between(model)
        used = model.train_function
        fit(model, make(), batches=2)
        assert (model.train_function is used) == (between is not anew)
        ends.append({**feedback(model), **{f"w {k}": w for k, w in kernels(model).items()}})
    assert same(*ends)
