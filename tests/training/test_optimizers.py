"""BatchManhattan, against NumPy written from its order: sign, decay, momentum."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import assert_same_on_replicas, compiled, dense, fit
from tests.slow import slow_but
from tfweightmirror.training import BatchManhattan

RATE, STEPS = 0.1, 12
random = np.random.default_rng(4)
START = random.normal(size=(5, 3)).astype("float32")
GRADIENTS = random.normal(size=(STEPS, 5, 3)).astype("float32")
GRADIENTS[:, 0] = 0  # sign(0) = 0


def manhattan(momentum: float, nesterov: bool, decay: float) -> np.ndarray:
    """In double precision."""
    w, v = START.astype("float64"), np.zeros(START.shape)
    for gradient in GRADIENTS:
        g = np.sign(gradient) + decay * w
        v = momentum * v - RATE * g
        w = w + (momentum * v - RATE * g if nesterov else v)
    return w


def trained(optimizer: Any, jit_compile: bool = False) -> np.ndarray:
    weight = keras.Variable(START, name="kernel")
    optimizer.build([weight])

    @tf.function(jit_compile=jit_compile)
    def step(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient], [weight])

    for gradient in GRADIENTS:
        step(tf.constant(gradient))
    return weight.numpy()


@pytest.mark.parametrize("jit_compile", slow_but([False], [False, True]))
@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"),
    [(0.0, False, 0.0), (0.9, False, 0.3), (0.9, True, 0.3)],
    ids=str,
)
def test_sign_then_decay_then_momentum(
    momentum: float, nesterov: bool, decay: float, jit_compile: bool
) -> None:
    optimizer = BatchManhattan(RATE, momentum, nesterov, coupled_weight_decay=decay)
    expected = manhattan(momentum, nesterov, decay)
    np.testing.assert_allclose(trained(optimizer, jit_compile), expected, atol=2e-6)
    plain = trained(keras.optimizers.SGD(RATE, momentum, nesterov))
    assert np.abs(plain - expected).max() > 0.1


def test_decay_of_keras_is_taken_past_momentum() -> None:
    weight, v = START.astype("float64"), np.zeros(START.shape)
    for gradient in GRADIENTS:
        weight = weight - RATE * 0.3 * weight
        v = 0.9 * v - RATE * np.sign(gradient)
        weight = weight + v
    optimizer = BatchManhattan(RATE, 0.9, weight_decay=0.3)
    np.testing.assert_allclose(trained(optimizer), weight, atol=2e-6)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_changes_no_sign(clip: str) -> None:
    clipped = BatchManhattan(RATE, 0.9, coupled_weight_decay=0.3, **{clip: 0.1})
    unclipped = BatchManhattan(RATE, 0.9, coupled_weight_decay=0.3)
    np.testing.assert_array_equal(trained(clipped), trained(unclipped))


def test_sign_is_that_of_accumulated_gradients() -> None:
    weight = START.astype("float64")
    for one, other in zip(GRADIENTS[::2], GRADIENTS[1::2], strict=True):
        weight = weight - RATE * np.sign(one + other)
    optimizer = BatchManhattan(RATE, gradient_accumulation_steps=2)
    np.testing.assert_allclose(trained(optimizer), weight, atol=1e-6)


@pytest.mark.slow
def test_under_loss_scaling_an_overflow_moves_nothing() -> None:
    weight = keras.Variable(START)
    optimizer = keras.optimizers.LossScaleOptimizer(BatchManhattan(RATE), initial_scale=1024.0)
    optimizer.build([weight])
    optimizer.apply([tf.constant(GRADIENTS[0])], [weight])
    moved = START - np.float32(RATE) * np.sign(GRADIENTS[0])
    np.testing.assert_allclose(weight.numpy(), moved, atol=1e-7)
    before = weight.numpy().copy()
    optimizer.apply([tf.constant(np.full_like(START, np.inf))], [weight])
    np.testing.assert_array_equal(weight.numpy(), before)


def test_rows_that_occur_twice_are_summed_first() -> None:
    weight = keras.Variable(np.zeros((3, 2), "float32"))
    optimizer = BatchManhattan(RATE)
    optimizer.build([weight])
    rows = tf.IndexedSlices(tf.constant([[3.0, -3], [-1, 1], [-1, 2]]), [1, 1, 1], [3, 2])
    optimizer.apply([rows], [weight])
    np.testing.assert_allclose(weight.numpy(), [[0, 0], [-RATE, 0], [0, 0]])


# --- which layers -------------------------------------------------------------------------------


def one_step(optimizer: Any, rule: str | None = None) -> dict[str, np.ndarray]:
    """What a step changes, by path."""
    model = compiled(dense(rule), optimizer)
    before = {v.path: v.numpy().copy() for v in model.trainable_variables}
    fit(model, batches=1)
    return {v.path: v.numpy() - before[v.path] for v in model.trainable_variables}


@pytest.mark.slow
def test_the_other_layers_train_by_plain_sgd() -> None:
    mixed, plain = one_step(BatchManhattan(RATE, layers=["h[e]ad"])), one_step("sgd")
    signed = one_step(BatchManhattan(RATE))
    for path, change in mixed.items():
        in_head = path.split("/")[-2] == "head"
        expected = signed[path] if in_head else plain[path] * (RATE / 0.01)
        np.testing.assert_allclose(change, expected, atol=1e-6, err_msg=path)
    assert any(np.abs(signed[path] - mixed[path]).max() > 0.01 for path in mixed)


def test_patterns_see_the_owners_of_a_layer() -> None:
    encoder = keras.Sequential([keras.layers.Dense(2, name="one")], name="encoder")
    model = keras.Sequential([keras.Input((3,)), encoder, keras.layers.Dense(2, name="one")])
    optimizer = BatchManhattan(layers=["encoder/*"])
    optimizer.build(model.trainable_variables)
    assert optimizer._signed == {0, 1}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'heat' matches no layer .* Expected patterns of .*head"):
        one_step(BatchManhattan(layers=["heat"]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": "conv"}, "layers of BatchManhattan is 'conv'. Expected a list of name patter"),
        ({"layers": []}, "layers of BatchManhattan is"),
        ({"coupled_weight_decay": -1}, "coupled_weight_decay of BatchManhattan is -1."),
    ],
)
def test_mistake_is_told_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BatchManhattan(**options)


# --- with feedback, on replicas, saved ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["weight_decay", "coupled_weight_decay"])
def test_kolen_pollacks_law_holds(decay: str) -> None:
    optimizer = BatchManhattan(0.02, 0.9, **{decay: 0.5})
    model = compiled(dense("kp"), optimizer)
    history = fit(model, tfwm.callbacks.KolenPollack(), epochs=2)
    gaps, law = history["feedback_gap"][-1], history["feedback_gap_predicted"][-1]
    assert gaps == pytest.approx(law, rel=1e-4)
    assert gaps < 0.9


@pytest.mark.slow
def test_a_random_feedback_weight_takes_the_sign_of_w() -> None:
    changes = one_step(BatchManhattan(RATE, layers=["hidden"]), "urfb")
    for layer in ("hidden", "head"):
        w, b = (
            next(c for path, c in changes.items() if path.endswith(f"{layer}/{name}"))
            for name in ("kernel", "feedback_kernel")
        )
        np.testing.assert_allclose(w, b, atol=1e-7)


@pytest.mark.slow
def test_training_goes_on_from_a_saved_model_to_the_bit(tmp_path: Any) -> None:
    def optimizer() -> Any:
        return BatchManhattan(RATE, 0.9, coupled_weight_decay=0.1, layers=["hidden"])

    model = compiled(dense("urfb"), optimizer())
    fit(model, batches=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        fit(each, batches=2)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_on_replicas_the_sign_is_that_of_the_sum(two_replicas: Any) -> None:
    with two_replicas.scope():
        weight = keras.Variable(np.zeros(3, "float32"))
        optimizer = BatchManhattan(RATE)
        optimizer.build([weight])

    @tf.function
    def step() -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        # Signs that were taken on each replica would sum to 0, 2 and -2.
        optimizer.apply([tf.gather([[3.0, 1, -1], [-1.0, 1, -1]], replica)], [weight])

    two_replicas.run(step)
    assert_same_on_replicas(weight)
    np.testing.assert_allclose(weight.numpy(), [-RATE, -RATE, RATE])


@pytest.mark.slow
def test_a_model_trains_on_replicas_as_on_one_device(two_replicas: Any) -> None:
    one = compiled(dense("urfb"), BatchManhattan(RATE, 0.9, layers=["hidden"]))
    with two_replicas.scope():
        both = compiled(dense("urfb"), BatchManhattan(RATE, 0.9, layers=["hidden"]))
    for model in (one, both):
        fit(model, batches=3)
    for variable, expected in zip(both.trainable_variables, one.trainable_variables, strict=True):
        assert_same_on_replicas(variable)
        np.testing.assert_allclose(variable.numpy(), expected.numpy(), atol=1e-5)
