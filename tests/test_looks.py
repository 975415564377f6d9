"""A look at a model (pathways, angles, conversion's order) leaves nothing behind that trains."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import vectors
from tfweightmirror.callbacks import FeedbackMonitor

WAYS = ("method", "attribute", "module", "compiled", "unconverted")


@tf.function
def module_level(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """No layer owns this function, so none can forget its traces."""
    return layer(inputs)


class Entered(keras.layers.Layer):
    """A dense layer that is called inside a `tf.function` of the model's own."""

    def __init__(self, way: str | None, inner: keras.layers.Layer, **options: Any) -> None:
        super().__init__(**options)
        self.way, self.inner = way, inner
        self.attribute = tf.function(lambda x: self.inner(x))
        self.compiled = tf.function(lambda x: self.inner(x), jit_compile=True)
        self.unconverted = tf.function(lambda x: self.inner(x), autograph=False)

    def build(self, shape: tuple[int, ...]) -> None:
        self.inner.build(shape)

    @tf.function
    def method(self, inputs: tf.Tensor) -> tf.Tensor:
        """The function as a method."""
        return self.inner(inputs)

    @tf.function
    def branching(self, inputs: tf.Tensor) -> tf.Tensor:
        """What only AutoGraph can trace."""
        if tf.reduce_sum(inputs) > 1e9:
            inputs = -inputs
        return self.inner(inputs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.way is None:
            return self.inner(inputs)
        if self.way == "module":
            return module_level(self.inner, inputs)
        return getattr(self, self.way)(inputs)

    @property
    def traces(self) -> int:
        """How often its function was traced."""
        function = module_level if self.way == "module" else getattr(self, str(self.way))
        return function.experimental_get_tracing_count()


class Chain(keras.Model):
    """A dense layer, one inside each kind of function, and a head; built without a call."""

    def __init__(self, ways: Any = WAYS, rule: str | None = "fa") -> None:
        super().__init__()
        self.head = self.dense("head", rule, None)
        self.blocks = [Entered(w, self.dense("inner", rule), name=f"block_{w}") for w in ways]
        self.low = self.dense("low", rule)

    @staticmethod
    def dense(name: str, rule: str | None, activation: str | None = "tanh") -> Any:
        """A layer whose weights are the same in every model."""
        options = {"activation": activation, "name": name}
        initializer = keras.initializers.GlorotUniform(seed=len(name))
        plain = keras.layers.Dense(4, kernel_initializer=initializer, **options)
        if rule is None:
            return plain
        return tfwm.layers.FeedbackDense(4, kernel_initializer=initializer, rule=rule, **options)

    def build(self, shape: tuple[int, ...]) -> None:
        for layer in (self.low, *self.blocks, self.head):
            layer.build((None, 4))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = self.low(inputs)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    @property
    def traces(self) -> list[int]:
        """How often each function was traced."""
        return [block.traces for block in self.blocks]


def chain(ways: Any = WAYS, rule: str | None = "fa") -> Chain:
    """A built model, compiled."""
    model = Chain(ways, rule)
    model.build((None, 4))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of four numbers."""
    x, _ = vectors()
    return x, x[::-1].copy()


def test_no_look_traces_a_function_of_the_models_own_and_all_see_through_it() -> None:
    model, plain = chain(), chain((None,) * len(WAYS))
    before = model.traces  # that of the module may be there from another test
    angles = [look(model, *batch()) for look in (tfwm.delta_angles, tfwm.gradient_angles)]
    tfwm.weight_angles(model)
    assert model.traces == before
    assert [p.name for p in tfwm.pathways(model)] == [
        "low",
        *(f"block_{way}/inner" for way in WAYS),
        "head",
    ]
    assert [p.sends_error_back for p in tfwm.pathways(model)] == [False, *[True] * 6]
    for seen, look in zip(angles, (tfwm.delta_angles, tfwm.gradient_angles), strict=True):
        expected = list(look(plain, *batch()).values())
        assert list(seen.values()) == pytest.approx(expected, abs=1e-2)
        assert max(expected) > 1


def test_training_after_a_look_is_carried_by_b() -> None:
    model = chain(("method", "attribute"))
    tfwm.weight_angles(model)
    for block in model.blocks:
        block.inner.feedback_kernel.assign(tf.zeros((4, 4)))
    before = model.low.kernel.numpy()
    model.fit(*batch(), verbose=0, callbacks=[FeedbackMonitor(probe=batch(), gradient_angles=True)])
    np.testing.assert_array_equal(model.low.kernel, before)
    assert model.traces == [1, 1]


def test_conversion_asks_for_the_order_without_a_trace() -> None:
    model = chain(rule=None)
    before = model.traces
    tfwm.convert_model(model, "fa", last_layer="backprop")
    assert type(model.head) is keras.layers.Dense
    assert model.traces == before


def test_conversion_and_stripping_reach_functions_that_no_layer_owns() -> None:
    model = chain(("module",), rule=None)
    model.fit(*batch(), verbose=0)
    tfwm.convert_model(model, "fa")
    model.blocks[0].inner.feedback_kernel.assign(tf.zeros((4, 4)))
    before = model.low.kernel.numpy()
    model.fit(*batch(), verbose=0)
    np.testing.assert_array_equal(model.low.kernel, before)
    tfwm.strip_feedback(model)
    model.fit(*batch(), verbose=0)
    assert np.abs(model.low.kernel - before).max() > 1e-3


def test_functions_that_need_autograph_are_seen_through() -> None:
    model = chain(("branching",))
    assert [p.name for p in tfwm.pathways(model)] == ["low", "block_branching/inner", "head"]
    assert tfwm.delta_angles(model, *batch())["block_branching/inner"] > 1
    assert model.traces == [0]


def test_angles_are_the_same_where_functions_run_eagerly() -> None:
    expected = tfwm.delta_angles(chain(), *batch())
    tf.config.run_functions_eagerly(True)
    try:
        assert tfwm.delta_angles(chain(), *batch()) == pytest.approx(expected, abs=1e-3)
    finally:
        tf.config.run_functions_eagerly(False)


def test_a_function_that_the_model_brings_with_its_trace_is_refused() -> None:
    model = chain(("attribute",))
    block = model.blocks[0]
    block.attribute = block.attribute.get_concrete_function(tf.TensorSpec((None, 4)))
    assert {p.name: p.called for p in tfwm.pathways(model)}["block_attribute/inner"]
    for look in (tfwm.delta_angles, tfwm.gradient_angles):
        with pytest.raises(
            ValueError, match=r"'block_attribute/inner' cannot be seen: .*traced before"
        ):
            look(model, *batch())


def test_losses_of_layers_are_after_a_look_what_they_were() -> None:
    class Adds(Chain):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            self.add_loss(tf.reduce_mean(inputs))
            return super().call(inputs)

    model = Adds(("method",))
    model.compile("sgd", "mse")
    model(batch()[0])
    before = model.losses[0]
    tfwm.weight_angles(model)
    tfwm.delta_angles(model, *batch())
    assert len(model.losses) == 1
    assert model.losses[0] is before


# --- made and never called -----------------------------------------------------------------------


class Spare(keras.layers.Layer):
    """It calls one of its three layers; another one is not even built."""

    def __init__(self) -> None:
        super().__init__(name="owner")
        self.used, self.built_only, self.made_only = (
            keras.layers.Dense(4, name=name) for name in ("used", "built_only", "made_only")
        )

    def build(self, shape: tuple[int, ...]) -> None:
        self.used.build(shape)
        self.built_only.build((None, 3))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.used(inputs)


def with_spares(rule: str, **options: Any) -> keras.Sequential:
    """A model that owns layers which it never calls."""
    head = keras.layers.Dense(4, name="head")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="low"), head, Spare()])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return tfwm.convert_model(model, rule, **options)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # Keras', of the layer built in vain
def test_layers_that_are_never_called_stand_in_nobodys_way() -> None:
    model = with_spares("wm")
    called = {p.name: p.called for p in tfwm.pathways(model)}
    assert called == {"low": True, "head": True, "owner/used": True, "owner/built_only": False}
    seen = ["low", "head", "owner/used"]
    monitor = FeedbackMonitor(probe=batch())
    history = model.fit(
        *batch(), verbose=0, callbacks=[tfwm.callbacks.WeightMirror(), monitor]
    ).history
    measured = {name for name in history if name.startswith("delta_angle/")}
    assert measured == {f"delta_angle/{name}" for name in seen}
    assert history["weight_angle/low"][0] < 1e-3
    options = {"through_activation": True, "activations": dict.fromkeys(seen, "linear")}
    assert tfwm.mirror_model(model, **options)["owner/built_only"] < 1e-3


def test_the_last_layer_is_found_where_others_are_never_called() -> None:
    model = with_spares("fa", last_layer="usf")
    rules = {p.name: p.rule.name for p in tfwm.pathways(model)}
    assert rules["owner/used"] == "sign_symmetry"
    assert {rule for name, rule in rules.items() if name != "owner/used"} == {"feedback_alignment"}


def test_a_look_builds_no_layer() -> None:
    class Lazy(Chain):
        def build(self, shape: tuple[int, ...]) -> None:
            self.low.build(shape)

    model = Lazy(("method",))
    model.build((None, 4))
    with pytest.raises(ValueError, match="'head' has no pathways before it is built"):
        tfwm.pathways(model)
    assert not model.head.built


# --- what trains ----------------------------------------------------------------------------------


class Own(Chain):
    """A model of before Keras 3.3, with dropout that `fit` never switches on."""

    def __init__(self) -> None:
        super().__init__((None,))
        self.dropout = keras.layers.Dropout(0.9)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(self.dropout(inputs))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> tf.Tensor:
        return keras.ops.mean((y - y_pred) ** 2)


def test_methods_without_a_training_argument_are_called_as_keras_calls_them() -> None:
    model = Own()
    model.build((None, 4))
    model.compile("sgd", "mse")
    expected = tfwm.delta_angles(chain((None,)), *batch())
    assert tfwm.delta_angles(model, *batch()) == pytest.approx(expected, abs=1e-3)


class Cubic(Chain):
    """A model that learns from a loss that `compile` knows nothing of."""

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(y - self(x, training=True)) ** 3)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
        return {"loss": loss}


def test_angles_of_a_model_with_its_own_train_step_say_what_they_are_of_once() -> None:
    model = Cubic((None,))
    model.build((None, 4))
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="train_step of its own, but .* the compiled loss"):
        tfwm.delta_angles(model, *batch())
    tfwm.gradient_angles(model, *batch())  # a second warning would be an error
