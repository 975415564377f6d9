"""Redrawing and setting B: what moves, what does not, and what is refused."""

import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm


def model_of(rule: str = "fa", **options: Any) -> keras.Model:
    """Four feedback kernels: two of one separable convolution, two dense ones of one shape."""
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            tfwm.layers.FeedbackSeparableConv1D(6, 3, rule=rule, name="separable", **options),
            keras.layers.Flatten(),
            tfwm.layers.FeedbackDense(18, rule=rule, name="one", **options),
            tfwm.layers.FeedbackDense(18, rule=rule, name="other", **options),
            tfwm.layers.FeedbackDense(2, rule="bp", name="head"),
        ]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def feedback(model: keras.Model) -> dict[str, np.ndarray]:
    """B by pathway name."""
    return {
        pathway.name: pathway.feedback_kernel.numpy()
        for pathway in tfwm.pathways(model)
        if pathway.feedback_kernel is not None
    }


def the_rest(model: keras.Model) -> list[np.ndarray]:
    """All variables that a reset must not move: forward weights and optimizer state."""
    own = {id(p.feedback_kernel) for p in tfwm.pathways(model)}
    variables = [v for v in model.variables if id(v) not in own] + model.optimizer.variables
    return [variable.numpy() for variable in variables]


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert list(one) == list(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def assert_all_differ(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """No entry is the same."""
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array != other[name]).mean() > 0.99, name


def test_same_seed_gives_the_same_b_and_another_seed_another() -> None:
    model, twin = model_of(), model_of()
    born = feedback(model)
    tfwm.reset_feedback(model, seed=3)
    three = feedback(model)
    assert_all_differ(born, three)
    tfwm.reset_feedback(model, seed=4)
    assert_all_differ(three, feedback(model))
    tfwm.reset_feedback(twin, seed=3)
    assert_equal(feedback(twin), three)


def test_without_a_seed_b_is_as_at_birth() -> None:
    model = model_of()
    born = feedback(model)
    tfwm.reset_feedback(model, initializer="ones")
    assert_all_differ(born, feedback(model))
    tfwm.reset_feedback(model)
    assert_equal(feedback(model), born)


@pytest.mark.parametrize(
    ("initializer", "seed"),
    [(None, 3), ("he_normal", None), (keras.initializers.HeNormal(seed=1), None), ("normal", 3)],
)
def test_pathways_of_one_shape_draw_apart_and_b_is_never_w(initializer: Any, seed: Any) -> None:
    model = model_of()
    start = keras.initializers.get("he_normal" if initializer is None else initializer)
    start = type(start).from_config({**start.get_config(), "seed": 1})
    kernels = [pathway.kernel for pathway in tfwm.pathways(model)[:-1]]
    for kernel in kernels:
        kernel.assign(start(kernel.shape))
    tfwm.reset_feedback(model, initializer=initializer, seed=seed)
    b = feedback(model)
    assert (b["one"] != b["other"]).mean() > 0.99
    for kernel, found in zip(kernels, b.values(), strict=True):
        assert (found != kernel.numpy()).mean() > 0.99


@pytest.mark.parametrize("name", ["he_normal", "HeNormal"])
def test_an_initializer_may_be_named(name: str) -> None:
    model, twin = model_of(), model_of()
    tfwm.reset_feedback(model, initializer=name, seed=5)
    tfwm.reset_feedback(twin, initializer=keras.initializers.HeNormal(), seed=5)
    assert_equal(feedback(model), feedback(twin))
    b = feedback(model)["other"]
    # 324 truncated normal draws of variance 2 / 18: the standard deviation scatters by 4 %.
    assert b.std() == pytest.approx(np.sqrt(2 / 18), rel=0.12)
    assert abs(b).max() < 2.3 * np.sqrt(2 / 18)


def test_initializers_without_a_seed_set_every_entry() -> None:
    model = model_of()
    tfwm.reset_feedback(model, initializer=keras.initializers.Constant(0.25), seed=5)
    for b in feedback(model).values():
        np.testing.assert_array_equal(b, np.full_like(b, 0.25))


def test_each_layers_own_way_to_start_is_kept() -> None:
    model = model_of(feedback_initializer=keras.initializers.RandomUniform(4.0, 5.0, seed=1))
    born = feedback(model)
    tfwm.reset_feedback(model, seed=2)
    assert_all_differ(born, feedback(model))
    for b in feedback(model).values():
        assert (b >= 4).all()
        assert (b <= 5).all()


def test_arrays_set_the_named_kernels_and_the_others_stay() -> None:
    model = model_of()
    born = feedback(model)
    numbers = np.random.default_rng(0)
    given = {
        name: numbers.normal(size=born[name].shape).astype("float32")
        for name in ("separable/pointwise", "other")
    }
    tfwm.reset_feedback(model, initializer=given)
    assert_equal(feedback(model), born | given)
    tfwm.reset_feedback(model, initializer={"one": tf.constant(given["other"]).numpy().tolist()})
    assert_equal(feedback(model), born | given | {"one": given["other"]})


def test_b_read_from_a_model_goes_back_into_it() -> None:
    model = model_of("kp")
    born = feedback(model)
    tfwm.reset_feedback(model, seed=1)
    tfwm.reset_feedback(model, initializer=born)
    assert_equal(feedback(model), born)


@pytest.mark.parametrize("rule", ["fa", "kp", "wm", "urfb", "frsf"])
def test_nothing_but_b_moves(rule: str) -> None:
    model = model_of(rule)
    model.optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables])
    before, born = the_rest(model), feedback(model)
    keras.utils.set_random_seed(0)
    expected_draws = next_draws()
    # Made here, since Keras draws a seed from Python's stream for an initializer without one.
    he_normal = keras.initializers.HeNormal()
    keras.utils.set_random_seed(0)
    for initializer in (None, he_normal, {"one": np.ones((18, 18))}):
        tfwm.reset_feedback(model, initializer=initializer, seed=1)
    assert next_draws() == expected_draws
    assert_all_differ(born, feedback(model))
    for found, expected in zip(the_rest(model), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def next_draws() -> list[float]:
    """What Python's, NumPy's, TensorFlow's and Keras' own random streams give next."""
    return [
        random.random(),
        np.random.random(),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nowhere": np.ones((18, 18))}, r"'nowhere'.*no feedback kernel\..*separable/depthwise"),
        ({"head": np.ones((18, 2))}, r"'head'.*no feedback kernel\..*one, other\.$"),
        ({"one": np.ones((18, 17))}, r"\(18, 17\) for 'one'.*\(18, 18\)"),
        ({"one": 1.0}, r"\(\) for 'one'.*\(18, 18\)"),
    ],
    ids=["unknown", "no_kernel", "shape", "scalar"],
)
def test_arrays_that_fit_no_feedback_kernel_are_refused_and_nothing_moves(
    given: dict[str, Any], message: str
) -> None:
    model = model_of()
    born = feedback(model)
    with pytest.raises(ValueError, match=message):
        tfwm.reset_feedback(model, initializer={"other": np.zeros((18, 18)), **given})
    assert_equal(feedback(model), born)


@pytest.mark.parametrize("rule", ["bp", "ss"])
def test_models_without_a_feedback_kernel_are_refused(rule: str) -> None:
    dense = tfwm.layers.FeedbackDense(2, rule=rule)
    with pytest.raises(ValueError, match="no feedback kernel in 'small'"):
        tfwm.reset_feedback(keras.Sequential([keras.Input((3,)), dense], name="small"))


def test_a_plain_model_is_refused() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="no feedback kernel in 'plain'"):
        tfwm.reset_feedback(model)


def test_all_replicas_get_the_b_of_one_device(two_replicas: tf.distribute.Strategy) -> None:
    alone = model_of()
    with two_replicas.scope():
        model = model_of()
    array = np.random.default_rng(0).normal(size=(18, 18))
    for options in ({"seed": 3}, {"initializer": {"one": array}}):
        tfwm.reset_feedback(alone, **options)
        tfwm.reset_feedback(model, **options)
        expected = feedback(alone)
        for pathway in tfwm.pathways(model)[:-1]:
            for copy in two_replicas.experimental_local_results(pathway.feedback_kernel.value):
                np.testing.assert_array_equal(copy.numpy(), expected[pathway.name])


# --- seeds ---------------------------------------------------------------------------------------


def two_alike(by_hand: bool = False, **options: Any) -> keras.Model:
    """Two layers of one shape, converted or made as feedback layers."""
    if by_hand:
        middle = [tfwm.layers.FeedbackDense(6, rule="fa", **options) for _ in range(2)]
        return keras.Sequential([keras.Input((6,)), *middle])
    middle = [keras.layers.Dense(6, **options) for _ in range(2)]
    return tfwm.convert_model(keras.Sequential([keras.Input((6,)), *middle]), "fa")


def both(model: keras.Model) -> list[np.ndarray]:
    return list(feedback(model).values())


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_initializer": "zeros"},
        {"kernel_initializer": lambda shape, dtype=None: tf.ones(shape, dtype)},
        {"feedback_initializer": keras.initializers.HeNormal()},
    ],
    ids=["constant", "function", "one feedback initializer"],
)
def test_layers_of_one_shape_get_b_of_their_own(options: dict[str, Any]) -> None:
    ways = [True] if "feedback_initializer" in options else [False, True]
    for by_hand in ways:
        one, other = both(two_alike(by_hand, **options))
        assert (one != other).mean() > 0.99


def test_b_of_a_converted_model_without_seeds_follows_places_alone() -> None:
    born = [both(two_alike(kernel_initializer="zeros")) for _ in range(2)]
    for one, again in zip(*born, strict=True):
        np.testing.assert_array_equal(one, again)


def test_b_of_layers_by_hand_without_seeds_follows_keras_random_seed() -> None:
    def born(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        return both(two_alike(True, kernel_initializer="zeros"))

    for one, other, again in zip(born(1), born(2), born(1), strict=True):
        np.testing.assert_array_equal(one, again)
        assert (one != other).mean() > 0.99


@pytest.mark.parametrize("by_hand", [False, True])
def test_after_loading_too_b_is_as_at_birth(by_hand: bool, tmp_path: Any) -> None:
    inputs = keras.Input((4, 6))
    if by_hand:
        attended = tfwm.layers.FeedbackMultiHeadAttention(2, 3, rule="fa")(inputs, inputs)
        options = {"rule": "fa", "feedback_initializer": keras.initializers.HeNormal()}
        separable = tfwm.layers.FeedbackSeparableConv1D(3, 2, **options)
        model = keras.Model(inputs, separable(attended))
    else:
        attended = keras.layers.MultiHeadAttention(2, 3)(inputs, inputs)
        model = keras.Model(inputs, keras.layers.SeparableConv1D(3, 2)(attended))
        tfwm.convert_model(model, "fa", seed=5)
    born = feedback(model)
    tfwm.reset_feedback(model, seed=1)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tfwm.reset_feedback(loaded)
    assert_equal(feedback(loaded), born)


def test_a_clone_gets_b_of_its_own_as_it_gets_w() -> None:
    model = two_alike()
    for one, other in zip(both(model), both(keras.models.clone_model(model)), strict=True):
        assert (one != other).mean() > 0.99


def test_b_drawn_anew_does_not_depend_on_names() -> None:
    one, other = two_alike(), two_alike()
    assert one.layers[0].name != other.layers[0].name
    for model in (one, other):
        tfwm.reset_feedback(model, seed=3)
    for b, same in zip(both(one), both(other), strict=True):
        np.testing.assert_array_equal(b, same)
