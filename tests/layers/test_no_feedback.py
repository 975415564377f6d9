"""A layer without feedback: bit-equal where no error goes down, refused where one would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm

x, y = (np.random.default_rng(n).normal(size=(8, 4)).astype("float32") for n in (0, 1))
REFUSED = r"which sends no error down, and a gradient tape watches its input: something below"


def network(*below: keras.layers.Layer, rule: Any = "kp", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    dense = [keras.layers.Dense(n, "tanh", name=m) for m, n in (("a", 5), ("b", 6), ("c", 4))]
    model = keras.Sequential([*below, *dense])
    model.build((None, 4))
    if rule is not None:
        tfwm.convert_model(model, rule, seed=3, **options)
    return model


def trained(model: keras.Model, callbacks: Any = (), **options: Any) -> dict[str, np.ndarray]:
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01), "mse", **options)
    model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
    return {"/".join(v.path.split("/")[-2:]): v.numpy() for v in model.variables}


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
@pytest.mark.parametrize("rule", ["bp", "fa", "kp", "wm", "usf"])
def test_all_other_weights_are_bit_equal(rule: str, options: dict[str, Any]) -> None:
    callbacks: Callable[[], list[Any]] = {
        "kp": lambda: [tfwm.callbacks.KolenPollack()],
        "wm": lambda: [tfwm.callbacks.WeightMirror("impulse", seed=1)],
    }.get(rule, list)
    whole = trained(network(rule=rule), callbacks(), **options)
    model = network(rule=rule, first_layer="no_feedback")
    spared = trained(model, callbacks(), **options)
    assert whole.keys() - spared.keys() == ({"a/feedback_kernel"} & whole.keys())
    for name, value in spared.items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    assert not np.array_equal(spared["a/kernel"], network(rule=None).get_weights()[0])


def test_kolen_pollack_moves_and_keeps_no_b_of_it() -> None:
    model = network(first_layer="no_feedback")
    trained(model, [tfwm.callbacks.KolenPollack()])
    shapes = [tuple(v.shape) for v in model.optimizer.variables]
    assert (4, 5) in shapes
    assert shapes.count((4, 5)) == 1
    assert [p.name for p in tfwm.pathways(model) if p.feedback_kernel is not None] == ["b", "c"]
    assert list(tfwm.weight_angles(model)) == list(tfwm.norm_ratios(model)) == ["b", "c"]
    (first, *_) = tfwm.pathways(model)
    with pytest.raises(ValueError, match=r"'a' has no tensor in W's place.*no error goes down"):
        first.backward_kernel()
    angles = tfwm.delta_angles(model, x, y)
    assert list(angles) == ["a", "b", "c"]
    assert np.isfinite(list(angles.values())).all()


def test_monitor_leaves_it_out(tmp_path: Path) -> None:
    model, logs = network(first_layer="no_feedback"), {}
    monitor = tfwm.callbacks.FeedbackMonitor(measures=("weight_angle", "sparsity"), probe=(x, y))
    history = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, found: logs.update(found))
    trained(model, [tfwm.callbacks.KolenPollack(), monitor, history])
    assert {n for n in logs if n.startswith("weight_angle/")} == {
        "weight_angle/b",
        "weight_angle/c",
    }
    assert {"sparsity/a", "delta_angle/a"} <= logs.keys(), list(logs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].rule == tfwm.rules.NoFeedback()
    assert type(tfwm.strip_feedback(loaded).layers[0]) is keras.layers.Dense


def below_embedding() -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(7, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(5, name="a"),
            keras.layers.Dense(4, name="b"),
        ]
    )
    tfwm.convert_model(model, "fa", first_layer="no_feedback")
    model.compile("sgd", "mse")
    model.fit(np.zeros((8, 3)), y, verbose=0)


def adversarial() -> None:
    model, image = network(rule="fa", first_layer="no_feedback"), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(image)
        model(image)


def not_the_first() -> None:
    model = network(rule={"b": "no_feedback", "*": "fa"})
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)


def generator() -> None:
    made, critic = network(rule=None), network(rule="fa", first_layer="no_feedback")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(critic(made(x)))
    tape.gradient(loss, made.trainable_variables)


def rematerialized() -> None:
    model = network(rule="fa", first_layer="no_feedback")
    first = keras.remat(model.layers[0])

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(first(tf.constant(x)))
        return tape.gradient(loss, model.layers[0].kernel.value)

    step()


@pytest.mark.parametrize(
    "asks", [below_embedding, adversarial, not_the_first, generator, rematerialized]
)
def test_an_error_that_would_go_down_is_refused(asks: Callable[[], None]) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        asks()


def test_where_no_tape_is_seen_the_error_is_nan_and_never_w() -> None:
    model = network(rule="fa", first_layer="no_feedback")
    inner = tf.function(lambda image: tf.reduce_sum(model(image)))

    @tf.function
    def by_gradients(image: tf.Tensor) -> Any:
        return tf.gradients(tf.reduce_sum(model(image)), [image, model.layers[0].kernel.value])

    @tf.function
    def through_a_function(image: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = inner(image)
        return tape.gradient(loss, [image, model.layers[0].kernel.value])

    for ask in (by_gradients, through_a_function):
        down, own = ask(tf.constant(x))
        assert np.isnan(down).all(), ask
        assert np.isfinite(own).all(), ask


def test_derivatives_of_an_error_that_is_nan_are_nan_and_those_of_no_error_are_not() -> None:
    """A NaN that is a constant has derivatives of 0: a penalty on it would move no weight."""
    model, image = network(rule="fa", first_layer="no_feedback"), tf.constant(x)
    inner, weights = tf.function(model), [w.value for w in model.trainable_variables]

    def of_derivatives(of_weights: bool, answer: Any) -> list[tf.Tensor]:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(image)
                loss = tf.reduce_sum(answer(image) ** 2)
            asked = weights if of_weights else [image]
            penalty = tf.add_n([tf.reduce_sum(g**2) for g in tape.gradient(loss, asked)])
        return outer.gradient(penalty, weights)

    for gradient, weight in zip(of_derivatives(False, inner), weights, strict=True):
        assert np.isnan(gradient).all(), weight.name
    found = of_derivatives(True, inner)
    whole = tf.function(network(rule="fa"))
    weights[:] = [w.value for w in whole.python_function.trainable_variables]
    for one, other in zip(found, of_derivatives(True, whole), strict=True):
        np.testing.assert_array_equal(one, other)
    with tf.autodiff.ForwardAccumulator(image, tf.ones_like(image)) as forward:
        y = inner(image)
    assert np.isnan(forward.jvp(y)).all()


def test_frozen_layers_below_want_a_stop_gradient(tmp_path: Path) -> None:
    """Keras' tapes watch frozen weights, too."""
    for between, match in (lambda outputs: outputs, REFUSED), (keras.ops.stop_gradient, None):
        inputs = keras.Input((4,))
        frozen = keras.layers.Dense(5, name="frozen", trainable=False)
        outputs = keras.layers.Dense(4, name="a")(between(frozen(inputs)))
        model = keras.Model(inputs, keras.layers.Dense(4)(outputs))
        tfwm.convert_model(model, {"a": "no_feedback", "*": "fa"})
        model.compile("sgd", "mse")
        if match:
            with pytest.raises(ValueError, match=match):
                model.fit(x, y, verbose=0)
        else:
            model.save(tmp_path / "model.keras")
            loaded = keras.models.load_model(tmp_path / "model.keras")
            assert np.isfinite(loaded.fit(x, y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("build", [True, False], ids=["built", "unbuilt"])
def test_first_layer_is_the_first_one_called(build: bool) -> None:
    class Backwards(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.first = (keras.layers.Dense(4, name=n) for n in ("head", "first"))

        def call(self, inputs: Any) -> Any:
            return self.head(self.first(inputs))

    model = Backwards()
    if build:
        model(x)
    tfwm.convert_model(model, "fa", first_layer="usf")
    model(x)
    rules = {p.name: p.rule.name for p in tfwm.pathways(model)}
    # Not built, tracking order is all that is known: the head was made first.
    assert rules.pop("first" if build else "head") == "sign_symmetry"
    assert set(rules.values()) == {"feedback_alignment"}


def test_one_layer_has_no_two_ends() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="only")])
    with pytest.raises(ValueError, match=r"'only'.*both the first and the last.*Expected one"):
        tfwm.convert_model(model, "fa", first_layer="no_feedback", last_layer="bp")
    assert type(model.layers[0]) is keras.layers.Dense


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.LSTM(3, name="it"), (5, 4)),
        (keras.layers.SeparableConv1D(3, 2, name="it"), (5, 4)),
    ],
    ids=["lstm", "separable"],
)
def test_layers_whose_matrices_stand_behind_each_other_are_refused(
    layer: keras.layers.Layer, shape: tuple[int, ...]
) -> None:
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"'it' .* several matrices.*the rule of the others"):
        tfwm.convert_model(model, "fa", first_layer="no_feedback")
    assert type(model.layers[0]) is type(layer)
    assert not tfwm.pathways(model)
    with pytest.raises(ValueError, match="several matrices"):
        tfwm.layers.FeedbackLSTM(3, rule="no_feedback")


def test_a_rule_of_ones_own_without_a_carrier_is_refused_as_well() -> None:
    class Silent(tfwm.rules.FeedbackRule):
        name, uses_feedback_kernel, has_carrier = "silent", False, False

        def backward_kernel(self, kernel: Any, feedback: Any, seed: Any) -> None:
            return None

    model = network(rule={"b": Silent(), "*": "fa"})
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"rule 'silent', which sends no error down"):
        model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match=r"'silent': it has several matrices"):
        tfwm.layers.FeedbackLSTM(3, rule=Silent())
