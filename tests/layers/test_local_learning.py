"""Local losses in training: where B settles, and what must not change its gradient."""

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.layers.kinds import relative_error
from tests.slow import slow_but
from tfweightmirror import rules
from tfweightmirror.rules import (
    ActivationAlignment,
    FeedbackRule,
    InformationAlignment,
    Signals,
    SymmetricAlignment,
)

IA = InformationAlignment(amplify=0.5, decay=0.25, null=0.125)
PFA = rules.ProductFeedbackAlignment(3)
SGD = keras.optimizers.SGD
X = np.random.default_rng(0).normal(size=(16, 6)).astype("f4")
Y = np.random.default_rng(1).normal(size=(16, 3)).astype("f4")


def network(rule: Any = IA, optimizer: Any = None, **options: Any) -> keras.Sequential:
    """Two layers, compiled."""
    dense = tfwm.layers.FeedbackDense
    layers = [dense(5, "tanh", name="low", rule=rule), dense(3, name="head", rule=rule)]
    for seed, layer in enumerate(layers):
        layer.kernel_initializer = keras.initializers.GlorotUniform(seed=seed)
    model = keras.Sequential([keras.Input((6,)), *layers], name="model")
    model.compile(optimizer or SGD(0.1), "mse", **{"jit_compile": False, **options})
    return model


def trained(model: keras.Model, *callbacks: Any, batch: int = 16, **options: Any) -> Any:
    """All weights after an epoch."""
    model.fit(in_batches(X, Y, batch), verbose=0, shuffle=False, callbacks=callbacks, **options)
    return {v.path: v.numpy() for v in model.variables}


# --- fixed points -------------------------------------------------------------------------------


def settled(rule: FeedbackRule, steps: int = 2000, rate: float = 0.3) -> tuple[Any, Any, Any]:
    """x, W and B of one linear layer on one batch, W still, after gradient descent."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 5)) @ np.diag([0.6, 0.8, 1.0, 1.2, 1.4]) + 0.3
    w, b = random.normal(size=(2, 5, 3)) * 0.5
    x, w, b = (tf.constant(array) for array in (x, w, b))
    f = tfwm.asymmetric(tf.matmul, rule)

    @tf.function
    def run(b: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                tape.watch(b)
                y = f(x, w, b)
            b -= rate * tape.gradient(y, b)
        return b

    return x.numpy(), w.numpy(), run(b).numpy()


@pytest.mark.parametrize("null", [0.0, 0.5])
@pytest.mark.parametrize("centered", [False, True])
def test_information_alignment_settles_by_its_law(null: float, centered: bool) -> None:
    """`B (decay + null E y y^T) = amplify S W`."""
    rule = InformationAlignment(amplify=0.5, decay=0.25, null=null, centered=centered)
    x, w, b = settled(rule)
    x = x - x.mean(0) * centered
    second = x.T @ x / len(x)
    bound = rule.decay * np.eye(3) + null * w.T @ second @ w
    assert relative_error(b, rule.amplify * second @ w @ np.linalg.inv(bound)) < 1e-9


def test_activation_alignment_settles_at_w() -> None:
    _, w, b = settled(ActivationAlignment(amplify=0.5, sparse=0.25))
    assert relative_error(b, 2 * w) < 1e-9


def test_symmetric_alignment_settles_at_w() -> None:
    _, w, b = settled(SymmetricAlignment(alike=0.5, decay=0.25))
    assert relative_error(b, 2 * w) < 1e-9


# --- what must not change B's gradient ----------------------------------------------------------


SCALED = ["dynamic", "loss_scale", "loss", "accumulation"]


@pytest.mark.parametrize("changed", slow_but(SCALED[:1], SCALED))
def test_b_s_steps_do_not_depend_on_how_the_loss_is_scaled(changed: str) -> None:
    batch, options = 16, {}
    optimizer: Any = SGD(0.1)
    if changed == "loss_scale":
        optimizer = SGD(0.1, loss_scale_factor=1024.0)
    elif changed == "dynamic":
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1))
    elif changed == "loss":
        options = {"loss_weights": [7.0]}
    elif changed == "accumulation":  # two batches of one step, whose means are those of both
        optimizer, batch = SGD(0.1, gradient_accumulation_steps=2), 8
    expected = trained(network())
    found = trained(network(optimizer=optimizer, **options), batch=batch)
    for path, value in expected.items():
        if "feedback" in path:
            start = {v.path: v.numpy() for v in network().variables}[path]
            assert np.abs(value - start).max() > 1e-3
            np.testing.assert_allclose(found[path], value, atol=2e-6, err_msg=path)


@pytest.mark.slow
@pytest.mark.always
@pytest.mark.parametrize("rule", [IA, ActivationAlignment(), SymmetricAlignment(), PFA])
def test_two_replicas_train_as_one_device(rule: Any, two_replicas: Any) -> None:
    expected = trained(network(rule), epochs=3)
    with two_replicas.scope():
        model = network(rule)
    found = trained(model, epochs=3)
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, atol=1e-5, err_msg=path)
    for pathway in tfwm.pathways(model):
        first, second = pathway.feedback_kernel.value.values
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_xla_trains_the_same() -> None:
    expected, found = trained(network()), trained(network(jit_compile=True))
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, atol=1e-6, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_teaches_b_nearly_the_same(policy: str) -> None:
    expected = trained(network())
    start = {v.path: v.numpy() for v in network().variables}
    keras.config.set_dtype_policy(policy)
    model = network()
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    found = trained(model)
    for path in (p for p in expected if "feedback" in p):
        assert found[path].dtype == np.float32
        assert relative_error(found[path] - start[path], expected[path] - start[path]) < 0.03


def test_in_a_loop_of_ones_own_b_learns_too() -> None:
    model, optimizer = network(), SGD(0.1)
    expected = trained(network())
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
    optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    for variable in model.variables:
        np.testing.assert_allclose(variable, expected[variable.path], atol=1e-6)


def test_evaluation_teaches_nothing_and_reports_no_local_loss() -> None:
    model = network()
    before = [v.numpy() for v in model.weights]
    loss = model.evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(np.mean((model.predict(X, verbose=0) - Y) ** 2), rel=1e-5)
    assert not model.losses
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_kolen_pollack_callback_leaves_b_to_its_own_gradient() -> None:
    def mixed() -> keras.Model:
        model = network("kp", SGD(0.1, weight_decay=0.01))
        low = tfwm.layers.FeedbackDense(5, "tanh", name="low", rule=IA)
        low.kernel_initializer = keras.initializers.GlorotUniform(seed=0)
        model = keras.Sequential([keras.Input((6,)), low, model.layers[1]], name="model")
        model.compile(SGD(0.1, weight_decay=0.01), "mse", jit_compile=False)
        return model

    expected = trained(mixed())
    found = trained(mixed(), tfwm.callbacks.KolenPollack())
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, atol=1e-6, err_msg=path)


def test_the_kolen_pollack_callback_refuses_a_rule_whose_local_loss_it_would_drop() -> None:
    class Both(rules.KolenPollack):
        def local_loss(self, signals: Signals) -> tf.Tensor:
            return IA.local_loss(signals)

    model = network(Both(), SGD(0.1, weight_decay=0.01))
    with pytest.raises(ValueError, match="rule Both gives B a gradient of its own"):
        trained(model, tfwm.callbacks.KolenPollack())


# --- a rule of one's own, refusals, what is kept ------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class Oja(FeedbackRule):
    """A loss of the user's own: y is to be found again from x through B, and B small by y."""

    pull: float = 0.5

    name = "oja"
    learns_by = "optimizer"

    def local_loss(self, signals: Signals) -> tf.Tensor:
        gap = signals.backward(signals.y) - self.pull * signals.x
        return signals.mean(gap**2) / 2


def test_a_loss_of_ones_own_trains_and_is_saved(tmp_path: pathlib.Path) -> None:
    model = network(Oja(pull=0.25))
    w, b = model.layers[0].kernel.numpy(), model.layers[0].feedback_kernel.numpy()
    after = trained(model)
    y = X @ w
    expected = b - 0.1 * (y @ b.T - 0.25 * X).T @ y / len(X)
    np.testing.assert_allclose(after[model.layers[0].feedback_kernel.path], expected, atol=1e-6)
    model.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").layers[0].rule == Oja(pull=0.25)


def test_a_local_loss_that_would_move_nothing_is_refused() -> None:
    class Forgotten(Oja):
        learns_by = "nothing"

    class NotOfB(Oja):
        def local_loss(self, signals: Signals) -> tf.Tensor:
            return signals.mean(signals.y)

    with pytest.raises(ValueError, match=r"Forgotten has a local_loss, learns_by='nothing'"):
        trained(network(Forgotten()))
    with pytest.raises(ValueError, match="NotOfB does not depend on B"):
        trained(network(NotOfB()))


@pytest.mark.parametrize("rule", slow_but([IA], [IA, PFA]))
def test_files_and_checkpoints_keep_rule_b_and_what_it_learns(
    rule: Any, tmp_path: pathlib.Path
) -> None:
    def fresh() -> keras.Model:
        return network(rule, SGD(0.1, momentum=0.9, weight_decay=0.01))

    model = fresh()
    trained(model)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.save(str(tmp_path / "point"))
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert [layer.rule for layer in loaded.layers] == [rule, rule]
    by_weights, restored = fresh(), fresh()
    trained(restored)
    trained(by_weights)
    by_weights.load_weights(tmp_path / "m.weights.h5")
    tf.train.Checkpoint(model=restored, optimizer=restored.optimizer).restore(path)
    for other in (loaded, by_weights, restored):
        for one, same in zip(model.variables, other.variables, strict=True):
            np.testing.assert_array_equal(same, one, err_msg=one.path)
    expected = trained(model)
    for other in (loaded, restored):  # momentum of B, too
        for name, value in zip(expected, trained(other).values(), strict=True):
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [IA, PFA])
def test_a_compiled_model_is_converted_and_stripped_again(rule: Any) -> None:
    layers = [keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(SGD(0.1, momentum=0.9, weight_decay=0.01), "mse")
    trained(model)
    momentum = [v.numpy() for v in model.optimizer.variables]
    kept = [v.numpy() for v in model.variables]
    tfwm.convert_model(model, rule)
    b = [p.feedback_kernel.numpy() for p in tfwm.pathways(model)]
    tfwm.strip_feedback(tfwm.convert_model(tfwm.strip_feedback(model), rule))
    for variable, value in zip(model.variables, kept, strict=True):
        np.testing.assert_array_equal(variable, value)
    for variable, value in zip(model.optimizer.variables, momentum, strict=True):
        np.testing.assert_array_equal(variable, value)
    tfwm.convert_model(model, rule)
    trained(model)
    for pathway, before in zip(tfwm.pathways(model), b, strict=True):
        assert np.abs(pathway.feedback_kernel - before).max() > 1e-4
    assert not any("feedback" in v.path for v in tfwm.strip_feedback(model).variables)
