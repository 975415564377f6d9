"""What a feedback layer is beside its gradients: weights, arguments, refusals, training."""

import inspect
import json
import random
import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.batches import in_batches
from tests.layers.kinds import (
    BY_NAME,
    ONE_OF_EACH,
    ONE_OF_EACH_IDS,
    RULES,
    Kind,
    build,
    carry_with_kernel,
    copy_forward_weights,
    forward_weights,
    gradients,
    kinds_and_rules,
    one_of_each,
    pathways_of,
    relative_error,
    twins,
)
from tests.slow import slow_but
from tfweightmirror import layers
from tfweightmirror._internals.attendance import mirror_attends

every_rule = pytest.mark.parametrize("rule", RULES)
# Of each family of layers.
FEW = ("dense_rank2", "conv2d", "conv2d_transpose", "depthwise2d", "separable2d", "attention")
# By the kind or by the rule: one rule on one kind of each class, every rule on two kinds.
rules_and_kinds = kinds_and_rules(
    kinds=ONE_OF_EACH,
    slow=lambda kind, rule: rule != "kp" and kind.name not in ("dense_rank2", "attention"),
)


def initializer_arguments(kind: Kind, initializer: Any) -> dict[str, Any]:
    """`initializer` for every kernel of the layer."""
    parameters = inspect.signature(kind.plain_class.__init__).parameters
    names = ("kernel", "depthwise", "pointwise", "recurrent")
    names = tuple(f"{name}_initializer" for name in names)
    return {name: initializer for name in names if name in parameters}


def built(kind: Kind, layer: keras.layers.Layer) -> keras.layers.Layer:
    """`layer`, built on the shapes of `kind`, its weights as they were born."""
    layer.build(*kind.input_shapes)
    return layer


# --- the feedback kernel at birth ---------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    slow_but(["mixed_bfloat16", "float64"], ["float32", "mixed_bfloat16", "bfloat16", "float64"]),
)
@one_of_each
def test_feedback_kernel_has_the_kernels_shape_and_dtype(kind: Kind, dtype: str) -> None:
    layer = built(kind, kind.twin("fa", dtype=dtype))
    assert layer.compute_dtype == keras.dtype_policies.get(dtype).compute_dtype
    for pathway in pathways_of(layer):
        assert pathway.feedback_kernel.shape == pathway.kernel.shape
        assert pathway.feedback_kernel.dtype == pathway.kernel.dtype == layer.variable_dtype


@rules_and_kinds
def test_feedback_kernel_is_trainable_where_the_rule_gives_it_a_gradient(
    kind: Kind, rule: str
) -> None:
    layer = built(kind, kind.twin(RULES[rule]))
    trainable = [weight for weight in layer.trainable_weights if "feedback" in weight.name]
    expected = len(pathways_of(layer)) if rule in ("kp", "urfb") else 0
    assert len(trainable) == expected
    assert all(np.any(weight != 0.0) for weight in trainable)


@pytest.mark.parametrize(
    "initializer",
    [
        "glorot_uniform",
        pytest.param("orthogonal", marks=pytest.mark.slow),
        "zeros",
        keras.initializers.RandomNormal(seed=1),
        pytest.param(keras.initializers.Constant(0.1), marks=pytest.mark.slow),
    ],
    ids=["glorot_uniform", "orthogonal", "zeros", "seeded", "constant"],
)
@one_of_each
def test_feedback_kernel_is_random_and_never_the_kernel_at_birth(
    kind: Kind, initializer: Any
) -> None:
    check_birth(kind, initializer)


@pytest.mark.parametrize(
    "kind", [kind for kind in ONE_OF_EACH if not kind.is_attention], ids=lambda kind: kind.name
)
def test_feedback_kernel_is_random_where_the_initializer_is_a_function(kind: Kind) -> None:
    check_birth(kind, lambda shape, dtype=None: tf.fill(shape, tf.constant(0.5, dtype)))


def check_birth(kind: Kind, initializer: Any) -> None:
    """B is random, and another than W."""
    layer = built(kind, kind.twin("fa", **initializer_arguments(kind, initializer)))
    for pathway in pathways_of(layer):
        feedback = pathway.feedback_kernel.numpy()
        assert relative_error(feedback, pathway.kernel.numpy()) > 0.1
        assert len(np.unique(feedback)) > 0.9 * feedback.size


@pytest.mark.parametrize("name", ["separable2d", "attention", "grouped_attention"])
def test_feedback_kernels_of_one_layer_are_independent(name: str) -> None:
    layer = built(BY_NAME[name], BY_NAME[name].twin("fa"))
    flat = [np.ravel(pathway.feedback_kernel) for pathway in pathways_of(layer)]
    for index, one in enumerate(flat):
        for other in flat[:index]:
            size = min(len(one), len(other))
            assert relative_error(one[:size], other[:size]) > 0.1


@pytest.mark.parametrize("rule", slow_but(["frsf"], ["fa", "frsf"]))
@one_of_each
def test_the_same_seed_gives_the_same_feedback_kernel_and_another_seed_another(
    kind: Kind, rule: str
) -> None:
    first, again, other = (
        built(
            kind,
            kind.twin(rule, **initializer_arguments(kind, keras.initializers.HeNormal(seed=seed))),
        )
        for seed in (1, 1, 2)
    )
    for a, b, c in zip(*(pathways_of(layer) for layer in (first, again, other)), strict=True):
        np.testing.assert_array_equal(a.feedback_kernel, b.feedback_kernel)
        assert relative_error(c.feedback_kernel, a.feedback_kernel) > 0.1


def test_a_seed_generator_as_seed_gives_a_reproducible_feedback_kernel() -> None:
    def feedback_kernel() -> np.ndarray:
        seed = keras.random.SeedGenerator(5)
        initializer = keras.initializers.GlorotUniform(seed=seed)
        layer = layers.FeedbackDense(3, rule="fa", kernel_initializer=initializer)
        layer.build((None, 4))
        return layer.feedback_kernel.numpy()

    np.testing.assert_array_equal(feedback_kernel(), feedback_kernel())


def test_feedback_initializer_is_what_b_starts_from() -> None:
    layer = layers.FeedbackConv2D(
        4, 3, rule="fa", feedback_initializer=keras.initializers.Constant(2.0)
    )
    layer.build((None, 5, 5, 3))
    np.testing.assert_array_equal(layer.feedback_kernel, np.full((3, 3, 3, 4), 2.0))


# B fixed, B that learns, and a draw in every step.
@pytest.mark.parametrize("initializer", ["glorot_uniform", "zeros"])
@pytest.mark.parametrize("rule", slow_but(["brsf", "kp"], RULES))
@one_of_each
def test_a_feedback_layer_takes_nothing_from_the_random_streams(
    kind: Kind, rule: str, initializer: str
) -> None:
    def make(new: Any) -> tuple[list[np.ndarray], list[float]]:
        keras.utils.set_random_seed(4)
        layer = built(kind, new(**initializer_arguments(kind, initializer)))
        drawn = [random.random(), np.random.random(), float(tf.random.uniform(()))]
        return [weight.numpy() for weight in forward_weights(layer)], drawn

    expected, expected_drawn = make(kind.plain)
    found, drawn = make(lambda **options: kind.twin(RULES[rule], **options))
    assert drawn == expected_drawn
    for weight, expected_weight in zip(found, expected, strict=True):
        np.testing.assert_array_equal(weight, expected_weight)


# --- arguments, configs, shapes -----------------------------------------------------------------

# A value that is no default, for every argument of every parent that `Kind.options` does not give.
ARGUMENTS = {
    "activation": "tanh",
    "use_bias": False,
    "bias_axes": None,
    "kernel_initializer": "he_normal",
    "depthwise_initializer": "he_normal",
    "pointwise_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "depthwise_regularizer": "l2",
    "pointwise_regularizer": "l1",
    "bias_regularizer": "l1",
    "activity_regularizer": "l2",
    "kernel_constraint": "non_neg",
    "depthwise_constraint": "non_neg",
    "pointwise_constraint": "non_neg",
    "bias_constraint": "non_neg",
    "lora_alpha": 2.0,
    "gptq_unpacked_column_size": 4,
    "strides": 2,
    "padding": "same",
    "output_padding": None,
    "data_format": "channels_last",
    "dilation_rate": 1,
    "groups": 1,
    "depth_multiplier": 2,
    "value_dim": 5,
    "dropout": 0.25,
    "output_shape": 7,
    "attention_axes": (1,),
    "sliding_window": 3,
    "flash_attention": False,
    "use_gate": True,
    "seed": 3,
    "recurrent_activation": "tanh",
    "recurrent_initializer": "he_normal",
    "recurrent_regularizer": "l1",
    "recurrent_constraint": "non_neg",
    "recurrent_dropout": 0.25,
    "unit_forget_bias": False,
    "reset_after": False,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "use_cudnn": False,
    # Of every Keras layer.
    "name": "a_name",
    "trainable": False,
    "dtype": "float64",
    "autocast": False,
}
REFUSED = {"lora_rank", "quantization_config"}


def arguments_of(kind: Kind) -> list[str]:
    """Names of the arguments of the Keras layer that may be given beside `kind.options`."""
    parameters = inspect.signature(kind.plain_class.__init__).parameters
    of_layer = ["activity_regularizer", "name", "trainable", "dtype", "autocast"]
    names = dict.fromkeys([*parameters, *of_layer])
    return [name for name in names if name not in {"self", "kwargs", *kind.options, *REFUSED}]


@one_of_each
def test_every_argument_of_the_parent_ends_up_in_the_config(kind: Kind) -> None:
    for name in arguments_of(kind):
        options = {name: ARGUMENTS[name]}
        plain, twin = kind.plain(**options).get_config(), kind.twin("fa", **options).get_config()
        if name != "name":
            plain.pop("name"), twin.pop("name")
        assert twin.pop("rule")["class_name"] == "FeedbackAlignment"
        assert twin.pop("feedback_initializer") is None
        assert twin == plain, name


@pytest.mark.parametrize(
    "names",
    [
        ("activation", "dropout", "value_dim", "use_gate", "sliding_window", "recurrent_dropout"),
        pytest.param(("use_bias",), marks=pytest.mark.slow),
        (
            *("kernel_regularizer", "depthwise_regularizer", "pointwise_regularizer"),
            "recurrent_regularizer",
        ),
        pytest.param(("bias_regularizer",), marks=pytest.mark.slow),
        ("activity_regularizer",),
    ],
    ids=lambda names: names[0],
)
@one_of_each
def test_arguments_of_the_parent_work_as_in_the_parent(kind: Kind, names: tuple[str, ...]) -> None:
    options = {name: ARGUMENTS[name] for name in names if name in arguments_of(kind)}
    if "dropout" in options:
        options["seed"] = ARGUMENTS["seed"]
    plain, twin = twins(kind, "kp", **options)
    outputs = []
    for layer in (plain, twin):
        outputs.append(layer(*kind.inputs(), training=True))
    np.testing.assert_array_equal(outputs[1], outputs[0])
    # One term for each regularizer: so none for B, which would move it away from W.
    assert len(twin.losses) == len(plain.losses)
    np.testing.assert_array_equal(sorted(twin.losses), sorted(plain.losses))
    lost = kind.layer == "SimpleRNN" and names[0] == "activity_regularizer"  # by Keras 3.15
    assert bool(plain.losses) == (names[0].endswith("regularizer") and not lost)


@one_of_each
def test_constraints_hold_for_the_kernel_and_leave_b_alone(kind: Kind) -> None:
    names = ("kernel", "depthwise", "pointwise", "recurrent")
    names = tuple(f"{name}_constraint" for name in names)
    options = {name: "non_neg" for name in names if name in arguments_of(kind)}
    layer = built(kind, kind.twin("kp", **options))
    for pathway in pathways_of(layer):
        assert isinstance(pathway.kernel.constraint, keras.constraints.NonNeg)
        assert pathway.feedback_kernel.constraint is None
        assert pathway.feedback_kernel.regularizer is None


@rules_and_kinds
def test_config_makes_the_same_layer_again(kind: Kind, rule: str) -> None:
    layer = kind.twin(RULES[rule], feedback_initializer=keras.initializers.HeNormal(seed=3))
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.rule == RULES[rule]
    for each in (layer, again):
        built(kind, each)
    for here, there in zip(pathways_of(layer), pathways_of(again), strict=True):
        if here.feedback_kernel is not None:
            np.testing.assert_array_equal(here.feedback_kernel, there.feedback_kernel)


@one_of_each
def test_a_symbolic_call_gives_the_parents_shape_and_dtype(kind: Kind) -> None:
    shapes = [shape[1:] for shape in kind.input_shapes]
    found = []
    for layer in (kind.plain(dtype="mixed_bfloat16"), kind.twin("kp", dtype="mixed_bfloat16")):
        output = layer(*[keras.Input(shape) for shape in shapes])
        found.append((output.shape, output.dtype))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", slow_but(FEW, ONE_OF_EACH_IDS))
def test_the_batch_may_have_any_size(name: str) -> None:
    kind = BY_NAME[name]
    layer = build(kind, kind.twin("kp"))
    inputs = [keras.Input(shape[1:]) for shape in kind.input_shapes]
    model = keras.Model(inputs, layer(*inputs))
    whole = model.predict_on_batch([array.numpy() for array in kind.inputs()])
    one = model.predict_on_batch([array.numpy()[:1] for array in kind.inputs()])
    np.testing.assert_allclose(one, whole[:1], rtol=1e-5, atol=1e-6)


# --- refusals -----------------------------------------------------------------------------------

DENSE = {"units": 3}
EINSUM = {"equation": "ab,bc->ac", "output_shape": 3}


@pytest.mark.parametrize(
    ("layer", "options", "feature"),
    [
        ("FeedbackDense", {**DENSE, "lora_rank": 2}, "LoRA"),
        ("FeedbackDense", {**DENSE, "dtype": "int8_from_float32"}, "quantization"),
        ("FeedbackDense", {**DENSE, "dtype": "float8_from_float32"}, "quantization"),
        ("FeedbackEinsumDense", {**EINSUM, "lora_rank": 2}, "LoRA"),
        ("FeedbackEinsumDense", {**EINSUM, "dtype": "int8_from_float32"}, "quantization"),
        (
            "FeedbackMultiHeadAttention",
            {"num_heads": 2, "key_dim": 3, "dtype": "int8_from_float32"},
            "quantization",
        ),
    ],
)
def test_lora_and_quantization_are_refused_at_birth(
    layer: str, options: dict[str, Any], feature: str
) -> None:
    with pytest.raises(ValueError, match=rf"'a_name' \({layer}\) uses {feature}, where no single"):
        getattr(layers, layer)(**options, rule="kp", name="a_name")


@one_of_each
def test_lora_and_quantization_are_refused_on_a_built_layer(kind: Kind) -> None:
    layer = built(kind, kind.twin("kp"))
    before = gradients(layer, kind.inputs())
    with pytest.raises(ValueError, match="uses LoRA, where no single kernel"):
        layer.enable_lora(2)
    with pytest.raises(ValueError, match="uses quantization, where no single kernel"):
        layer.quantize("int8")
    after = gradients(layer, kind.inputs())
    assert after.weights.keys() == before.weights.keys()
    for name, gradient in before.weights.items():
        np.testing.assert_array_equal(after.weights[name], gradient, err_msg=name)


def test_a_quantized_dtype_policy_set_later_is_refused() -> None:
    layer = layers.FeedbackDense(3, rule="kp")
    layer.build((None, 4))
    with pytest.raises(ValueError, match="uses quantization, where no single kernel"):
        layer.dtype_policy = "int8_from_float32"


def test_sparse_inputs_are_refused() -> None:
    layer = layers.FeedbackDense(3, rule="kp")
    sparse = tf.sparse.from_dense(np.eye(4, dtype="float32"))
    with pytest.raises(ValueError, match=r"received a sparse tensor.*to_dense"):
        layer(sparse)


def test_a_layer_that_is_not_built_has_no_pathways() -> None:
    with pytest.raises(ValueError, match="'early' has no pathways before it is built"):
        _ = layers.FeedbackDense(3, rule="kp", name="early").pathways


@pytest.mark.parametrize("make", ["FeedbackDense", "FeedbackMultiHeadAttention"])
def test_an_unknown_rule_is_refused_at_birth(make: str) -> None:
    options = DENSE if make == "FeedbackDense" else {"num_heads": 2, "key_dim": 3}
    with pytest.raises(ValueError, match="'wmm' is not known"):
        getattr(layers, make)(**options, rule="wmm")


@pytest.mark.parametrize(
    ("equation", "output_shape", "shape", "reason"),
    [
        ("ab,abc->ac", 3, (2, 4), "holds the batch label 'a'"),
        ("abc,acd->abd", (4, 3), (2, 4, 5), "holds the batch label 'a'"),
        ("aab,bc->aac", (2, 3), (2, 2, 4), "'aab' repeats a label"),
    ],
)
def test_equations_without_one_matrix_from_cells_to_cells_are_refused(
    equation: str, output_shape: Any, shape: tuple[int, ...], reason: str
) -> None:
    layer = layers.FeedbackEinsumDense(equation, output_shape, rule="fa", name="odd")
    with pytest.raises(ValueError, match=f"'odd' with equation '{equation}' cannot .* {reason}"):
        layer.build(shape)


# --- life in a model ----------------------------------------------------------------------------


@one_of_each
def test_masks_pass_where_they_pass_the_parent(kind: Kind) -> None:
    plain, twin = kind.plain(), kind.twin("fa")
    assert twin.supports_masking == plain.supports_masking


def test_a_mask_passes_through_dense_and_reaches_the_next_layer() -> None:
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    dense = layers.FeedbackDense(3, rule="fa")
    pooled = keras.Sequential([embedding, dense, keras.layers.GlobalAveragePooling1D()])(tokens)
    cells = dense(embedding(tokens)).numpy()
    np.testing.assert_allclose(pooled, [cells[0, :2].mean(0), cells[1, 0]], rtol=1e-6)


def model_of(kind: Kind, layer: keras.layers.Layer, **options: Any) -> keras.Model:
    """A model of one layer, compiled with SGD of learning rate 1 and mean squared error."""
    inputs = [keras.Input(shape[1:]) for shape in kind.input_shapes]
    model = keras.Model(inputs, layer(*inputs))
    model.compile(keras.optimizers.SGD(1.0), "mse", **options)
    return model


def one_step_of_fit(model: keras.Model, kind: Kind) -> None:
    """One batch, with zero as target."""
    inputs = [array.numpy() for array in kind.inputs()]
    target = np.zeros((len(inputs[0]), *model.output_shape[1:]), "float32")
    with mirror_attends():
        model.fit(in_batches(inputs, target), shuffle=False, verbose=0)


def check_one_step_of_fit(kind: Kind, rule: str, **options: Any) -> None:
    """Weights after a step of `fit` are those before, less the gradients of an eager tape."""
    layer = kind.twin(RULES[rule])
    model = model_of(kind, layer, **options)
    build(kind, layer)
    if rule == "brsf":  # `build` has called the layer, but not in training mode
        assert all(pathway.state.numpy()[1] == 0 for pathway in pathways_of(layer))
    before = {weight.path: weight.numpy() for weight in layer.weights}
    with tf.GradientTape() as tape, mirror_attends():
        y = layer(*kind.inputs(), training=True)
        loss = tf.reduce_mean(tf.square(y))
    expected = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    for weight in layer.weights:
        weight.assign(before[weight.path])
    one_step_of_fit(model, kind)
    moved = {}
    for weight, gradient in zip(layer.trainable_weights, expected, strict=True):
        moved[weight.path] = weight.numpy() - before[weight.path]
        assert np.abs(moved[weight.path] + gradient).max() < 1e-5, weight.path
    assert sum(np.abs(change).max() > 1e-3 for change in moved.values()) >= len(pathways_of(layer))
    for weight in layer.non_trainable_weights:
        if not weight.name.endswith("state"):
            np.testing.assert_array_equal(weight, before[weight.path])


@pytest.mark.parametrize("name", slow_but(FEW, ONE_OF_EACH_IDS))
def test_every_kind_trains_in_fit_as_its_gradients_say(name: str) -> None:
    check_one_step_of_fit(BY_NAME[name], "kp")


@every_rule
@pytest.mark.parametrize("name", slow_but(["dense_rank2"], ["dense_rank2", "conv2d"]))
def test_every_rule_trains_in_fit_as_its_gradients_say(name: str, rule: str) -> None:
    check_one_step_of_fit(BY_NAME[name], rule)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@every_rule
@one_of_each
def test_every_kind_and_rule_trains_in_fit_as_its_gradients_say(
    kind: Kind, rule: str, jit_compile: bool
) -> None:
    check_one_step_of_fit(kind, rule, jit_compile=jit_compile)


@pytest.mark.parametrize("name", ["dense_rank2", "conv2d"])
def test_time_distributed_layer_sends_errors_back_on_b(name: str) -> None:
    kind = BY_NAME[name]
    plain, twin = twins(kind, "fa")
    carry_with_kernel(twin)
    copy_forward_weights(twin, plain)
    x = [tf.stack([array, 2.0 * array, -array], axis=1) for array in kind.inputs()]
    wrapped = [keras.layers.TimeDistributed(layer) for layer in (plain, twin)]
    expected, found = (gradients(layer, x) for layer in wrapped)
    np.testing.assert_array_equal(found.output, expected.output)
    np.testing.assert_array_equal(found.inputs[0], expected.inputs[0])
    twin.feedback_kernel.assign(-2.0 * twin.feedback_kernel)
    after = gradients(wrapped[1], x).inputs[0]
    assert relative_error(after, -2.0 * found.inputs[0]) < 1e-6


# --- a weight mirror without anybody who teaches it ---------------------------------------------

UNATTENDED = "trains with the rule 'weight_mirror', but nothing teaches its feedback"


def two_mirror_layers(rule: str = "wm", name: str | None = None) -> keras.Model:
    """Two dense layers, compiled."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.FeedbackDense(5, rule=rule),
            layers.FeedbackDense(3, rule=rule),
        ],
        name=name,
    )
    model.compile("sgd", "mse")
    return model


X, Y = np.ones((4, 4), "float32"), np.ones((4, 3), "float32")


def warnings_of(action: Any) -> list[str]:
    """Texts of the warnings that `action` gives about an untaught weight mirror."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(one.message) for one in caught if UNATTENDED in str(one.message)]


def test_training_a_weight_mirror_untaught_warns_once_a_model() -> None:
    for name in ("first", "second"):
        model = two_mirror_layers(name=name)
        assert not warnings_of(lambda model=model: model.evaluate(X, Y, verbose=0))
        assert not warnings_of(lambda model=model: model.predict(X, verbose=0))
        assert not warnings_of(lambda model=model: model(X))
        found = warnings_of(lambda model=model: model.fit(X, Y, epochs=2, verbose=0))
        assert len(found) == 1
        assert found[0].startswith(f"'{name}' ")
        assert "tfweightmirror.callbacks.WeightMirror()" in found[0]
        again = warnings_of(lambda model=model: model.fit(X, Y, epochs=2, verbose=0))
        assert not again


def test_training_a_weight_mirror_that_is_taught_warns_nobody() -> None:
    model = two_mirror_layers()
    with mirror_attends():
        assert not warnings_of(lambda: model.fit(X, Y, verbose=0))


@pytest.mark.parametrize("rule", slow_but(["kp", "brsf"], [r for r in RULES if r != "wm"]))
def test_other_rules_need_nobody_to_teach_them(rule: str) -> None:
    model = two_mirror_layers(rule)
    assert not warnings_of(lambda: model.fit(X, Y, verbose=0))


def test_on_two_replicas_an_untaught_weight_mirror_warns_once(
    two_replicas: tf.distribute.Strategy,
) -> None:
    with two_replicas.scope():
        model = two_mirror_layers()
    assert len(warnings_of(lambda: model.fit(X, Y, batch_size=4, epochs=2, verbose=0))) == 1
