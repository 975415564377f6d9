"""Rules: how they are named, saved and refused; scales, angles and draws by the equations."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import RULES, gradients, pathways_of, relative_error
from tests.slow import slow_but
from tfweightmirror import layers, rules
from tfweightmirror._internals.attendance import mirror_attends
from tfweightmirror.rules import (
    ActivationAlignment,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FeedbackRule,
    InformationAlignment,
    KolenPollack,
    NoFeedback,
    ProductFeedbackAlignment,
    SignSymmetry,
    SymmetricAlignment,
    UpdatedRandomFeedback,
    WeightMirror,
)

# --- names, configs, errors ---------------------------------------------------------------------

NAMES = {
    "backprop": Backprop(),
    "bp": Backprop(),
    "feedback_alignment": FeedbackAlignment(),
    "fa": FeedbackAlignment(),
    "frfb": FeedbackAlignment(),
    "sign_symmetry": SignSymmetry(),
    "ss": SignSymmetry(),
    "usf": SignSymmetry(),
    "frsf": SignSymmetry(magnitude="fixed"),
    "brsf": SignSymmetry(magnitude="batch"),
    "weight_mirror": WeightMirror(),
    "wm": WeightMirror(),
    "kolen_pollack": KolenPollack(),
    "kp": KolenPollack(),
    "updated_random_feedback": UpdatedRandomFeedback(),
    "urfb": UpdatedRandomFeedback(),
    "direct_feedback_alignment": DirectFeedbackAlignment(),
    "dfa": DirectFeedbackAlignment(),
    "information_alignment": InformationAlignment(),
    "ia": InformationAlignment(),
    "activation_alignment": ActivationAlignment(),
    "aa": ActivationAlignment(),
    "symmetric_alignment": SymmetricAlignment(),
    "sa": SymmetricAlignment(),
    "product_feedback_alignment": ProductFeedbackAlignment(),
    "pfa": ProductFeedbackAlignment(),
    "no_feedback": NoFeedback(),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_and_alias_means_its_rule(name: str) -> None:
    assert rules.get(name) == NAMES[name]
    assert rules.get(name.upper()) == NAMES[name]


def test_every_rule_and_alias_is_in_the_table_above() -> None:
    known = {name for rule in rules.RULES for name in (rule.name, *rule.aliases)}
    assert known == set(NAMES)


def test_a_rule_or_its_class_means_itself() -> None:
    rule = SignSymmetry(magnitude="fixed", scale=0.5)
    assert rules.get(rule) is rule
    assert rules.get(KolenPollack) == KolenPollack()


OPTIONS = [
    *NAMES.values(),
    SignSymmetry(magnitude="batch", scale=0.25),
    SignSymmetry(scale="glorot"),
    UpdatedRandomFeedback(epsilon=0.5),
    DirectFeedbackAlignment(error_cells=10, is_output=True),
    InformationAlignment(amplify=0.5, decay=0.25, null=2.0, centered=True),
    ProductFeedbackAlignment(expansion=3, factor="orthogonal"),
]


@pytest.mark.parametrize("rule", OPTIONS, ids=repr)
def test_config_goes_through_json_and_back(rule: FeedbackRule) -> None:
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(rule)))
    assert rules.get(config) == rule
    assert type(rule).from_config(rule.get_config()) == rule


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("wmm", "wm"),
        ("kolen_polack", "kolen_pollack"),
        ("back-prop", "backprop"),
        ("Sign_Symetry", "sign_symmetry"),
    ],
)
def test_unknown_name_is_answered_with_the_known_ones_and_the_nearest(
    wrong: str, nearest: str
) -> None:
    with pytest.raises(ValueError) as error:
        rules.get(wrong)
    message = str(error.value)
    assert message.startswith(f"feedback rule {wrong!r} is not known. Known: backprop (bp), ")
    assert message.endswith(f" Did you mean {nearest!r}?")
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize(
    "wrong",
    [None, 5, "", "xyz", {}, {"class_name": "x"}, keras.layers.Dense, keras.layers.ReLU()],
    ids=repr,
)
def test_what_is_no_rule_is_refused_without_a_guess(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"is not known\. Known: backprop") as error:
        rules.get(wrong)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (SignSymmetry, {"magnitude": "random"}, "must be one of uniform, fixed, batch.*'random'"),
        (SignSymmetry, {"magnitude": 3}, "must be one of uniform, fixed, batch.*3"),
        (SignSymmetry, {"scale": "he"}, "one of xiao, xiao_code, fan_in, glorot.*'he'"),
        (SignSymmetry, {"scale": 0}, "positive number.*0"),
        (SignSymmetry, {"scale": -1.0}, "positive number.*-1.0"),
        (SignSymmetry, {"scale": math.nan}, "positive number.*nan"),
        (SignSymmetry, {"scale": None}, "positive number.*None"),
        (UpdatedRandomFeedback, {"epsilon": -0.1}, "number >= 0.*-0.1"),
        (UpdatedRandomFeedback, {"epsilon": math.inf}, "number >= 0.*inf"),
        (UpdatedRandomFeedback, {"epsilon": "half"}, "number >= 0.*'half'"),
        (DirectFeedbackAlignment, {"error_cells": 0}, "1 or more, or None.*0"),
        (DirectFeedbackAlignment, {"error_cells": 2.5}, "1 or more, or None.*2.5"),
        (DirectFeedbackAlignment, {"error_cells": True}, "1 or more, or None.*True"),
        (InformationAlignment, {"amplify": 0}, "amplify of information_alignment.*> 0.*0"),
        (InformationAlignment, {"null": -1.0}, "null of information_alignment.*>= 0.*-1.0"),
        (InformationAlignment, {"decay": math.nan}, "decay of information_alignment.*>= 0.*nan"),
        (InformationAlignment, {"centered": 1}, "centered of information_alignment.*bool.*1"),
        (ActivationAlignment, {"sparse": 0.0}, "sparse of activation_alignment.*> 0.*0.0"),
        (SymmetricAlignment, {"decay": True}, "decay of symmetric_alignment.*> 0.*True"),
        (ProductFeedbackAlignment, {"expansion": 1.5}, "whole number of at least 1.*1.5"),
        (ProductFeedbackAlignment, {"expansion": 0}, "whole number of at least 1.*0"),
        (ProductFeedbackAlignment, {"factor": "id"}, "one of random, orthogonal.*'id'"),
    ],
)
def test_bad_options_are_refused_with_what_was_received(
    rule: type[FeedbackRule], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**options)


def test_rules_cannot_be_changed_after_they_are_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UpdatedRandomFeedback().epsilon = 0.5  # type: ignore[misc]


# --- scales of sign-symmetry --------------------------------------------------------------------

# The scale of every kernel under "xiao", "xiao_code", "fan_in" and "glorot", worked out by hand
# from fan-in and fan-out, which the comment gives.
SCALES = {
    "dense": (  # 5, 3
        lambda **rule: layers.FeedbackDense(3, **rule),
        (2, 5),
        [(0.577350, 0.447214, 0.447214, 0.5)],
    ),
    "conv1d": (  # 3 x 3, 3 x 4
        lambda **rule: layers.FeedbackConv1D(4, 3, **rule),
        (2, 5, 3),
        [(0.408248, 0.408248, 0.471405, 0.308607)],
    ),
    "conv2d": (  # 6 x 3, 6 x 4
        lambda **rule: layers.FeedbackConv2D(4, (3, 2), **rule),
        (2, 5, 5, 3),
        [(0.288675, 0.288675, 0.333333, 0.218218)],
    ),
    "conv2d_groups": (  # 6 x 4 / 2, 6 x 8 / 2
        lambda **rule: layers.FeedbackConv2D(8, (3, 2), groups=2, **rule),
        (2, 5, 5, 4),
        [(0.288675, 0.288675, 0.408248, 0.235702)],
    ),
    "conv3d": (  # 12 x 3, 12 x 4
        lambda **rule: layers.FeedbackConv3D(4, (2, 3, 2), **rule),
        (2, 4, 4, 4, 3),
        [(0.204124, 0.204124, 0.235702, 0.154303)],
    ),
    "conv2d_transpose": (  # 6 x 3, 6 x 4
        lambda **rule: layers.FeedbackConv2DTranspose(4, (3, 2), **rule),
        (2, 5, 5, 3),
        [(0.288675, 0.288675, 0.333333, 0.218218)],
    ),
    "depthwise_conv2d": (  # 9, 9 x 2
        lambda **rule: layers.FeedbackDepthwiseConv2D(3, depth_multiplier=2, **rule),
        (2, 5, 5, 3),
        [(0.333333, 0.333333, 0.471405, 0.272166)],
    ),
    "separable_conv2d": (  # 9, 9 x 2, then 6, 4
        lambda **rule: layers.FeedbackSeparableConv2D(4, 3, depth_multiplier=2, **rule),
        (2, 5, 5, 3),
        [(0.333333, 0.333333, 0.471405, 0.272166), (0.707107, 0.707107, 0.577350, 0.447214)],
    ),
    "einsum_dense": (  # 5, 2 x 4
        lambda **rule: layers.FeedbackEinsumDense("abc,cde->abde", (None, 2, 4), **rule),
        (2, 3, 5),
        [(0.353553, 0.447214, 0.447214, 0.392232)],
    ),
    "einsum_dense_group": (  # 5, 4
        lambda **rule: layers.FeedbackEinsumDense("abc,bcd->abd", (2, 4), **rule),
        (2, 2, 5),
        [(0.5, 0.447214, 0.447214, 0.471405)],
    ),
    "attention": (  # 5, 2 x 3 three times, then 2 x 3, 5
        lambda **rule: layers.FeedbackMultiHeadAttention(2, 3, **rule),
        (2, 4, 5),
        [(0.408248, 0.447214, 0.447214, 0.426401)] * 3 + [(0.447214, 0.408248, 0.408248, 0.426401)],
    ),
}
SCALE_NAMES = ("xiao", "xiao_code", "fan_in", "glorot")


@pytest.mark.parametrize("scale", SCALE_NAMES)
@pytest.mark.parametrize("kind", SCALES)
def test_uniform_magnitudes_are_the_scale_worked_out_by_hand(kind: str, scale: str) -> None:
    make, shape, expected = SCALES[kind]
    layer = make(rule=SignSymmetry(scale=scale))
    layer.build(*[shape] * (2 if kind == "attention" else 1))
    found = [np.abs(pathway.backward_kernel()) for pathway in pathways_of(layer)]
    numbers = [numbers[SCALE_NAMES.index(scale)] for numbers in expected]
    assert len(found) == len(numbers)
    for magnitudes, number in zip(found, numbers, strict=True):
        np.testing.assert_allclose(magnitudes, number, rtol=1e-5)


@pytest.mark.parametrize("scale", [*SCALE_NAMES, 0.25])
@pytest.mark.parametrize("magnitude", ["fixed", "batch"])
def test_random_magnitudes_have_the_scale_as_root_mean_square(
    magnitude: str, scale: str | float
) -> None:
    layer = layers.FeedbackDense(200, rule=SignSymmetry(magnitude=magnitude, scale=scale))
    layer.build((None, 300))
    rms = np.sqrt(np.mean(np.square(layer.pathways[0].backward_kernel())))
    by_hand = {"xiao": 0.0707107, "xiao_code": 0.0577350, "fan_in": 0.0577350, "glorot": 0.0632456}
    # 60,000 draws: the root mean square has a standard error of 0.3 %.
    assert rms == pytest.approx(by_hand.get(scale, scale), rel=0.015)


def test_fixed_magnitudes_start_from_the_feedback_initializer() -> None:
    rule = SignSymmetry(magnitude="fixed")
    layer = layers.FeedbackDense(3, rule=rule, feedback_initializer=keras.initializers.Constant(-2))
    layer.build((None, 4))
    expected = 2.0 * np.sign(layer.kernel)
    np.testing.assert_array_equal(layer.pathways[0].backward_kernel(), expected)


@pytest.mark.parametrize("rule", ["usf", "frsf", "brsf"])
def test_a_weight_of_zero_sends_nothing_back(rule: str) -> None:
    layer = layers.FeedbackDense(3, rule=rule)
    layer.build((None, 4))
    kernel = layer.kernel.numpy()
    kernel[1, 2] = 0.0
    kernel[2, 0] = -0.0
    layer.kernel.assign(kernel)
    carrier = layer.pathways[0].backward_kernel().numpy()
    assert carrier[1, 2] == carrier[2, 0] == 0.0
    np.testing.assert_array_equal(np.sign(carrier), np.sign(kernel))


def test_redrawn_magnitudes_are_half_normal() -> None:
    rule = SignSymmetry(magnitude="batch", scale=1.0)
    draw = rule.backward_kernel(tf.ones((400, 500)), None, tf.constant([1, 2])).numpy().ravel()
    below = {0.5: 0.382925, 1.0: 0.682689, 2.0: 0.954500, 3.0: 0.997300}
    for sigma, share in below.items():
        # 200,000 draws: the standard error of a share is 0.0011 at most.
        assert np.mean(draw < sigma) == pytest.approx(share, abs=0.004)
    assert 4.0 < draw.max() < 6.0
    assert abs(np.corrcoef(draw[1:], draw[:-1])[0, 1]) < 0.01


@pytest.mark.parametrize("rule", ["frsf", "brsf"])
def test_random_magnitudes_have_the_signs_of_w(rule: str) -> None:
    layer = layers.FeedbackDense(30, rule=rule)
    layer.build((None, 40))
    carrier = layer.pathways[0].backward_kernel()
    np.testing.assert_array_equal(np.sign(carrier), np.sign(layer.kernel))
    assert len(np.unique(np.abs(carrier))) > 1000


@pytest.mark.parametrize(
    ("initializer", "angle_deg"),
    [
        (keras.initializers.RandomNormal(seed=1), 37.1),
        (keras.initializers.GlorotUniform(seed=1), 30.0),
    ],
    ids=["gaussian", "uniform"],
)
@pytest.mark.parametrize("scale", ["xiao", 7.0])
def test_angle_between_weights_and_their_signs_is_the_law(
    initializer: keras.initializers.Initializer, angle_deg: float, scale: str | float
) -> None:
    layer = layers.FeedbackDense(
        400, rule=SignSymmetry(scale=scale), kernel_initializer=initializer
    )
    layer.build((None, 500))
    w, b = layer.kernel.numpy().ravel(), layer.pathways[0].backward_kernel().numpy().ravel()
    cosine = w @ b / (np.linalg.norm(w) * np.linalg.norm(b))
    # 200,000 weights: the angle has a standard error of 0.1 degrees and less.
    assert np.degrees(np.arccos(cosine)) == pytest.approx(angle_deg, abs=0.2)


# --- magnitudes redrawn each batch (brsf) -------------------------------------------------------


def small_model(rule: Any, **options: Any) -> keras.Model:
    """Two dense layers, compiled."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.FeedbackDense(5, rule=rule, activation="tanh", **options),
            layers.FeedbackDense(3, rule=rule, **options),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def small_data(samples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets for `small_model`."""
    random = np.random.default_rng(0)
    return random.normal(size=(samples, 4)), random.normal(size=(samples, 3))


def carriers(model: keras.Model) -> list[np.ndarray]:
    """What carries the error in every layer, now."""
    return [layer.pathways[0].backward_kernel().numpy() for layer in model.layers]


def states(model: keras.Model) -> list[list[int]]:
    """What the rule draws from, in every layer."""
    return [layer.feedback_state.numpy().tolist() for layer in model.layers]


def test_magnitudes_are_redrawn_once_in_every_training_call() -> None:
    layer = layers.FeedbackDense(3, rule="brsf")
    layer.build((None, 4))
    x = [tf.random.stateless_normal((2, 4), (1, 2))]
    seen = []
    for call in range(1, 4):
        gradient = gradients(layer, x).inputs[0]
        assert layer.feedback_state.numpy()[1] == call
        assert all(relative_error(gradient, other) > 0.05 for other in seen)
        seen.append(gradient)


def test_draws_are_the_same_in_every_mode() -> None:
    layer = layers.FeedbackDense(3, rule="brsf")
    layer.build((None, 4))
    born = layer.feedback_state.numpy()
    x = [tf.random.stateless_normal((2, 4), (1, 2))]
    seen = []
    for mode in ("eager", "graph", "jit"):
        layer.feedback_state.assign(born)
        seen.append(gradients(layer, x, mode).inputs[0])
    for other in seen[1:]:
        assert relative_error(other, seen[0]) < 1e-6


@pytest.mark.parametrize("jit_compile", slow_but([False], [False, True]))
def test_fit_draws_once_a_batch_and_evaluation_never(jit_compile: bool) -> None:
    model, (x, y) = small_model("brsf"), small_data()
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    born = states(model)
    model.fit(x, y, batch_size=2, epochs=3, verbose=0, validation_data=(x, y))
    trained = states(model)
    assert trained == [[seed, 12] for seed, _ in born]
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x, training=False)
    assert states(model) == trained


def test_layers_draw_from_streams_of_their_own() -> None:
    first, second = small_model("brsf").layers
    assert first.feedback_state.numpy()[0] != second.feedback_state.numpy()[0]


def test_a_saved_model_goes_on_with_the_next_draw(tmp_path: pathlib.Path) -> None:
    model, (x, y) = small_model("brsf"), small_data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = carriers(loaded)
    for here, there in zip(carriers(model), before, strict=True):
        np.testing.assert_array_equal(here, there)
    for each in (model, loaded):
        each.fit(x, y, verbose=0)
    for here, there, earlier in zip(carriers(model), carriers(loaded), before, strict=True):
        np.testing.assert_array_equal(here, there)
        assert relative_error(here, earlier) > 0.1
    for here, there in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(here, there)


def test_replicas_draw_the_same_magnitudes(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        layer = layers.FeedbackDense(3, rule="brsf")
        layer.build((None, 4))
    x = tf.random.stateless_normal((2, 4), (1, 2))

    @tf.function
    def step() -> Any:
        return two_replicas.run(lambda: error_sent_back(layer, x))

    seen = []
    for _ in range(2):
        first, second = two_replicas.experimental_local_results(step())
        np.testing.assert_array_equal(first, second)
        seen.append(first)
    assert relative_error(seen[1], seen[0]) > 0.05
    local = two_replicas.experimental_local_results(layer.feedback_state.value)
    np.testing.assert_array_equal(local[0], local[1])
    assert local[0].numpy()[1] == 2


def error_sent_back(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Gradient of x in a training call."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    return tape.gradient(y, x)


# --- what B learns ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["fa", "wm", "frsf"])
def test_b_stays_as_it_was_born_where_no_gradient_teaches_it(rule: str) -> None:
    model, (x, y) = small_model(rule), small_data()
    born = [layer.feedback_kernel.numpy() for layer in model.layers]
    kernels = [layer.kernel.numpy() for layer in model.layers]
    with mirror_attends():
        model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    for layer, feedback, kernel in zip(model.layers, born, kernels, strict=True):
        np.testing.assert_array_equal(layer.feedback_kernel, feedback)
        assert relative_error(layer.kernel, kernel) > 1e-3


def test_fixed_magnitudes_keep_their_size_when_a_weight_changes_its_sign() -> None:
    layer = layers.FeedbackDense(3, rule="frsf")
    layer.build((None, 4))
    before = layer.pathways[0].backward_kernel().numpy()
    layer.kernel.assign(-layer.kernel)
    np.testing.assert_array_equal(layer.pathways[0].backward_kernel(), -before)


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_urfb_moves_b_by_epsilon_times_the_change_of_w(epsilon: float) -> None:
    model, (x, y) = small_model(UpdatedRandomFeedback(epsilon=epsilon)), small_data()

    def weights() -> list[tuple[np.ndarray, np.ndarray]]:
        return [(layer.kernel.numpy(), layer.feedback_kernel.numpy()) for layer in model.layers]

    before = weights()
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    for (w, b), (born_w, born_b) in zip(weights(), before, strict=True):
        assert np.abs(w - born_w).max() > 0.01
        np.testing.assert_allclose(b - born_b, epsilon * (w - born_w), atol=1e-6)
        assert epsilon or np.array_equal(b, born_b)


def test_kolen_pollack_gives_w_and_b_the_same_change() -> None:
    model, (x, y) = small_model("kp"), small_data()
    gaps = [layer.feedback_kernel.numpy() - layer.kernel.numpy() for layer in model.layers]
    kernels = [layer.kernel.numpy() for layer in model.layers]
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    for layer, gap, kernel in zip(model.layers, gaps, kernels, strict=True):
        assert relative_error(layer.kernel, kernel) > 1e-2
        np.testing.assert_allclose(layer.feedback_kernel - layer.kernel, gap, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_is_given_a_feedback_kernel_only_where_the_rule_needs_one(rule: str) -> None:
    layer = layers.FeedbackDense(3, rule=RULES[rule])
    layer.build((None, 4))
    assert (layer.feedback_kernel is not None) == (rule in ("fa", "wm", "kp", "urfb", "frsf"))
    assert (layer.feedback_state is not None) == (rule == "brsf")
    trainable = any(weight is layer.feedback_kernel for weight in layer.trainable_weights)
    assert trainable == (rule in ("kp", "urfb"))


# --- a rule of one's own ------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class Damped(FeedbackRule):
    """Errors travel on `gain * B`, and B follows W at `follow` times its step."""

    gain: float = 0.5
    follow: float = 0.25

    name = "damped"
    learns_by = "optimizer"

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor:
        return tf.cast(self.gain, kernel.dtype) * feedback

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        return self.follow * kernel_gradient


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class WithoutB(FeedbackRule):
    """Errors travel on a constant."""

    uses_feedback_kernel = False

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor:
        assert feedback is None
        return tf.ones_like(kernel)


def test_ones_own_rule_is_found_by_its_registered_name() -> None:
    assert rules.get("tests>Damped") == Damped()
    assert rules.get(keras.saving.serialize_keras_object(Damped(gain=2.0))) == Damped(gain=2.0)


def test_ones_own_rule_without_b_works_in_a_layer() -> None:
    layer = layers.FeedbackDense(3, rule=WithoutB())
    x = tf.random.stateless_normal((2, 4), (1, 2))
    np.testing.assert_allclose(error_sent_back(layer, x), np.full((2, 4), 3.0), rtol=1e-6)
    assert layer.feedback_kernel is None


def test_ones_own_rule_trains_saves_and_loads(tmp_path: pathlib.Path) -> None:
    rule = Damped(gain=2.0, follow=0.5)
    model, (x, y) = small_model(rule), small_data()
    layer = model.layers[0]
    sent_back = error_sent_back(layer, tf.constant(x, "float32"))
    slope = 1.0 - np.square(layer(x))
    expected = slope @ (2.0 * layer.feedback_kernel.numpy()).T
    assert relative_error(sent_back, expected) < 1e-5

    born = layer.kernel.numpy(), layer.feedback_kernel.numpy()
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    moved = layer.kernel - born[0], layer.feedback_kernel - born[1]
    assert np.abs(moved[0]).max() > 0.01
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], atol=1e-6)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.rule for layer in loaded.layers] == [rule, rule]
    for each in (model, loaded):
        each.fit(x, y, batch_size=2, verbose=0)
    for here, there in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(here, there)


def test_ones_own_rule_works_in_conversion() -> None:
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(3)])
    model = tfwm.convert_model(plain, Damped())
    assert [layer.rule for layer in model.layers] == [Damped(), Damped()]
    x = tf.random.stateless_normal((2, 4), (1, 2))
    before = error_sent_back(model, x)
    for layer in model.layers:
        layer.feedback_kernel.assign(3.0 * layer.feedback_kernel)
    assert relative_error(error_sent_back(model, x), 9.0 * before.numpy()) < 1e-5
