"""Delta and gradient angles: against NumPy, zero where they must be, and no trace left behind."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.slow import slow_but

WIDTHS = (7, 9, 8, 6, 3)


def random_batch(samples: int = 8, shape: tuple[int, ...] = (7,)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(samples, *shape)), random.normal(size=(samples, 3))
    return x.astype("float32"), y.astype("float32")


def four_layers(rule: str) -> keras.Model:
    names = ["one", "two", "three", "four"]
    layers = [
        tfwm.layers.FeedbackDense(
            units,
            activation="tanh" if name != "four" else None,
            rule=rule,
            name=name,
            bias_initializer="random_normal",
        )
        for name, units in zip(names, WIDTHS[1:], strict=True)
    ]
    return keras.Sequential([keras.Input((7,)), *layers])


def numpy_deltas(
    model: keras.Model, x: np.ndarray, y: np.ndarray, carriers: list[np.ndarray]
) -> list[np.ndarray]:
    """Errors at the layers' linear responses, written out in float64."""
    signals = [x.astype("float64")]
    for layer in model.layers:
        z = signals[-1] @ layer.kernel.numpy().astype("float64") + layer.bias.numpy()
        signals.append(np.tanh(z) if layer.name != "four" else z)
    error = 2.0 * (signals[-1] - y) / y.size
    errors = [error]
    for index in (3, 2, 1):
        error = (error @ carriers[index].T) * (1.0 - signals[index] ** 2)
        errors.insert(0, error)
    return errors


def numpy_angle_deg(u: np.ndarray, v: np.ndarray) -> float:
    u, v = u.ravel() / np.linalg.norm(u), v.ravel() / np.linalg.norm(v)
    return float(np.degrees(np.arccos(np.clip(u @ v, -1, 1))))


@pytest.mark.parametrize("rule", slow_but(["fa", "frsf"], ["fa", "kp", "urfb", "wm", "ss", "frsf"]))
def test_angles_are_those_of_an_independent_numpy_network(rule: str) -> None:
    model = four_layers(rule)
    model.compile("sgd", "mse")
    x, y = random_batch()
    w = [layer.kernel.numpy().astype("float64") for layer in model.layers]
    b = [p.backward_kernel().numpy().astype("float64") for p in tfwm.pathways(model)]
    ours, exact = numpy_deltas(model, x, y, b), numpy_deltas(model, x, y, w)
    angles = tfwm.delta_angles(model, x, y)
    assert list(angles) == ["one", "two", "three", "four"]
    for found, mine, true in zip(angles.values(), ours[:3], exact[:3], strict=False):
        assert found == pytest.approx(numpy_angle_deg(mine, true), abs=0.01)
        assert found > 1  # not what backprop would give
    assert angles["four"] == 0
    # Gradients of kernels: x^T delta.
    gradients = tfwm.gradient_angles(model, x, y)
    hidden = keras.Model(model.inputs[0], [layer.output for layer in model.layers])(x)
    signals = [x, *(h.numpy() for h in hidden[:3])]
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for layer, signal, mine, true in zip(model.layers, signals, ours, exact, strict=True):
        pairs = {"kernel": (signal.T @ mine, signal.T @ true), "bias": (mine.sum(0), true.sum(0))}
        for name, (one, other) in pairs.items():
            found = gradients[getattr(layer, name).path]
            assert found == pytest.approx(numpy_angle_deg(one, other), abs=0.01)
            parts[0].append(one.ravel())
            parts[1].append(other.ravel())
    whole = numpy_angle_deg(*(np.concatenate(part) for part in parts))
    assert gradients["whole_network"] == pytest.approx(whole, abs=0.01)


# --- where the angle must be 0 -----------------------------------------------------------------


def functional() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    # Behind a bias, BatchNorm would leave it a gradient of rounding errors, in any direction.
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.3)(keras.layers.ReLU()(x))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    x = keras.layers.Flatten()(keras.layers.Add()([x, y]))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def nested() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(4)]
    )
    inputs = keras.Input((7,))
    x = keras.layers.Dense(5, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.ops.tanh(inner(x))))


def shared() -> keras.Model:
    layer = keras.layers.Dense(7, activation="tanh", name="shared")
    inputs = keras.Input((7,))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(layer(layer(layer(inputs)))))


class Subclassed(keras.Model):
    """No graph of its own; its `call` takes no `training`."""

    def __init__(self) -> None:
        super().__init__()
        self.below = keras.layers.Dense(6, activation="tanh")
        self.head = keras.layers.Dense(3)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.head(self.below(inputs))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 7), "float32"))
    return model


MODELS = [functional, nested, shared, subclassed]


def batch_for(build: Callable[[], keras.Model]) -> tuple[np.ndarray, np.ndarray]:
    return random_batch(8, (6, 6, 2) if build is functional else (7,))


def converted(build: Callable[[], keras.Model], rule: str) -> keras.Model:
    model = build()
    tfwm.convert_model(model, rule)
    model.compile("sgd", "mse")
    return model


def carry_w(model: keras.Model) -> None:
    for pathway in tfwm.pathways(model):
        if pathway.feedback_kernel is not None:
            pathway.feedback_kernel.assign(pathway.kernel)


@pytest.mark.parametrize(
    ("build", "replicas"),
    slow_but(
        [(build, 1) for build in (nested, shared, subclassed)],
        itertools.product(MODELS, (1, 2)),
        unpack=True,
    ),
)
def test_angles_are_zero_for_backprop_and_where_b_is_w(
    build: Callable[[], keras.Model], replicas: int, two_replicas: tf.distribute.Strategy
) -> None:
    def scope() -> Any:
        return two_replicas.scope() if replicas == 2 else contextlib.nullcontext()

    batch = batch_for(build)
    for rule in ("bp", "kp") if build is nested else ("kp",):  # all rules: above
        with scope():
            model = converted(build, rule)
            carry_w(model)
        for measure in (tfwm.delta_angles, tfwm.gradient_angles):
            angles = measure(model, *batch)
            assert angles
            assert max(angles.values()) < (1e-4 if rule != "bp" else 1e-5), (rule, angles)
    # The same measure of the same model sees feedback that is not W.
    tfwm.reset_feedback(model, seed=1)
    assert max(tfwm.delta_angles(model, *batch).values()) > 10
    assert tfwm.gradient_angles(model, *batch)["whole_network"] > 1


@pytest.mark.parametrize("name", slow_but(["delta_angles"], ["delta_angles", "gradient_angles"]))
def test_two_replicas_measure_the_whole_batch(
    name: str, two_replicas: tf.distribute.Strategy
) -> None:
    measure = getattr(tfwm, name)
    batch = random_batch()
    one = converted(nested, "fa")
    with two_replicas.scope():
        two = converted(nested, "fa")
    two.set_weights(one.get_weights())
    ours, theirs = measure(two, *batch), measure(one, *batch)
    # Names count up within a process: the order tells which is which.
    assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=1e-3)
    with pytest.raises(ValueError, match="cannot be cut into equal parts for 2 replicas"):
        measure(two, *random_batch(7))


def test_a_probe_leaves_everything_as_it_was() -> None:
    model = functional()
    tfwm.convert_model(model, "brsf")
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    batch = batch_for(functional)
    model.fit(*batch, verbose=0)
    state = [v.numpy().copy() for v in (*model.variables, *model.optimizer.variables)]
    first = tfwm.delta_angles(model, *batch)
    assert tfwm.delta_angles(model, *batch) == first  # the same dropout, the same magnitudes
    tfwm.gradient_angles(model, *batch)
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for one, other in zip(state, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_zero_errors_have_no_angle() -> None:
    model = four_layers("fa")
    model.compile("sgd", "mse")
    x, _ = random_batch()
    assert all(np.isnan(list(tfwm.delta_angles(model, x, model.predict(x, verbose=0)).values())))


def test_frozen_layers_have_errors_but_no_gradients() -> None:
    model = four_layers("fa")
    for layer in model.layers[:3]:
        layer.trainable = False
    model.compile("sgd", "mse")
    batch = random_batch()
    assert tfwm.delta_angles(model, *batch)["one"] > 1
    head = model.layers[-1]
    expected = {head.kernel.path, head.bias.path, "whole_network"}
    assert set(tfwm.gradient_angles(model, *batch)) == expected


def test_small_float16_errors_keep_their_angle() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = four_layers("fa")
        model.compile("sgd", keras.losses.MeanSquaredError())
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = random_batch()
    coarse = tfwm.delta_angles(model, x, y)
    assert np.isfinite(list(coarse.values())).all()


def test_what_cannot_be_measured_is_refused_in_a_sentence() -> None:
    x, y = random_batch()
    model = four_layers("fa")
    with pytest.raises(ValueError, match="is not compiled: call"):
        tfwm.delta_angles(model, x, y)
    with pytest.raises(ValueError, match="Expected a Keras model"):
        tfwm.delta_angles(model.layers[-1], x, y)

    inputs = keras.Input((5, 7))
    one = keras.layers.TimeDistributed(tfwm.layers.FeedbackDense(4, name="inner"))(inputs)
    cell = keras.layers.RNN(DenseCell(), name="loop")(one)
    looped = keras.Model(inputs, keras.layers.Dense(3)(cell))
    looped.compile("sgd", "mse")
    with pytest.raises(ValueError, match="cannot be seen: it is called inside a loop"):
        tfwm.delta_angles(looped, np.ones((4, 5, 7), "float32"), y[:4])


class DenseCell(keras.layers.Layer):
    """A recurrent cell around a feedback layer."""

    state_size = 4
    output_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.inside = tfwm.layers.FeedbackDense(4, rule="fa", name="in_the_loop")

    def build(self, shape: tuple[int, ...]) -> None:
        self.inside.build(shape)

    def call(self, inputs: tf.Tensor, states: list[tf.Tensor]) -> tuple[tf.Tensor, list]:
        output = keras.ops.tanh(self.inside(inputs) + states[0])
        return output, [output]


@pytest.mark.parametrize("loop", [True, False])
def test_gradients_pass_loops_and_branches_of_the_graph(loop: bool) -> None:
    normal = keras.initializers.RandomNormal(stddev=0.3, seed=1)

    class Looped(keras.layers.Layer):
        def __init__(self, in_the_graph: bool) -> None:
            super().__init__()
            self.inner = tfwm.layers.FeedbackDense(7, "tanh", rule="fa", kernel_initializer=normal)
            self.in_the_graph = in_the_graph

        def call(self, x: tf.Tensor) -> tf.Tensor:
            if not self.in_the_graph:
                return self.inner(self.inner(x)) if loop else self.inner(x)
            if loop:
                body = lambda count, x: (count + 1, self.inner(x))  # noqa: E731
                return tf.while_loop(lambda count, _: count < 2, body, (0, x))[1]
            return tf.cond(tf.reduce_sum(x) < 1e9, lambda: self.inner(x), lambda: x)

    batch = random_batch()
    found = []
    for in_the_graph in (True, False):
        low = tfwm.layers.FeedbackDense(7, rule="fa", kernel_initializer=normal)
        head = keras.layers.Dense(3, kernel_initializer=normal)
        layers = [keras.Input((7,)), low, Looped(in_the_graph), head]
        model = keras.Sequential(layers)
        model.compile("sgd", "mse")
        low.feedback_kernel.assign(np.random.default_rng(1).normal(size=(7, 7)))
        layers[2].inner.feedback_kernel.assign(np.random.default_rng(2).normal(size=(7, 7)))
        found.append(list(tfwm.gradient_angles(model, *batch).values()))
    assert found[0] == pytest.approx(found[1], abs=1e-2)
    assert found[1][-1] > 1


def test_rematerialized_layers_are_refused() -> None:
    class Remat(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.below = tfwm.layers.FeedbackDense(6, rule="fa", name="recomputed")
            self.head = tfwm.layers.FeedbackDense(3, rule="fa")

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.head(keras.remat(self.below)(inputs))

    model = Remat()
    x, y = random_batch()
    model(x)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="'recomputed' cannot be seen"):
        tfwm.delta_angles(model, x, y)


def test_a_plain_model_has_no_delta_angles() -> None:
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    assert tfwm.delta_angles(model, *random_batch()) == {}
    assert max(tfwm.gradient_angles(model, *random_batch()).values()) == 0
