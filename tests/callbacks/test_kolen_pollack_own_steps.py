"""KolenPollack with train steps of the user's own: several optimizers, clipping, traces."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.gaps import HOOKS, LAW, Optimizer, gaps, law
from tests.callbacks.training import (
    SGD,
    assert_same_on_replicas,
    compiled,
    dense,
    feedback,
    fit,
    kernels,
    same,
    weights,
)
from tests.slow import slow_but
from tfweightmirror.callbacks import KolenPollack

o = keras.optimizers


def sgd(**options: Any) -> Optimizer:
    """An optimizer that would do."""
    return SGD(0.1, **{"weight_decay": 0.6, **options})


# --- several optimizers -------------------------------------------------------------------------


class Parts(keras.Model):
    """Dense layers side by side; `its_optimizers` train those that they name, `times` a step.

    `model.optimizer` is what Keras compiles in by default, and is never used.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(name="parts")
        self.parts = {
            name: tfwm.layers.FeedbackDense(4, rule="kolen_pollack", name=name) for name in names
        }
        self.build((None, 8, 8, 1))

    def build(self, shape: Any) -> None:
        for part in self.parts.values():
            part.build((None, 64))
        self.built = True

    def compile(self, times: int = 1, **optimizers: Optimizer) -> None:
        super().compile(jit_compile=False)
        self.times, self.its_optimizers = times, optimizers

    def call(self, x: Any) -> Any:
        return [part(tf.reshape(x, (-1, 64))) for part in self.parts.values()]

    def variables_of(self, part: Any) -> list[Any]:
        return part.trainable_variables

    def train_step(self, data: Any) -> dict[str, Any]:
        x = tf.reshape(data[0], (-1, 64))
        for name, optimizer in self.its_optimizers.items():
            variables = self.variables_of(self.parts[name])
            for _ in range(self.times):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((self.parts[name](x, training=True) - 1.0) ** 2)
                optimizer.apply_gradients(
                    zip(tape.gradient(loss, variables), variables, strict=True)
                )
        return {"loss": loss}


@pytest.mark.parametrize("replicas", slow_but([2], [1, 2]))
def test_each_pair_follows_the_optimizer_that_updates_it(
    replicas: int, two_replicas: tf.distribute.Strategy
) -> None:
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = Parts("slow", "fast", "idle")
        slow, fast = SGD(0.1, weight_decay=0.1), SGD(0.05, weight_decay=1.2)
        model.compile(times=2, slow=slow, fast=fast)
    before = gaps(model)
    history = fit(model, KolenPollack())  # a warning, of `idle` or another, is an error
    expected = {"slow": law(slow, 0.1), "fast": law(fast, 1.2), "idle": 1.0}
    after = gaps(model)
    for name, predicted in expected.items():
        assert after[name] / before[name] == pytest.approx(predicted, rel=LAW), name
    # The largest, and the law of the same pathway; not that of the part that nobody trains.
    assert history["feedback_gap"] == pytest.approx([expected["slow"]], rel=LAW)
    assert history["feedback_gap_predicted"] == pytest.approx([expected["slow"]], rel=1e-5)
    assert not any(hook in vars(slow) or hook in vars(fast) for hook in HOOKS)
    if replicas == 2:
        for pathway in tfwm.pathways(model):
            assert_same_on_replicas(pathway.feedback_kernel)


def refused(model: keras.Model, *said: str) -> None:
    """A fit of `model` is refused in these words, and nothing has been trained."""
    before = weights(model)
    with pytest.raises(ValueError) as refusal:
        fit(model, KolenPollack(), batches=2)
    for part in said:
        assert part in str(refusal.value)
    assert same(weights(model), before)


def test_an_optimizer_that_shows_in_the_first_step_is_refused_before_it_updates() -> None:
    model = Parts("one", "two")
    model.compile(one=sgd(), two=SGD(0.1))
    refused(model, "needs weight decay", "SGD has weight_decay=None", "layer 'two'")
    model.compile(one=o.LossScaleOptimizer(o.Lamb(0.1, weight_decay=0.6)), two=sgd())
    refused(model, "cannot hold under Lamb")


def test_an_update_of_w_without_b_is_refused() -> None:
    class Forgets(Parts):
        def variables_of(self, part: Any) -> list[Any]:
            return [part.kernel, part.bias]

    model = Forgets("one")
    model.compile(one=sgd())
    refused(model, "equal changes", "SGD is given W of layer 'one' without B", "Give it")


@pytest.mark.parametrize("eagerly", [False, True])
def test_an_optimizer_out_of_sight_is_refused_in_the_first_batch(eagerly: bool) -> None:
    hidden = sgd()

    class Hides(Parts):
        @property
        def its_optimizers(self) -> dict[str, Optimizer]:
            return {"one": hidden}

        @its_optimizers.setter
        def its_optimizers(self, optimizers: Any) -> None:
            del optimizers

    model = Hides("one")
    model.compile()
    model.run_eagerly = eagerly
    with pytest.raises(ValueError, match=r"not know what updates layer 'one'.*Make that optimizer"):
        fit(model, KolenPollack())


def test_the_law_is_not_held_against_a_part_that_another_callback_moves() -> None:
    class Pushes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kernel = self.model.parts["idle"].feedback_kernel
            kernel.assign(kernel + 0.1)

    model = Parts("one", "idle")
    model.compile(one=sgd())
    said = "hold in 'idle': .* no optimizer among the attributes of 'parts' updated it"
    with pytest.warns(UserWarning, match=said):
        history = fit(model, KolenPollack(), Pushes())
    assert history["feedback_gap_predicted"] == [1.0]  # of the same pathway as
    assert history["feedback_gap"][0] > 1.1


# --- gradients that the user's code sees --------------------------------------------------------


class Clipped(keras.Model):
    """Clips all gradients by their global norm, in a train step of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        clipped, norm = tf.clip_by_global_norm(gradients, 0.05)
        self.optimizer.apply_gradients(zip(clipped, self.trainable_variables, strict=True))
        return {"loss": loss, "norm": norm}


def clipped(rule: str | None, optimizer: Optimizer) -> keras.Model:
    """The dense network with such a step and B = W, so that errors flow as in backprop."""
    model = dense(rule)
    model = compiled(Clipped(model.inputs, model.outputs), optimizer)
    for pathway in tfwm.pathways(model):
        pathway.feedback_kernel.assign(pathway.kernel)
    return model


CLIPPING: dict[str, Callable[[], Optimizer]] = {
    "own norm alone": lambda: sgd(momentum=0.9),
    "accumulation": lambda: sgd(gradient_accumulation_steps=3),
    "loss scale": lambda: o.LossScaleOptimizer(sgd(global_clipnorm=0.02), initial_scale=4.0),
    "two replicas": lambda: sgd(momentum=0.9),
}


@pytest.mark.parametrize("name", slow_but(["loss scale"], CLIPPING))
def test_a_norm_over_all_gradients_counts_the_gradient_once(
    name: str, two_replicas: tf.distribute.Strategy
) -> None:
    strategy = two_replicas if name == "two replicas" else tf.distribute.get_strategy()
    with strategy.scope():
        plain, checked = (clipped(rule, CLIPPING[name]()) for rule in (None, "kolen_pollack"))
    fit(plain)
    fit(checked, KolenPollack())
    for path, value in weights(plain).items():
        np.testing.assert_allclose(weights(checked)[path], value, atol=1e-6, err_msg=path)
    assert same(feedback(checked), kernels(checked))  # increments are bit-equal
    for pathway in tfwm.pathways(checked) if name == "two replicas" else ():
        assert_same_on_replicas(pathway.feedback_kernel)


def test_without_the_callback_a_norm_over_all_gradients_counts_b() -> None:
    """The control, and what the documentation says of it."""
    plain, unchecked = (clipped(rule, sgd(momentum=0.9)) for rule in (None, "kolen_pollack"))
    fit(plain)
    fit(unchecked)
    gap = [np.abs(weights(unchecked)[path] - value).max() for path, value in weights(plain).items()]
    assert max(gap) > 1e-4


class Traced(keras.layers.Layer):
    """A dense layer inside a `tf.function` of the layer's own."""

    def __init__(self) -> None:
        super().__init__(name="traced")
        self.inner = tfwm.layers.FeedbackDense(4, rule="kolen_pollack", name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    @tf.function
    def through(self, x: tf.Tensor) -> tf.Tensor:
        return self.inner(x, training=True)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.through(x)


def test_traces_of_the_models_own_know_whether_the_callback_is_there() -> None:
    inputs = keras.Input((8, 8, 1))
    model = Clipped(inputs, Traced()(keras.layers.Flatten()(inputs)))
    compiled(model, SGD(0.0, weight_decay=0.6))  # nothing moves, so gradients stay what they are
    before, during, after = (
        fit(model, *callbacks, batches=1)["norm"][0] for callbacks in ((), (KolenPollack(),), ())
    )
    assert during < 0.9 * before
    assert after == pytest.approx(before)


# --- what the law needs to be right about -------------------------------------------------------


def test_layers_of_two_precisions() -> None:
    options = {"rule": "kolen_pollack"}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            tfwm.layers.FeedbackDense(6, name="hidden", dtype="float64", **options),
            tfwm.layers.FeedbackDense(4, name="head", **options),
        ]
    )
    before = gaps(compiled(model, sgd()))
    history = fit(model, KolenPollack())
    predicted = law(model.optimizer, 0.6, 8)
    for name, gap in gaps(model).items():
        assert gap / before[name] == pytest.approx(predicted, rel=LAW), name
    assert history["feedback_gap"] == pytest.approx([predicted], rel=LAW)
