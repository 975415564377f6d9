"""After every way to convert a model, its feedback kernels carry the error (`SCIENCE` 2.5 a)."""

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import (
    assert_b_carries,
    chain,
    changes,
    compiled,
    fit,
    images,
    vectors,
)
from tests.slow import slow_but
from tfweightmirror._internals.attendance import mirror_attends
from tfweightmirror.layers.carries_rule import CarriesRule

layers = keras.layers


def trained(**options: Any) -> keras.Model:
    """A chain that has been traced and trained by plain backprop."""
    model = compiled(chain(), **options)
    fit(model, *images())
    return model


def normal(*shape: int) -> np.ndarray:
    """A normal array."""
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def dense(units: int, name: str | None = None) -> keras.layers.Dense:
    """A smooth hidden layer."""
    return layers.Dense(units, activation="tanh", name=name)


# --- every conversion path, on one chain of layers ---------------------------------------------


def converted_built(rule: Any) -> keras.Model:
    return compiled(tfwm.convert_model(chain(), rule))


def converted_unbuilt(rule: Any) -> keras.Model:
    model = compiled(tfwm.convert_model(chain(with_input=False), rule))
    fit(model, *images())
    return model


def compiled_and_converted(rule: Any) -> keras.Model:
    return tfwm.convert_model(compiled(chain()), rule)


def compiled_and_converted_unbuilt(rule: Any) -> keras.Model:
    model = tfwm.convert_model(compiled(chain(with_input=False)), rule)
    fit(model, *images())
    return model


def trained_and_converted(rule: Any) -> keras.Model:
    return tfwm.convert_model(trained(), rule)


def trained_with_xla(rule: Any) -> keras.Model:
    return tfwm.convert_model(trained(jit_compile=True), rule)


def trained_eagerly(rule: Any) -> keras.Model:
    return tfwm.convert_model(trained(run_eagerly=True), rule)


def trained_by_many_steps_at_once(rule: Any) -> keras.Model:
    return tfwm.convert_model(trained(steps_per_execution=2), rule)


def evaluated_and_converted(rule: Any) -> keras.Model:
    model = compiled(chain())
    model.evaluate(*images(), verbose=0)
    model.predict(images()[0], verbose=0)
    return tfwm.convert_model(model, rule)


def trained_under_loss_scaling(rule: Any) -> keras.Model:
    model = chain()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "mse")
    fit(model, *images())
    return tfwm.convert_model(model, rule)


def converted_in_two_parts(rule: Any) -> keras.Model:
    model = tfwm.convert_model(trained(), {"conv": rule, "depth": rule})
    fit(model, *images())
    return tfwm.convert_model(model, {"h*": rule})


def stripped_and_converted_again(rule: Any) -> keras.Model:
    model = tfwm.convert_model(trained(), rule)
    fit(model, *images())
    tfwm.strip_feedback(model)
    fit(model, *images())
    return tfwm.convert_model(model, rule)


def cloned(rule: Any) -> keras.Model:
    return compiled(keras.models.clone_model(converted_built(rule)))


def from_config(rule: Any) -> keras.Model:
    model = converted_built(rule)
    return compiled(model.from_config(model.get_config()))


PATHS: list[Callable[[Any], keras.Model]] = [
    converted_built,
    converted_unbuilt,
    compiled_and_converted,
    compiled_and_converted_unbuilt,
    trained_and_converted,
    trained_with_xla,
    trained_eagerly,
    trained_by_many_steps_at_once,
    evaluated_and_converted,
    trained_under_loss_scaling,
    converted_in_two_parts,
    stripped_and_converted_again,
    cloned,
    from_config,
]


# The others are ways that the table of tests/ways goes as well.
FIRST_HERE = (
    *(converted_unbuilt, trained_under_loss_scaling),
    *(converted_in_two_parts, stripped_and_converted_again),
)


@pytest.mark.parametrize("path", slow_but(FIRST_HERE, PATHS), ids=lambda path: path.__name__)
def test_b_carries_the_error_after_every_conversion_path(path: Callable[[Any], Any]) -> None:
    assert_b_carries(path("kp"), *images())


@pytest.mark.parametrize("rule", slow_but(["fa"], ["fa", "wm"]))
def test_b_carries_the_error_under_every_rule_that_has_one(rule: str) -> None:
    assert_b_carries(trained_and_converted(rule), *images())


def test_the_proof_fails_for_a_model_that_trains_by_plain_backprop() -> None:
    with pytest.raises(AssertionError, match="ignores"):
        assert_b_carries(_with_stale_trace(), *images())


def _with_stale_trace() -> keras.Model:
    """What a conversion without `compiled.renew` would leave."""
    model = trained()
    stale = model.train_function
    tfwm.convert_model(model, "fa")
    model.train_function = stale
    return model


def test_train_on_batch_and_a_custom_loop_see_the_conversion() -> None:
    model, (x, y) = compiled(chain()), images()
    model.train_on_batch(x, y)
    tfwm.convert_model(model, "fa")
    assert_b_carries(model, x, y, step=lambda model, x, y: model.train_on_batch(x, y))

    @tf.function
    def loop(data: Any) -> None:
        model.train_step(data)

    assert_b_carries(model, x, y, step=lambda model, x, y: loop((tf.constant(x), tf.constant(y))))


def test_b_carries_the_error_in_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = tfwm.convert_model(trained(), "kp")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert_b_carries(model, *images())


def test_no_update_of_b_can_overtake_the_error() -> None:
    """B is read before the forward pass begins, so before any optimizer or mirror step writes.

    Read on the way back only, it raced with its own update: graph optimization drops the edge that
    makes the update wait (up to 3 of 4 steps of a small network used tomorrow's B).
    """
    model, (x, y) = converted_built("kp"), images()
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda x, y: model.train_step((x, y)))
    graph = step.get_concrete_function(tf.constant(x), tf.constant(y)).graph
    inside = {id(outer): inner for outer, inner in graph.captures}
    operations = graph.get_operations()

    def reads(variable: keras.Variable) -> list[tf.Operation]:
        handle = inside[id(variable.value.handle)]
        return [
            operation
            for operation in operations
            if operation.type == "ReadVariableOp" and operation.inputs[0] is handle
        ]

    for pathway in tfwm.pathways(model):
        (read_of_b,) = reads(pathway.feedback_kernel)
        assert read_of_b in reads(pathway.kernel)[0].control_inputs, pathway.name


# --- every shape of a model --------------------------------------------------------------------


class Block(layers.Layer):
    """A layer of layers, held in a list and a dict, and one that only `build` makes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.listed = [dense(5, "first")]
        self.keyed = {"a": dense(5, "second")}

    def build(self, input_shape: Any) -> None:
        self.late = dense(5, "late")
        self.listed[0].build(input_shape)
        self.keyed["a"].build((None, 5))
        self.late.build((None, 5))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Three layers in a line."""
        return self.late(self.keyed["a"](self.listed[0](inputs)))


class Subclassed(keras.Model):
    """Lists its head first, holds a block and a nested model."""

    def __init__(self) -> None:
        super().__init__()
        self.head = layers.Dense(3, name="head")
        self.block = Block(name="block")
        self.nested = keras.Sequential([dense(6, "d")], name="nested")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Nested, block, head."""
        return self.head(self.block(self.nested(inputs)))


ORDER = ["nested/d", "block/first", "block/second", "block/late", "head"]


@pytest.mark.parametrize("when", slow_but(["unbuilt", "trained"], ["unbuilt", "built", "trained"]))
def test_b_carries_the_error_in_a_subclassed_model(when: str) -> None:
    model, (x, y) = compiled(Subclassed()), vectors()
    if when == "built":
        model(x)
    if when == "trained":
        fit(model, x, y)
    tfwm.convert_model(model, "fa")
    fit(model, x, y)
    assert [pathway.name for pathway in tfwm.pathways(model)] == ORDER
    assert_b_carries(model, x, y)


class AllLate(keras.Model):
    """Makes everything but its first layer when it is built, a block that does the same too."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = dense(4, "anchor")

    def build(self, input_shape: Any) -> None:
        self.block, self.head = Block(name="block"), layers.Dense(3, name="head")
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Anchor, block, head."""
        return self.head(self.block(self.anchor(inputs)))


def test_layers_that_do_not_exist_yet_are_converted_when_they_are_made() -> None:
    model = compiled(AllLate())
    tfwm.convert_model(model, {"a*": "fa", "*": "kp"})
    fit(model, *vectors())
    kolen_pollack = ["block/first", "block/second", "block/late", "head"]
    assert rules_of(model) == {
        "anchor": "feedback_alignment",
        **dict.fromkeys(kolen_pollack, "kolen_pollack"),
    }
    assert_b_carries(model, *vectors())


class Traced(Subclassed):
    """A model with loops of its own that are `tf.function`s: a method and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.attribute = tf.function(lambda x, y: keras.Model.train_step(self, (x, y)))

    @tf.function
    def train_step(self, data: Any) -> Any:
        """Keras' own, traced."""
        return super().train_step(data)

    @tf.function
    def method(self, x: tf.Tensor, y: tf.Tensor) -> Any:
        """One step."""
        return keras.Model.train_step(self, (x, y))


STEPS: dict[str, Any] = {
    "fit": fit,
    "method": lambda model, x, y: model.method(x, y),
    "attribute": lambda model, x, y: model.attribute(x, y),
}


@pytest.mark.parametrize("name", slow_but(["fit", "attribute"], STEPS))
def test_functions_traced_by_the_model_itself_are_traced_again(name: str) -> None:
    step = STEPS[name]
    model, (x, y) = compiled(Traced()), vectors()
    model(x)
    model.optimizer.build(model.trainable_variables)
    step(model, x, y)
    tfwm.convert_model(model, "kp")
    assert_b_carries(model, x, y, step=step)
    # Once more: the first call after a conversion is the one that traces.
    tfwm.strip_feedback(model)
    step(model, x, y)
    tfwm.convert_model(model, "fa")
    assert_b_carries(model, x, y, step=step)


def test_b_carries_the_error_through_nested_models() -> None:
    inner = keras.Sequential([keras.Input((5,)), dense(5, "d"), dense(4, "e")], name="inner")
    middle_in = keras.Input((6,))
    middle = keras.Model(middle_in, inner(dense(5, "d")(middle_in)), name="middle")
    outer_in = keras.Input((4,))
    outer = keras.Model(outer_in, layers.Dense(3, name="head")(middle(dense(6, "d")(outer_in))))
    fit(compiled(outer), *vectors())
    tfwm.convert_model(outer, "kp")
    assert [pathway.name for pathway in tfwm.pathways(outer)] == [
        "d",
        "middle/d",
        "middle/inner/d",
        "middle/inner/e",
        "head",
    ]
    assert_b_carries(outer, *vectors())


def test_a_shared_layer_is_converted_once() -> None:
    shared, inputs = dense(4, "shared"), keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, name="head")(shared(shared(dense(4, "a")(inputs)))))
    fit(compiled(model), *vectors())
    tfwm.convert_model(model, "kp")
    assert len(model.get_layer("shared").weights) == 3
    # The second call of the shared layer gives it an error that its own B has not touched.
    assert_b_carries(model, *vectors(), below={"head": ["shared", "a"], "shared": ["a"]})


@pytest.mark.slow  # tests/layers/test_layers.py
def test_b_carries_the_error_under_time_distributed() -> None:
    model = keras.Sequential(
        [
            keras.Input((5, 6, 6, 2)),
            layers.TimeDistributed(layers.Conv2D(3, 3, activation="tanh", name="conv")),
            layers.TimeDistributed(keras.Sequential([layers.Flatten(), dense(4, "inside")])),
            layers.TimeDistributed(layers.Dense(3, name="head")),
            layers.GlobalAveragePooling1D(),
        ]
    )
    x, y = normal(4, 5, 6, 6, 2), normal(4, 3)
    fit(compiled(model), x, y)
    assert_b_carries(tfwm.convert_model(model, "kp"), x, y)


@keras.saving.register_keras_serializable("tests")
class DenseCell(layers.Layer):
    """A recurrent cell that holds an ordinary Dense layer."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = self.state_size = units
        self.mix = dense(units, "mix")

    def build(self, input_shape: Any) -> None:
        self.mix.build((None, input_shape[-1] + self.units))

    def call(self, inputs: tf.Tensor, states: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One step."""
        state = self.mix(keras.ops.concatenate([inputs, states[0]], axis=-1))
        return state, [state]

    def get_config(self) -> dict[str, Any]:
        """The size."""
        return {**super().get_config(), "units": self.units}


def test_b_carries_the_error_through_time_under_bidirectional() -> None:
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.Dense(4, name="below"),
            layers.Bidirectional(layers.RNN(DenseCell(3))),
            layers.Dense(3, name="head"),
        ]
    )
    x, y = normal(4, 5, 4), normal(4, 3)
    fit(compiled(model), x, y)
    tfwm.convert_model(model, "fa")
    mixes = [p.name for p in tfwm.pathways(model) if p.name.endswith("/mix")]
    assert len(mixes) == 2
    assert_b_carries(model, x, y, below={"head": ["below", *mixes]})
    # Both directions send their errors down by their own B.
    cells = {p.name: p.feedback_kernel for p in tfwm.pathways(model) if p.name in mixes}
    start = changes(model, x, y)
    for name, b in cells.items():
        b.assign(-b)
        assert not np.array_equal(changes(model, x, y)["below"], start["below"]), name
        b.assign(-b)
    for b in cells.values():
        b.assign(0 * b)
    assert np.abs(changes(model, x, y)["below"]).max() == 0


def test_b_carries_the_error_in_every_projection_of_attention() -> None:
    inputs = keras.Input((5, 4))
    below = layers.Dense(4, name="below")(inputs)
    attended = layers.MultiHeadAttention(2, 3, name="mha")(below, below)
    grouped = layers.GroupQueryAttention(3, 4, 2, name="gqa")(attended, attended)
    outputs = layers.GlobalAveragePooling1D()(layers.Dense(3, name="head")(grouped))
    model = keras.Model(inputs, outputs)
    x, y = normal(4, 5, 4), normal(4, 3)
    fit(compiled(model), x, y)
    tfwm.convert_model(model, "kp")
    parts = [p.name for p in tfwm.pathways(model) if p.name.startswith("mha/")]
    grouped_parts = [p.name for p in tfwm.pathways(model) if p.name.startswith("gqa/")]
    assert len(parts) == len(grouped_parts) == 4
    lower = ["below", *parts]
    assert_b_carries(
        model,
        x,
        y,
        below={
            "head": [*lower, *grouped_parts],
            "gqa/attention_output": [*lower, *(set(grouped_parts) - {"gqa/attention_output"})],
            "mha/attention_output": ["below", *(set(parts) - {"mha/attention_output"})],
        },
    )
    start = changes(model, x, y)["below"]
    for pathway in tfwm.pathways(model):
        if pathway.name in parts:
            pathway.feedback_kernel.assign(-pathway.feedback_kernel)
            assert not np.array_equal(changes(model, x, y)["below"], start), pathway.name
            pathway.feedback_kernel.assign(-pathway.feedback_kernel)


# --- models around and beside the converted one ------------------------------------------------


def test_a_compiled_model_around_the_converted_one_is_traced_again() -> None:
    inner, inputs = chain(), keras.Input((6, 6, 2))
    outer = compiled(keras.Model(inputs, dense(3, "top")(inner(inputs))))
    fit(outer, *images())
    tfwm.convert_model(inner, "kp")
    assert not isinstance(outer.get_layer("top"), CarriesRule)
    assert_b_carries(outer, *images())


def test_a_compiled_model_that_shares_layers_is_traced_again() -> None:
    whole = compiled(chain())
    part = compiled(keras.Model(whole.inputs, whole.get_layer("hidden").output))
    x, y = images()
    wide = np.tile(y, 2)[:, :5]
    fit(part, x, wide)
    fit(whole, x, y)
    tfwm.convert_model(whole, "kp")
    assert_b_carries(part, x, wide)
    assert_b_carries(whole, x, y)


@pytest.mark.slow  # tests/ways has another one
def test_a_gan_trains_on_b_whichever_model_is_converted() -> None:
    """A discriminator compiled by itself, and again, frozen, behind a generator."""
    critic = compiled(keras.Sequential([keras.Input((4,)), dense(5, "c"), layers.Dense(3)]))
    x, y = vectors()
    fit(critic, x, y)
    critic.trainable = False
    generator = keras.Sequential([keras.Input((4,)), dense(4, "g")])
    gan = compiled(keras.Sequential([keras.Input((4,)), generator, critic]))
    fit(gan, x, y)
    tfwm.convert_model(critic, "kp")
    assert [b.trainable for b in critic.weights] == [False] * 6
    generator_kernel = generator.layers[0].kernel
    start = _change_of(generator_kernel, gan, x, y)
    critic.layers[0].feedback_kernel.assign(np.zeros((4, 5)))
    assert np.abs(start).max() > 0
    assert np.abs(_change_of(generator_kernel, gan, x, y)).max() == 0
    critic.trainable = True
    critic.make_train_function(force=True)
    assert_b_carries(critic, x, y)


def _change_of(variable: keras.Variable, model: keras.Model, x: Any, y: Any) -> np.ndarray:
    before = variable.numpy()
    fit(model, x, y)
    change = variable.numpy() - before
    variable.assign(before)
    return change


# --- two replicas ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.always
@pytest.mark.parametrize(("rule", "inside"), [("fa", True), ("kp", False)])
def test_b_carries_the_error_under_a_strategy(
    two_replicas: tf.distribute.Strategy, rule: str, inside: bool
) -> None:
    with two_replicas.scope():
        hidden = [dense(4, "low"), dense(5, "hidden"), layers.Dense(3, name="head")]
        model = compiled(keras.Sequential([keras.Input((4,)), *hidden]))
        fit(model, *vectors())
        if inside:
            tfwm.convert_model(model, rule)
    if not inside:
        tfwm.convert_model(model, rule)
    assert_b_carries(model, *vectors(), below={"head": ["low", "hidden"]})
    fit(model, *vectors())
    for variable in model.variables:
        replicas = [value.numpy() for value in variable.value.values]
        assert len(replicas) == 2
        assert np.array_equal(*replicas), variable.path


# --- what a conversion must not change ---------------------------------------------------------


@pytest.mark.parametrize("rule", ["bp", "fa", "usf", "frsf", "brsf", "wm", "kp", "urfb"])
def test_conversion_changes_nothing_but_the_way_back(rule: str) -> None:
    model, (x, _) = chain(), images()
    model.get_layer("depth").trainable = False
    names = [layer.name for layer in model.layers]
    weights = {w.path: (w.numpy(), w.trainable) for w in model.weights}
    outputs, randomness = model(x).numpy(), (random.getstate(), str(np.random.get_state()))
    assert tfwm.convert_model(model, rule) is model
    assert np.array_equal(model(x), outputs)
    assert (random.getstate(), str(np.random.get_state())) == randomness
    assert [layer.name for layer in model.layers] == names
    now = {w.path: (w.numpy(), w.trainable) for w in model.weights}
    for path, (value, trainable) in weights.items():
        assert np.array_equal(now[path][0], value)
        assert now[path][1] == trainable
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name == "feedback_kernel":
                assert weight.trainable == (rule in ("kp", "urfb") and layer.name != "depth")
    layer = tfwm.convert_model(chain(), "fa").get_layer("hidden")
    assert not np.array_equal(layer.kernel, layer.feedback_kernel)


def test_a_frozen_kernel_has_a_frozen_feedback_kernel() -> None:
    model = chain()
    model.get_layer("hidden").kernel.trainable = False
    tfwm.convert_model(compiled(model), "kp")
    before = model.get_layer("hidden").feedback_kernel.numpy()
    fit(model, *images())
    assert np.array_equal(model.get_layer("hidden").feedback_kernel, before)


def test_backprop_for_the_whole_model_is_a_control_equal_to_keras() -> None:
    plain, control = chain(), chain()
    control.set_weights(plain.get_weights())
    tfwm.convert_model(control, "backprop")
    assert type(control.get_layer("conv")) is tfwm.layers.FeedbackConv2D
    for model in (plain, control):
        fit(compiled(model), *images())
    for expected, found in zip(plain.weights, control.weights, strict=True):
        assert np.array_equal(expected, found), found.path


def test_seed_makes_b_a_function_of_seed_and_position() -> None:
    def feedback(seed: int | None) -> list[np.ndarray]:
        keras.utils.set_random_seed(7)
        model = tfwm.convert_model(chain(), "fa", seed=seed)
        return [layer.feedback_kernel.numpy() for layer in model.layers if layer.weights]

    def equal(one: list[np.ndarray], other: list[np.ndarray]) -> list[bool]:
        return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]

    assert all(equal(feedback(3), feedback(3)))
    assert not any(equal(feedback(3), feedback(4)))
    assert not any(equal(feedback(3), feedback(None)))
    # Without a seed it follows the layers' own initializers.
    assert all(equal(feedback(None), feedback(None)))
    same = keras.Sequential([keras.Input((4,)), dense(4, "a"), dense(4, "b")])
    one, other = tfwm.pathways(tfwm.convert_model(same, "fa", seed=0))
    assert not np.array_equal(one.feedback_kernel, other.feedback_kernel)


def test_seed_holds_for_layers_that_do_not_exist_yet() -> None:
    def feedback(seed: int) -> np.ndarray:
        model = Subclassed()
        tfwm.convert_model(model, "fa", seed=seed)
        model(vectors()[0])
        return model.block.late.feedback_kernel.numpy()

    assert np.array_equal(feedback(1), feedback(1))
    assert not np.array_equal(feedback(1), feedback(2))


# --- which layer gets which rule ---------------------------------------------------------------


def rules_of(model: keras.Model) -> dict[str, str]:
    """Rule names by pathway name."""
    return {pathway.name: pathway.rule.name for pathway in tfwm.pathways(model)}


def test_the_first_pattern_that_matches_counts_and_the_rest_is_left_alone() -> None:
    model = tfwm.convert_model(chain(), {"head": "backprop", "h*": "kp", "conv": "fa"})
    assert rules_of(model) == {"conv": "feedback_alignment", "hidden": "kolen_pollack"}
    assert type(model.get_layer("head")) is layers.Dense
    assert type(model.get_layer("depth")) is layers.DepthwiseConv2D


def test_patterns_match_paths_of_owners() -> None:
    def model() -> keras.Model:
        one = keras.Sequential([dense(4, "d"), dense(4, "e")], name="one")
        two = keras.Sequential([dense(4, "d")], name="two")
        return keras.Sequential([keras.Input((4,)), one, two, dense(3, "d")])

    assert rules_of(tfwm.convert_model(model(), {"one/*": "fa"})) == dict.fromkeys(
        ["one/d", "one/e"], "feedback_alignment"
    )
    assert list(rules_of(tfwm.convert_model(model(), {"d": "fa"}))) == ["one/d", "two/d", "d"]
    assert list(rules_of(tfwm.convert_model(model(), {"*/d": "fa"}))) == ["one/d", "two/d"]


@pytest.mark.parametrize(
    "rule",
    [
        "usf",
        tfwm.rules.SignSymmetry(),
        tfwm.rules.SignSymmetry,
        keras.saving.serialize_keras_object(tfwm.rules.SignSymmetry()),
    ],
    ids=["alias", "instance", "class", "config"],
)
def test_a_rule_may_be_a_name_an_instance_a_class_or_a_config(rule: Any) -> None:
    assert set(rules_of(tfwm.convert_model(chain(), rule)).values()) == {"sign_symmetry"}
    assert set(rules_of(tfwm.convert_model(chain(), {"*": rule})).values()) == {"sign_symmetry"}


def test_last_layer_backprop_leaves_the_classifier() -> None:
    model = tfwm.convert_model(trained(), "fa", last_layer="backprop")
    assert type(model.get_layer("head")) is layers.Dense
    assert list(rules_of(model)) == ["conv", "depth", "hidden"]
    assert_b_carries(model, *images())


@pytest.mark.parametrize("build", [True, False], ids=["built", "unbuilt"])
def test_last_layer_is_the_last_one_called(build: bool) -> None:
    model = Subclassed()
    if build:
        model(vectors()[0])
    tfwm.convert_model(model, "fa", last_layer="usf")
    model(vectors()[0])
    rules = rules_of(model)
    # Not built, tracking order is all that is known: the head was made first.
    assert rules.pop("head" if build else "nested/d") == "sign_symmetry"
    assert set(rules.values()) == {"feedback_alignment"}


def test_last_layer_may_be_one_that_no_pattern_matches() -> None:
    model = tfwm.convert_model(chain(), {"conv": "fa"}, last_layer="usf")
    assert rules_of(model) == {"conv": "feedback_alignment", "head": "sign_symmetry"}


def test_layers_with_matrices_and_no_twin_are_named_in_one_warning() -> None:
    def model() -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((5,)),
                layers.Embedding(7, 4),
                layers.Reshape((5, 4, 1)),
                layers.Bidirectional(layers.ConvLSTM1D(3, 2, return_sequences=True), name="both"),
                layers.LayerNormalization(axis=[1, 2]),
                layers.ConvLSTM1D(3, 2, name="lstm"),
                layers.Dense(3),
            ]
        )

    with pytest.warns(UserWarning, match="stay on backprop") as caught:
        tfwm.convert_model(model(), "fa")
    assert len(caught) == 1
    text = str(caught[0].message)
    both = "both/forward_conv_lstm1d (ConvLSTM1D), both/backward_conv_lstm1d (ConvLSTM1D)"
    assert f"{both}, lstm (ConvLSTM1D)." in text
    assert caught[0].filename == __file__
    # Said by a pattern, it is no news.
    tfwm.convert_model(model(), {"both/*": "backprop", "lstm*": "backprop", "*": "fa"})
    tfwm.convert_model(model(), {"dense*": "fa"})


def test_a_model_of_normalizations_and_embeddings_warns_of_nothing() -> None:
    model = keras.Sequential(
        [keras.Input((5,)), layers.Embedding(7, 4), layers.PReLU(), layers.Flatten(), dense(3)]
    )
    # It holds the kernel of the layer inside it under a name of its own.
    model.add(layers.SpectralNormalization(dense(3)))
    tfwm.convert_model(model, "fa")


def test_mirror_mode_runs_on_a_converted_model() -> None:
    model = tfwm.convert_model(trained(), "wm")
    angles = tfwm.mirror_model(model, "orthogonal")
    assert list(angles) == ["conv", "depth", "hidden", "head"]
    assert max(float(angle) for angle in angles.values()) < 0.01
    with mirror_attends():
        fit(model, *images())
