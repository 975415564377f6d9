"""Direct feedback alignment in every form of a model, precision, compiler; what it refuses."""

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.layers.direct_models import error_of, gradients, plain_layers, small
from tests.slow import slow_but

k = keras.layers


# --- forms of models, precision, compilers ------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["graph", pytest.param("jit", marks=[pytest.mark.slow, pytest.mark.always])]
)
def test_graphs_and_xla_give_the_eager_gradients(mode: str) -> None:
    model, x, y = small()
    dx, expected = gradients(model, x, y)
    other_dx, found = gradients(model, x, y, mode)
    assert error_of(other_dx, dx) < 1e-5
    for name, gradient in expected.items():
        assert np.allclose(found[name], gradient, atol=1e-6 + 1e-5 * np.abs(gradient).max()), name


@pytest.mark.parametrize(
    ("policy", "close"),
    [("mixed_bfloat16", 0.05), pytest.param("mixed_float16", 0.01, marks=pytest.mark.slow)],
)
def test_in_mixed_precision_the_same_error_arrives(policy: str, close: float) -> None:
    model, x, y = small()
    _, expected = gradients(model, x, y)
    keras.config.set_dtype_policy(policy)
    mixed, *_ = small()
    _, found = gradients(mixed, x, y)
    for name in ("low/kernel", "depth/kernel", "hidden/kernel", "head/kernel"):
        assert found[name].dtype == "float32"
        assert 0 < error_of(found[name], expected[name]) < close, name


class Subclassed(keras.Model):
    """The layers of `small`, listed in another order than they are called in."""

    def __init__(self, layers: list[k.Layer]) -> None:
        super().__init__()
        self.head, *self.below = layers[::-1]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self.below[::-1]:
            x = layer(x)
        return self.head(x)


def in_form(form: str, layers: list[k.Layer]) -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    if form == "sequential":
        return keras.Sequential([inputs, *layers])
    if form == "nested":
        inner = keras.Sequential([keras.Input((6, 6, 2)), *layers[:3]], name="inner")
        outer = keras.Sequential([keras.Input((3, 3, 3)), *layers[3:]], name="outer")
        return keras.Model(inputs, outer(inner(inputs)))
    if form == "subclassed":
        model = Subclassed(layers)
        model(tf.zeros((1, 6, 6, 2)))
        return model
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("form", slow_but(["nested"], ["functional", "nested", "subclassed"]))
def test_every_form_of_a_model_learns_to_the_same_bits(form: str) -> None:
    model, x, y = small()
    dx, expected = gradients(model, x, y)
    other = in_form(form, plain_layers())
    tfwm.convert_model(other, "dfa")
    known = {"/".join(v.path.split("/")[-2:]): v for v in model.variables}
    for variable in other.variables:
        variable.assign(known["/".join(variable.path.split("/")[-2:])])
    other_dx, found = gradients(other, x, y)
    assert np.array_equal(dx, other_dx)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.always
def test_two_replicas_learn_what_one_device_learns(two_replicas: tf.distribute.Strategy) -> None:
    weights = []
    for scope in (contextlib.nullcontext, two_replicas.scope):
        with scope():
            model = keras.Sequential([keras.Input((6, 6, 2)), *plain_layers(norm=False)])
            tfwm.convert_model(model, "dfa", seed=1)
            model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
            for place, v in enumerate(model.variables):
                v.assign(np.random.default_rng(place).normal(size=v.shape) / 2)
        _, x, y = small()
        model.fit(in_batches(x, np.eye(3)[y], 4), epochs=2, shuffle=False, verbose=0)
        weights.append([v.numpy() for v in model.variables])
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


# --- where no output layer sends the error ------------------------------------------------------


def trained(model: keras.Model, x: Any, y: Any) -> None:
    """One step of a loop of one's own."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    tape.gradient(loss, model.trainable_variables)


class Apart(keras.Model):
    """Calls the layers of a converted model in a way of its own."""

    def __init__(self, model: keras.Model, way: Any) -> None:
        super().__init__()
        self.low, self.head, self.way = *model.layers[-2:], way

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.way(self, x)


def in_a_loop(model: Any, x: tf.Tensor) -> tf.Tensor:
    body = lambda i, h: (i + 1, model.low(h))  # noqa: E731
    return model.head(tf.while_loop(lambda i, _: i < 2, body, (0, x))[1])


NOBODY = r"Layer 'low' trains by direct_feedback_alignment, but no output layer sends it"
AGAIN = "Output layer 'head' is called again, with no layer of direct_feedback_alignment called"
WAYS = {
    "encoder": (lambda m, x: m.low(x), NOBODY),
    "after": (lambda m, x: m.low(m.head(x) @ tf.ones((2, 4))), NOBODY),
    "function": (lambda m, x: m.head(tf.function(m.low)(x)), NOBODY),
    "loop": (in_a_loop, NOBODY),
    "remat": (lambda m, x: m.head(keras.remat(m.low)(x)), NOBODY),
    "head twice": (lambda m, x: m.head(m.low(x)) + m.head(x), AGAIN),
    "siamese": (lambda m, x: (lambda a, b: m.head(a) - m.head(b))(m.low(x), m.low(2 * x)), AGAIN),
}


@pytest.mark.parametrize(
    ("name", "traced"),
    # An eager loop is calls one after another.
    [(name, traced) for name in WAYS for traced in (False, True) if traced or name != "loop"],
)
def test_a_layer_that_no_output_layer_reaches_does_not_train(name: str, traced: bool) -> None:
    way, said = WAYS[name]
    model = keras.Sequential([keras.Input((4,)), k.Dense(4, name="low"), k.Dense(2, name="head")])
    part = Apart(tfwm.convert_model(model, "dfa"), way)
    step = tf.function(trained) if traced else trained
    with pytest.raises(ValueError, match=said):
        step(part, tf.ones((3, 4)), 1.0)


@pytest.mark.parametrize("traced", [False, True])
def test_layers_that_keras_recomputes_do_not_train(traced: bool) -> None:
    model = keras.Sequential([keras.Input((4,)), k.Dense(4, name="low"), k.Dense(2, name="head")])
    tfwm.convert_model(model, "dfa")
    with keras.RematScope(mode="list_of_layers", layer_names=["low"]):
        recomputing = keras.models.clone_model(model)
    step = tf.function(trained) if traced else trained
    with pytest.raises(ValueError, match=NOBODY):
        step(recomputing, tf.ones((3, 4)), 1.0)


def test_a_layer_takes_inputs_of_one_size() -> None:
    layers = [k.Conv1D(2, 3, name="low"), k.GlobalMaxPooling1D(), k.Dense(2, name="head")]
    model = tfwm.convert_model(keras.Sequential([keras.Input((8, 2)), *layers]), "dfa")
    with pytest.raises(ValueError, match="B for 16 input cells and received inputs of shape"):
        model.layers[0](tf.ones((1, 9, 2)))


def test_a_part_gives_its_outputs_all_the_same() -> None:
    model = keras.Sequential([keras.Input((4,)), k.Dense(4, name="low"), k.Dense(2, name="head")])
    encoder = keras.Model(tfwm.convert_model(model, "dfa").inputs[0], model.layers[0].output)
    x = np.ones((3, 4), "float32")
    expected = x @ model.layers[0].kernel.numpy()
    for outputs in (encoder.predict(x, verbose=0), encoder(x, training=True)):
        np.testing.assert_allclose(outputs, expected, rtol=1e-6)


def test_each_network_in_a_model_hears_of_its_own_output() -> None:
    """A generator and a critic, converted apart, in one call."""
    parts = []
    for units in (4, 2):
        layers = [keras.Input((4,)), k.Dense(4, "tanh", name="low"), k.Dense(units, name="head")]
        parts.append(tfwm.convert_model(keras.Sequential(layers), "dfa"))
    inputs = keras.Input((4,))
    both = keras.Model(inputs, parts[1](parts[0](inputs)))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")

    def of_all() -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(both(x)[:, 0])
        return [g.numpy() for g in tape.gradient(loss, [v.value for v in both.trainable_variables])]

    start, moved = of_all(), []
    for pathway in tfwm.pathways(both):
        old = pathway.feedback_kernel.numpy()
        pathway.feedback_kernel.assign(old + 1.0)
        moved.append([not np.array_equal(a, b) for a, b in zip(start, of_all(), strict=True)][::2])
        pathway.feedback_kernel.assign(old)
    # The kernels that B of a layer moves: the one below. The generator's error comes through the
    # lowest B of the critic, and so do all errors of its own.
    assert moved == [
        [False, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, False],
    ]


def test_layers_left_to_backprop_pass_the_errors_on() -> None:
    layers = [k.Dense(4, name="low"), k.LSTM(3, name="lstm"), k.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((5, 4)), *layers])
    tfwm.convert_model(model, {"lstm": "backprop", "*": "dfa"})
    x, y = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32"), np.arange(6) % 2
    _, start = gradients(model, x, y)
    assert np.abs(start["low/kernel"]).max() > 0
    head = model.get_layer("head").feedback_kernel
    head.assign(np.zeros(head.shape))
    _, found = gradients(model, x, y)
    for name in ("low/kernel", "lstm_cell/kernel"):
        assert not np.any(found[name])
    assert np.array_equal(found["head/kernel"], start["head/kernel"])


@pytest.mark.parametrize("traced", [False, True])
def test_second_derivatives_are_refused(traced: bool) -> None:
    model, x, _ = small()

    def penalized(x: tf.Tensor) -> Any:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(x)
                score = model(x, training=True)
            slope = tf.reduce_sum(tape.gradient(score, x) ** 2)
        return outer.gradient(slope, model.trainable_variables)

    with pytest.raises(ValueError, match="a second derivative was asked for"):
        (tf.function(penalized) if traced else penalized)(tf.convert_to_tensor(x))


def test_a_graph_refuses_a_second_derivative_through_its_errors() -> None:
    model, x, _ = small()

    @tf.function
    def twice(x: tf.Tensor) -> Any:
        loss = tf.reduce_sum(model(x, training=True) ** 3)
        (first,) = tf.gradients(loss, [x])
        return tf.gradients(tf.reduce_sum(first**2), [x])

    with pytest.raises(ValueError, match="a second derivative was asked for"):
        twice(tf.convert_to_tensor(x))
