"""Clipping and fixed signs: steps against NumPy, and what remembers the signs."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import assert_same_on_replicas, compiled, dense, fit
from tests.slow import slow_but
from tfweightmirror.training import FixedSign, GlorotClip, constrain

RATE = 0.5
random = np.random.default_rng(6)


def after_steps(constraint: Any, start: Any, gradients: Any, jit_compile: bool) -> np.ndarray:
    weight = keras.Variable(np.array(start, "float32"))
    if isinstance(constraint, FixedSign):
        constraint.remember(weight)
    weight.constraint = constraint
    optimizer = keras.optimizers.SGD(RATE)
    optimizer.build([weight])

    @tf.function(jit_compile=jit_compile)
    def step(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient], [weight])

    for gradient in np.array(gradients, "float32"):
        step(tf.constant(gradient))
    return weight.numpy()


# --- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", slow_but([True], [False, True]))
@pytest.mark.parametrize("hold", [0.0, 1e-10])
def test_a_weight_stays_on_its_side_and_may_leave_0_again(hold: float, jit_compile: bool) -> None:
    start = random.normal(scale=0.3, size=(6, 5)).astype("float32")
    start[0, 0] = 0  # counts as +
    gradients = random.normal(size=(9, 6, 5)).astype("float32")
    constraint = FixedSign(hold=hold)
    found = after_steps(constraint, start, gradients, jit_compile)
    w, sign, attempts = start.copy(), np.where(start >= 0, 1, -1), 0
    left = False
    for gradient in gradients:
        before = w
        w = w - np.float32(RATE) * gradient
        attempts += (w * sign < 0).sum()
        w = np.where(w * sign <= 0, sign * np.float32(hold), w)
        left |= bool(((np.abs(before) <= hold) & (np.abs(w) > hold)).any())
    np.testing.assert_allclose(found, w, atol=1e-6)
    assert left
    assert int(constraint.attempts) == attempts
    np.testing.assert_array_equal(constraint.signs, sign)
    assert (found * sign >= 0).all()
    assert (found == 0).any() == (hold == 0)


def test_a_weight_that_comes_to_0_is_held_too() -> None:
    found = after_steps(FixedSign(hold=1e-10), [[1.0, -1.0]], [[[2.0, -2.0]]], False)
    np.testing.assert_array_equal(found, np.array([[1e-10, -1e-10]], "float32"))


@pytest.mark.parametrize("jit_compile", slow_but([True], [False, True]))
def test_clipping_is_at_a_multiple_of_glorots_bound(jit_compile: bool) -> None:
    start = keras.initializers.GlorotUniform(seed=1)((3, 3, 4, 8)).numpy()
    bound = 1.5 * np.sqrt(6 / (9 * 4 + 9 * 8))
    assert np.abs(start).max() == pytest.approx(bound / 1.5, rel=0.05)
    gradients = random.normal(scale=0.1, size=(5, 3, 3, 4, 8)).astype("float32")
    w = start
    for gradient in gradients:
        w = np.clip(w - np.float32(RATE) * gradient, -bound, bound)
    found = after_steps(GlorotClip(), start, gradients, jit_compile)
    np.testing.assert_allclose(found, w, atol=1e-6)
    assert (np.abs(found) > 0.999 * bound).any()


@pytest.mark.parametrize("constraint", [FixedSign, GlorotClip])
def test_what_is_not_a_number_is_not_hidden(constraint: Any) -> None:
    gradient = [[[np.nan, 1.0]]]
    assert np.isnan(after_steps(constraint(), [[1.0, 2.0]], gradient, False)[0, 0])


# --- models -------------------------------------------------------------------------------------


def signed(rule: Any, *, rate: float = RATE, **options: Any) -> keras.Model:
    return constrain(compiled(dense(rule), keras.optimizers.SGD(rate)), FixedSign(**options))


def signs(model: keras.Model, name: str = "hidden") -> np.ndarray:
    return np.array(model.get_layer(name).kernel_constraint.signs.numpy())


def kernel(model: keras.Model, name: str = "hidden") -> np.ndarray:
    return np.array(model.get_layer(name).kernel.numpy())


def assert_same_weights(one: keras.Model, other: keras.Model) -> None:
    for here, there in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(here.numpy(), there.numpy(), err_msg=here.path)


@pytest.mark.slow
def test_signs_of_neurons_are_those_of_rows() -> None:
    model = dense("fa")
    before = kernel(model)
    constrain(model, FixedSign("neuron", seed=2))
    assert signs(model).shape == (64, 1)
    assert 16 < (signs(model) > 0).sum() < 48  # four standard deviations
    np.testing.assert_array_equal(kernel(model), np.abs(before) * signs(model))
    fit(compiled(model, keras.optimizers.SGD(RATE)))
    assert (kernel(model) * signs(model) >= 0).all()
    assert (kernel(model) == 0).any()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: keras.layers.Conv2D(5, 3), (1, 1, 4, 1)),
        (lambda: keras.layers.Conv2DTranspose(5, 3), (1, 1, 1, 4)),
        (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (1, 1, 4, 1)),
        (lambda: keras.layers.SeparableConv2D(5, 3, depth_multiplier=2), (1, 1, 4, 1)),
    ],
)
def test_an_input_channel_is_a_neuron(make: Any, shape: tuple[int, ...]) -> None:
    layer = make()
    model = constrain(keras.Sequential([keras.Input((6, 6, 4)), layer]), FixedSign("neuron"))
    names = [name for name in vars(layer) if name.endswith("_constraint")]
    found = [c for name in names if isinstance(c := getattr(layer, name), FixedSign)]
    assert tuple(found[0].signs.shape) == shape
    assert len(found) == 1 + isinstance(layer, keras.layers.SeparableConv2D)
    assert all(v.constraint is not None for v in model.trainable_variables if "bias" not in v.path)


def test_with_fixed_signs_sign_symmetry_needs_no_transport() -> None:
    """B fixed once at sign * scale trains to the same bits as reading sign(W) at every step."""
    reads = signed("ss", hold=1e-10)
    fixed = signed("fa", hold=1e-10)
    for pathway, reading in zip(tfwm.pathways(fixed), tfwm.pathways(reads), strict=True):
        scale = reading.rule.scale
        sign = fixed.get_layer(pathway.name).kernel_constraint.signs.numpy()
        pathway.feedback_kernel.assign(scale * sign.astype("float32"))
    for model in (reads, fixed):
        fit(model, epochs=2)
    np.testing.assert_array_equal(kernel(reads), kernel(fixed))
    # Signs would have changed without the constraint.
    assert int(fixed.get_layer("hidden").kernel_constraint.attempts) > 50


def test_a_constraint_joins_a_compiled_model_and_outlives_its_conversion() -> None:
    model = compiled(dense(None), keras.optimizers.SGD(RATE))
    fit(model, batches=2)
    constrain(model, FixedSign())
    before = kernel(model)
    for change in (lambda m: m, lambda m: tfwm.convert_model(m, "fa")):
        change(model)
        fit(model, batches=4)
        assert model.get_layer("hidden").kernel.constraint is not None
        assert (kernel(model) * before >= 0).all()
        assert (kernel(model) == 0).any()


def test_conversion_says_nothing_of_a_constraint(recwarn: Any) -> None:
    tfwm.convert_model(constrain(dense(None), FixedSign()), "fa")
    assert not [w for w in recwarn if "stay on backprop" in str(w.message)]


@pytest.mark.parametrize("per", slow_but(["synapse"], ["synapse", "neuron"]))
def test_a_saved_model_goes_on_to_the_bit(per: Any, tmp_path: Any) -> None:
    model = signed("fa", per=per)
    fit(model)
    assert (kernel(model) == 0).any()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    assert_same_weights(model, clone)
    for each in (model, loaded):
        fit(each)
    assert_same_weights(model, loaded)


@pytest.mark.slow
def test_a_stripped_model_keeps_its_signs(tmp_path: Any) -> None:
    model = tfwm.strip_feedback(signed("fa"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(signs(loaded), signs(model))
    assert isinstance(loaded.get_layer("hidden").kernel.constraint, FixedSign)


def test_a_clone_with_weights_of_its_own_is_not_trained_without_signs() -> None:
    model = keras.models.clone_model(signed("fa"))
    with pytest.raises(ValueError, match="does not know its signs"):
        fit(compiled(model, run_eagerly=True))
    layer = model.get_layer("hidden")
    layer.kernel_constraint.remember(layer.kernel)
    np.testing.assert_array_equal(layer.kernel_constraint(layer.kernel), layer.kernel)


def test_replicas_cut_alike_and_count_once(two_replicas: Any) -> None:
    with two_replicas.scope():
        weight = keras.Variable([[1.0, -1.0, 1.0]])
        weight.constraint = FixedSign()
        weight.constraint.remember(weight)
        optimizer = keras.optimizers.SGD(RATE)
        optimizer.build([weight])

    @tf.function
    def step() -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        parts = tf.constant([[[9.0, 9.0, 1.0]], [[-1.0, 9.0, 0.5]]])
        optimizer.apply([tf.gather(parts, replica)], [weight])

    two_replicas.run(step)
    assert_same_on_replicas(weight)
    np.testing.assert_allclose(weight.numpy(), [[0, -10, 0.25]])
    assert weight.constraint.attempts.numpy() == 1


@pytest.mark.slow
def test_both_replicas_hold_the_same_signs(two_replicas: Any) -> None:
    with two_replicas.scope():
        model = compiled(dense("urfb"), keras.optimizers.SGD(RATE))
    constrain(model, FixedSign(), layers=["hidden"])
    constrain(model, GlorotClip(1.01), layers=["head"])
    one = compiled(dense("urfb"), keras.optimizers.SGD(RATE))
    constrain(one, FixedSign(), layers=["hidden"])
    constrain(one, GlorotClip(1.01), layers=["head"])
    for each in (model, one):
        fit(each, batches=4)
    for variable, expected in zip(model.trainable_variables, one.trainable_variables, strict=True):
        assert_same_on_replicas(variable)
        np.testing.assert_allclose(variable.numpy(), expected.numpy(), atol=1e-4)
    counts = [m.get_layer("hidden").kernel_constraint.attempts.numpy() for m in (model, one)]
    assert counts[0] == pytest.approx(counts[1], abs=2)
    assert counts[0] > 20


@pytest.mark.parametrize("how", slow_but(["at birth"], ["before", "after", "at birth"]))
def test_clipping_binds_a_feedback_weight_that_is_updated(how: str, tmp_path: Any) -> None:
    clip = GlorotClip(1.01)
    if how == "at birth":
        model = dense("urfb", kernel_constraint=clip)
    elif how == "before":
        model = tfwm.convert_model(constrain(dense(None), clip), "urfb")
    else:
        model = constrain(dense("urfb"), clip)
    bound = 1.01 * np.sqrt(6 / 70)
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        fit(compiled(each, keras.optimizers.SGD(1.0)), batches=4)
        for found in (each.get_layer("hidden").kernel, each.get_layer("hidden").feedback_kernel):
            assert np.abs(found.numpy()).max() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("constraint", [FixedSign(), GlorotClip()])
def test_kolen_pollacks_callback_refuses_both(constraint: Any) -> None:
    model = compiled(dense("kp"), keras.optimizers.SGD(0.1, weight_decay=0.1))
    constrain(model, constraint)
    with pytest.raises(ValueError, match="has a kernel constraint"):
        fit(model, tfwm.callbacks.KolenPollack())


@pytest.mark.slow
def test_equal_cuts_bring_w_and_b_no_further_apart_than_the_law() -> None:
    """What GlorotClip leaves of Kolen-Pollack's law is an upper bound."""
    clipped = constrain(
        compiled(dense("kp"), keras.optimizers.SGD(RATE, weight_decay=0.02)), GlorotClip(1.01)
    )

    def gap() -> float:
        layer = clipped.get_layer("hidden")
        return float(np.linalg.norm(layer.kernel.numpy() - layer.feedback_kernel.numpy()))

    before = gap()
    fit(clipped, batches=8)
    assert gap() < (1 - RATE * 0.02) ** 8 * before * 0.999


@pytest.mark.slow
def test_under_mixed_precision_the_weights_stay_float32_and_on_their_sides() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = signed("fa", hold=1e-10)
    constraint = model.get_layer("hidden").kernel_constraint
    assert (constraint.signs.dtype, constraint.attempts.dtype) == ("int8", "int64")
    fit(model)
    assert (kernel(model) * signs(model) >= np.float32(1e-10)).all()
    assert (np.abs(kernel(model)) == np.float32(1e-10)).any()


# --- mistakes -----------------------------------------------------------------------------------


def attention() -> keras.Model:
    x = keras.Input((4, 6))
    return keras.Model(x, keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: FixedSign("row"), "per of FixedSign is 'row'. Expected 'synapse' or 'neuron'."),
        (lambda: FixedSign(hold=-1), "hold of FixedSign is -1. Expected 0 or a small number"),
        (lambda: GlorotClip(0), "factor of GlorotClip is 0. Expected a number above 0."),
        (
            lambda: constrain(dense("fa"), FixedSign(), layers=["heat"]),
            "'heat' matches no built layer with a kernel. Expected patterns of hidden, head.",
        ),
        (
            lambda: constrain(dense("fa"), FixedSign(), layers="head"),
            "layers of constrain is 'head'. Expected a list of name patterns.",
        ),
        (
            lambda: constrain(signed("fa"), GlorotClip()),
            "'hidden' has a constraint already .FixedSign.. Leave it out by patterns",
        ),
        (
            lambda: constrain(attention(), FixedSign()),
            "stands inside another one, whose config would not restore the constraint",
        ),
        (
            lambda: constrain(
                keras.Sequential([keras.Input((6, 4)), keras.layers.Conv1D(4, 2, groups=2)]),
                FixedSign("neuron"),
            ),
            "FixedSign per neuron needs input cells along one axis of the kernel",
        ),
        (
            lambda: FixedSign(hold=1e-10).remember(keras.Variable([[1.0]], dtype="float16")),
            "hold of FixedSign is 1e-10, which is 0 in float16",
        ),
    ],
)
def test_mistake_is_told_in_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_one_fixed_sign_is_not_shared() -> None:
    constraint = FixedSign()
    constraint.remember(keras.Variable([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="Give each kernel a FixedSign of its own"):
        constraint.remember(keras.Variable([[1.0]]))
