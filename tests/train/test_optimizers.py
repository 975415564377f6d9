"""Optimizers from the configuration: options by Keras' names, decay, and the step of biases."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import assert_same_on_replicas
from tests.slow import slow_but
from tfweightmirror.training import BatchManhattan
from train.config import OptimizerConfig, ScheduleConfig
from train.errors import UserError
from train.parts.optimizers import build_optimizer, known_optimizers, scaled_learning_rate
from train.parts.schedules import learning_rate_now


def build(**options: Any) -> Any:
    """The optimizer of a training of 10 epochs of 20 steps, batch 128, rate 0.1."""
    config = OptimizerConfig(**{"learning_rate": 0.1, **options})
    return build_optimizer(config, batch_size=128, steps_per_epoch=20, steps=200)


# --- names and values ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_optimizers())
def test_every_keras_optimizer_is_built_by_its_name(name: str) -> None:
    optimizer = build(name=name, weight_decay=0.5, options={"global_clipnorm": 2.0})
    assert type(optimizer) is known_optimizers()[name]
    assert learning_rate_now(optimizer) == pytest.approx(0.1)
    assert (optimizer.weight_decay, optimizer.global_clipnorm) == (0.5, 2.0)


def test_options_go_to_keras_by_their_names() -> None:
    optimizer = build(options={"momentum": 0.8, "nesterov": True})
    assert (optimizer.momentum, optimizer.nesterov) == (0.8, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "sdg"}, "optimizer.name is 'sdg', which is not known. Expected one of adadelta,"),
        ({"name": "sdg"}, "Did you mean 'sgd'?"),
        ({"name": "multioptimizer"}, "is not known"),
        ({"options": {"momentun": 0.9}}, "is not an option of SGD. Expected one of momentum,"),
        ({"options": {"momentun": 0.9}}, "Did you mean 'momentum'?"),
        ({"options": {"learning_rate": 0.9}}, "options.learning_rate is not an option of SGD."),
        ({"options": {"momentum": 1.5}}, "optimizer sgd refuses its options: `momentum` must be"),
        ({"options": {"nesterov": "yes"}}, "nesterov is 'yes'. Expected true or false."),
        ({"options": {"nesterov": 1}}, "nesterov is 1. Expected true or false."),
        ({"options": {"clipnorm": "1"}}, "clipnorm is '1'. Expected a number or null."),
        ({"options": {"clipnorm": True}}, "clipnorm is True. Expected a number or null."),
        ({"options": {"clipnorm": 1.0, "clipvalue": 1.0}}, "refuses its options: Only one of"),
        ({"name": "adamw"}, "optimizer adamw refuses its options: Argument `weight_decay`"),
        (
            {"name": "adamw", "weight_decay": 0.1, "decay": "coupled"},
            "optimizer.decay is coupled and optimizer.name adamw, whose weight decay is decoupled",
        ),
        (
            {"name": "muon", "weight_decay": 0.1, "decay": "per_step"},
            "optimizer.decay is per_step and optimizer.name muon, whose weight decay is decoupled",
        ),
        (
            {"weight_decay": 1.0, "decay": "per_step"},
            "optimizer.decay is per_step and optimizer.weight_decay 1.0, which would leave nothing",
        ),
    ],
)
def test_mistake_is_told_in_one_sentence(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        build(**options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_manhattan_decays_behind_the_sign() -> None:
    def extended() -> Any:
        options = {"momentum": 0.9, "layers": ["*"]}
        how: dict[str, Any] = {"decay": "coupled", "decay_biases": False, "options": options}
        return build(name="BatchManhattan", weight_decay=0.3, **how)

    def plain() -> Any:
        return BatchManhattan(0.1, 0.9, coupled_weight_decay=0.3)

    np.testing.assert_array_equal(trained(extended()), trained(plain()))
    assert np.abs(trained(extended(), "bias") - trained(plain(), "bias")).max() > 0.1
    config = keras.optimizers.serialize(extended())
    assert keras.optimizers.deserialize(config).get_config() == config["config"]
    with pytest.raises(UserError, match=r"layers is 'conv\*'. Expected a list."):
        build(name="batchmanhattan", options={"layers": "conv*"})


@pytest.mark.parametrize(("scaling", "expected"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_learning_rate_follows_the_batch_size(scaling: Any, expected: float) -> None:
    config = OptimizerConfig(
        learning_rate=0.1, learning_rate_scaling=scaling, reference_batch_size=256
    )
    assert scaled_learning_rate(config, 1024) == pytest.approx(expected)
    optimizer = build_optimizer(config, batch_size=1024, steps_per_epoch=5, steps=5)
    assert learning_rate_now(optimizer) == pytest.approx(expected)


def test_schedule_starts_at_the_scaled_rate() -> None:
    optimizer = build(
        learning_rate_scaling="linear",
        reference_batch_size=64,
        schedule=ScheduleConfig(name="piecewise", boundaries_epochs=(3,)),
    )
    assert learning_rate_now(optimizer) == pytest.approx(0.2)
    optimizer.iterations.assign(3 * 20)
    assert learning_rate_now(optimizer) == pytest.approx(0.02)


# --- coupled decay ------------------------------------------------------------------------------

STEPS, RATE, DECAY = 20, 0.1, 0.3
random = np.random.default_rng(4)
START = random.normal(size=(5, 3)).astype("float32")
GRADIENTS = random.normal(size=(STEPS, 5, 3)).astype("float32")


def sgd_of_pytorch(
    momentum: float, nesterov: bool, clip: Callable[[Any], Any] = lambda gradient: gradient
) -> np.ndarray:
    """torch.optim.SGD's equation in double precision; `clip` stands for what comes before it."""
    weight, buffer = START.astype("float64"), None
    for gradient in GRADIENTS.astype("float64"):
        gradient = clip(gradient) + DECAY * weight
        buffer = gradient if buffer is None else momentum * buffer + gradient
        step = gradient + momentum * buffer if nesterov else buffer
        weight = weight - RATE * (step if momentum else gradient)
    return weight


def trained(optimizer: Any, name: str = "kernel") -> np.ndarray:
    """The weight after all gradients."""
    weight = keras.Variable(START, name=name)
    optimizer.build([weight])
    for gradient in GRADIENTS:
        optimizer.apply([tf.constant(gradient)], [weight])
    return weight.numpy()


def coupled(**options: Any) -> Any:
    return build(weight_decay=DECAY, decay="coupled", **options)


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)], ids=str
)
def test_coupled_decay_is_that_of_pytorch(momentum: float, nesterov: bool) -> None:
    optimizer = coupled(options={"momentum": momentum, "nesterov": nesterov})
    expected = sgd_of_pytorch(momentum, nesterov)
    np.testing.assert_allclose(trained(optimizer), expected, rtol=0, atol=1e-6)
    without = trained(build(options={"momentum": momentum, "nesterov": nesterov}))
    assert np.abs(without - expected).max() > 0.1


def test_coupled_decay_is_added_behind_clipping() -> None:
    def clip(gradient: np.ndarray) -> np.ndarray:
        return gradient * min(1, 0.5 / np.linalg.norm(gradient))

    optimizer = coupled(options={"momentum": 0.9, "global_clipnorm": 0.5})
    expected = sgd_of_pytorch(0.9, nesterov=False, clip=clip)
    np.testing.assert_allclose(trained(optimizer), expected, rtol=0, atol=1e-6)


def test_coupled_decay_is_scaled_by_adam_with_the_gradient() -> None:
    """torch.optim.Adam's equation, where weight_decay is coupled."""
    weight, m, v = START.astype("float64"), 0.0, 0.0
    for step, gradient in enumerate(GRADIENTS.astype("float64"), start=1):
        gradient = gradient + DECAY * weight
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weight = weight - RATE * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
    np.testing.assert_allclose(trained(coupled(name="adam")), weight, rtol=0, atol=1e-5)


def test_coupled_decay_waits_while_gradients_accumulate() -> None:
    weight = keras.Variable(START, name="kernel")
    optimizer = coupled(options={"gradient_accumulation_steps": 2})
    optimizer.build([weight])
    optimizer.apply([tf.constant(GRADIENTS[0])], [weight])
    np.testing.assert_array_equal(weight.numpy(), START)
    optimizer.apply([tf.constant(GRADIENTS[1])], [weight])
    gradient = GRADIENTS[:2].mean(0) + DECAY * START
    np.testing.assert_allclose(weight.numpy(), START - RATE * gradient, rtol=0, atol=1e-6)


# --- decay per step -----------------------------------------------------------------------------

DROP = ScheduleConfig(name="piecewise", boundaries_epochs=(0.4,))  # at step 8 of 20


def per_step(**options: Any) -> Any:
    return build(weight_decay=0.01, decay="per_step", **options)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decay_per_step_is_the_papers_equation_whatever_the_schedule_does(momentum: float) -> None:
    """`w <- w - lr * step - decay * w`, in double precision (Akrout et al. 2019, eq. 16)."""
    weight, velocity = START.astype("float64"), 0.0
    for step, gradient in enumerate(GRADIENTS.astype("float64")):
        velocity = momentum * velocity - (RATE if step < 8 else RATE / 10) * gradient
        weight = weight + velocity - 0.01 * weight
    found = trained(per_step(schedule=DROP, options={"momentum": momentum}))
    np.testing.assert_allclose(found, weight, rtol=0, atol=1e-6)


def test_decay_per_step_takes_its_share_once_an_update_under_adam_and_accumulation() -> None:
    options = {"gradient_accumulation_steps": 4}
    optimizer, weight = build(name="adam", options=options), keras.Variable(START, name="kernel")
    optimizer.build([weight])
    expected = START.astype("float64")
    for number, gradient in enumerate(GRADIENTS, 1):
        before = weight.numpy()
        optimizer.apply([tf.constant(gradient)], [weight])
        if number % 4 == 0:  # Adam's update is of the gradients alone
            expected = expected * (1 - 0.01) + (weight.numpy() - before)
    decayed = trained(per_step(name="adam", options=options))
    np.testing.assert_allclose(decayed, expected, rtol=0, atol=1e-6)
    assert np.abs(decayed - weight.numpy()).max() > 0.01


@pytest.mark.parametrize("name", slow_but(["adam"], ["sgd", "adam"]))
def test_the_gap_of_kolen_pollack_falls_by_one_minus_decay_a_step(name: str) -> None:
    options = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = per_step(name=name, schedule=DROP, options=options)
    model = keras.Sequential(
        [keras.Input((5,)), tfwm.layers.FeedbackDense(4, rule="kolen_pollack", name="dense")]
    )
    model.compile(optimizer, "mse", jit_compile=False)
    layer = model.layers[0]
    first = layer.feedback_kernel.numpy() - layer.kernel.numpy()
    start = layer.kernel.numpy()
    inputs, targets = random.normal(size=(20, 5)), random.normal(size=(20, 4))
    history = model.fit(
        inputs,
        targets,
        batch_size=1,
        verbose=0,
        callbacks=[tfwm.callbacks.KolenPollack()],
    ).history
    law = (1 - 0.01) ** 20
    gap = layer.feedback_kernel.numpy() - layer.kernel.numpy()
    np.testing.assert_allclose(gap, law * first, rtol=0, atol=1e-6)
    assert np.abs(layer.kernel.numpy() - start).max() > 0.1
    assert history["feedback_gap"] == pytest.approx([law], rel=1e-5)
    assert history["feedback_gap_predicted"] == pytest.approx([law], rel=1e-5)


# --- W and B, biases, replicas ------------------------------------------------------------------

KINDS = {kind: {"decay": kind} for kind in ("coupled", "decoupled", "per_step")}


def network() -> keras.Model:
    """A dense layer and BatchNorm under Kolen-Pollack, everything at 1 but B, at 3."""
    dense = tfwm.layers.FeedbackDense(4, name="debiased", rule="kolen_pollack")
    layers = [keras.Input((5,)), dense, keras.layers.BatchNormalization(name="gamma_norm")]
    model = keras.Sequential(layers)
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, 3.0 if "feedback" in variable.name else 1.0))
    return model


def after_step(strategy: tf.distribute.Strategy, **options: Any) -> dict[str, float]:
    """Name to value of every weight after two steps with a gradient of 1, or of `gradient`."""
    gradient = options.pop("gradient", 1.0)
    with strategy.scope():
        model = network()
        optimizer = build(**options)
        optimizer.build(model.trainable_variables)

    def replica_step() -> None:
        share = gradient / strategy.num_replicas_in_sync
        gradients = [tf.fill(v.shape, share) for v in model.trainable_variables]
        optimizer.apply(gradients, model.trainable_variables)

    step = tf.function(lambda: strategy.run(replica_step))
    step()
    step()
    values = {}
    for variable in model.trainable_variables:
        assert np.ptp(variable.numpy()) == 0
        if strategy.num_replicas_in_sync > 1:
            assert_same_on_replicas(variable)
        values[variable.name] = float(variable.numpy().flat[0])
    return values


@pytest.fixture
def strategy(where: str, two_replicas: Any) -> tf.distribute.Strategy:
    return two_replicas if where == "two replicas" else tf.distribute.get_strategy()


PLACES = ["one device", "two replicas"]
every_kind_everywhere = pytest.mark.parametrize(
    ("kind", "where"),
    slow_but(
        [("coupled", "one device"), ("per_step", "one device"), ("decoupled", "one device")],
        itertools.product(KINDS, PLACES),
        unpack=True,
    ),
)


@every_kind_everywhere
@pytest.mark.parametrize("decay_biases", slow_but([False], [True, False]))
def test_biases_and_batch_norm_decay_only_if_asked_for(
    kind: str, decay_biases: bool, strategy: tf.distribute.Strategy
) -> None:
    decay = {"weight_decay": 0.5, "decay_biases": decay_biases, **KINDS[kind]}
    left = after_step(strategy, gradient=0.0, **decay)
    shrunk = (1 - (0.5 if kind == "per_step" else 0.1 * 0.5)) ** 2
    assert left["kernel"] == pytest.approx(shrunk)
    assert left["feedback_kernel"] == pytest.approx(3 * shrunk)
    assert len(left) == 5
    for name in ("bias", "gamma", "beta"):
        assert left[name] == pytest.approx(shrunk if decay_biases else 1.0), name


@every_kind_everywhere
def test_w_and_b_get_the_same_increment_and_the_same_share_of_decay(
    kind: str, strategy: tf.distribute.Strategy
) -> None:
    options = {"momentum": 0.9, "nesterov": True}
    plain = after_step(strategy, options=options)
    assert plain["feedback_kernel"] - 3 == pytest.approx(plain["kernel"] - 1)
    decayed = after_step(strategy, options=options, weight_decay=0.5, **KINDS[kind])
    # The update is linear: what decay took of B is three times what it took of W.
    without_gradient = after_step(
        strategy, options=options, weight_decay=0.5, gradient=0.0, **KINDS[kind]
    )
    of_w, of_b = without_gradient["kernel"], without_gradient["feedback_kernel"]
    assert of_b == pytest.approx(3 * of_w)
    assert decayed["feedback_kernel"] - of_b == pytest.approx(decayed["kernel"] - of_w)


@pytest.mark.parametrize("kind", slow_but(["per_step"], KINDS))
def test_w_and_b_that_start_equal_stay_equal_to_the_bit(kind: str) -> None:
    optimizer = build(
        weight_decay=DECAY, options={"momentum": 0.9, "global_clipnorm": 0.5}, **KINDS[kind]
    )
    pair = [keras.Variable(START, name=name) for name in ("kernel", "feedback_kernel")]
    optimizer.build(pair)
    for gradient in GRADIENTS:
        optimizer.apply([tf.constant(gradient)] * 2, pair)
    np.testing.assert_array_equal(pair[0].numpy(), pair[1].numpy())
    assert np.abs(pair[0].numpy() - START).max() > 0.1


@every_kind_everywhere
def test_step_of_biases_is_smaller_by_the_factor(
    kind: str, strategy: tf.distribute.Strategy
) -> None:
    moved = after_step(
        strategy, bias_learning_rate_factor=0.25, options={"momentum": 0.5}, **KINDS[kind]
    )
    whole = 0.1 + 0.1 * 1.5  # two steps of a momentum of 0.5
    assert moved.pop("bias") == pytest.approx(1 - whole / 4)
    assert moved.pop("feedback_kernel") == pytest.approx(3 - whole)
    for name, value in moved.items():
        assert value == pytest.approx(1 - whole), name


@pytest.mark.parametrize("schedule", slow_but(["cosine"], ["piecewise", "cosine"]))
def test_xla_compiles_schedule_and_decay_to_the_same_training(schedule: Any) -> None:
    boundaries = (0.1,) if schedule == "piecewise" else ()  # two of eight steps
    config = ScheduleConfig(name=schedule, boundaries_epochs=boundaries, warm_up_epochs=0.2)
    found = []
    for jit_compile in (False, True):
        model = network()
        optimizer = coupled(schedule=config, decay_biases=False, bias_learning_rate_factor=0.5)
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        model.fit(np.eye(8, 5), np.ones((8, 4)), batch_size=1, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for plain, compiled in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-5)


# --- what Keras sees ----------------------------------------------------------------------------


def test_what_keras_can_do_is_left_to_its_own_class() -> None:
    sgd = keras.optimizers.SGD
    assert type(build(weight_decay=0.5)) is sgd
    for kind in KINDS:
        assert type(build(decay=kind, decay_biases=False)) is sgd  # no decay at all
    ours = coupled()
    assert isinstance(ours, sgd)
    assert type(ours).__name__ == "SGD"  # the library's refusals go by name


def test_saved_model_comes_back_with_its_optimizer(tmp_path: Any) -> None:
    model = network()
    optimizer = coupled(
        decay_biases=False,
        bias_learning_rate_factor=0.25,
        schedule=ScheduleConfig(name="cosine", warm_up_epochs=1),
        options={"momentum": 0.9},
    )
    model.compile(optimizer, "mse", jit_compile=False)
    inputs, targets = np.ones((8, 5), "float32"), np.zeros((8, 4), "float32")
    model.fit(inputs, targets, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is type(optimizer)
    for each in (model, again):
        each.fit(inputs, targets, epochs=3, verbose=0)
    for before, after in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy(), err_msg=before.path)
