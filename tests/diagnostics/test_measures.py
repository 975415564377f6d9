"""Angles and norm ratios against NumPy in float64, and where sign-symmetry stands."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.diagnostics import angle_deg, norm_ratio, weight_angle_deg


def numpy_angle_deg(u: np.ndarray, v: np.ndarray) -> float:
    """`acos` of the cosine: in float64, for angles that are not small, it has the digits."""
    u, v = u.astype("float64").ravel(), v.astype("float64").ravel()
    return float(np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))))


@pytest.mark.parametrize("shape", [(2,), (7, 5), (3, 3, 4, 6), (400, 500)])
@pytest.mark.parametrize("mix", [-0.9, -0.3, 0.0, 0.2, 0.7, 0.95])
def test_angle_is_that_of_float64(shape: tuple[int, ...], mix: float) -> None:
    random = np.random.default_rng(0)
    u = random.normal(size=shape).astype("float32")
    v = (mix * u + (1 - abs(mix)) * random.normal(size=shape)).astype("float32")
    found = angle_deg(tf.constant(u), tf.constant(v))
    assert found.dtype == tf.float32
    assert found.shape == ()
    assert float(found) == pytest.approx(numpy_angle_deg(u, v), abs=1e-4)


@pytest.mark.parametrize("turn_deg", [1e-4, 1e-3, 0.1])
def test_small_angles_keep_their_digits(turn_deg: float) -> None:
    # In a plane whose axes float32 holds exactly; `acos` in float32 would say 0 or 0.03.
    turn = np.radians(turn_deg)
    found = angle_deg(tf.constant([1.0, 0.0]), tf.constant([np.cos(turn), np.sin(turn)], "float32"))
    assert float(found) == pytest.approx(turn_deg, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_equal_opposite_and_scaled_vectors(seed: int) -> None:
    u = tf.constant(np.random.default_rng(seed).normal(size=(300, 40)), "float32")
    assert float(angle_deg(u, u)) < 1e-5
    for scale in (3.0, 1e-3, 1e4):
        assert float(angle_deg(u, scale * u)) < 3e-5
        assert float(angle_deg(u, -scale * u)) == pytest.approx(180, abs=3e-5)


def test_orthogonal_vectors_stand_at_90_degrees() -> None:
    assert float(angle_deg(tf.constant([1.0, 2.0]), tf.constant([-4.0, 2.0]))) == pytest.approx(90)


def test_a_zero_vector_has_no_angle() -> None:
    zero, one = tf.zeros((2, 3)), tf.ones((2, 3))
    for u, v in ((zero, one), (one, zero), (zero, zero)):
        assert np.isnan(angle_deg(u, v))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_measured_in_float32(dtype: str) -> None:
    random = np.random.default_rng(0)
    # 300^2 x 1000 overflows float16.
    u, v = (tf.cast(300 * random.normal(size=1000), dtype) for _ in range(2))
    found = angle_deg(u, v)
    assert found.dtype == tf.float32
    expected = numpy_angle_deg(tf.cast(u, "float64").numpy(), tf.cast(v, "float64").numpy())
    assert float(found) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("initializer", "expected"),
    [
        ("random_normal", np.degrees(np.arccos(np.sqrt(2 / np.pi)))),  # 37.1
        ("glorot_uniform", np.degrees(np.arccos(np.sqrt(3) / 2))),  # 30
    ],
)
def test_sign_symmetry_stands_where_its_law_says(initializer: str, expected: float) -> None:
    dense = tfwm.layers.FeedbackDense(300, rule="ss", kernel_initializer=initializer, name="dense")
    model = keras.Sequential([keras.Input((400,)), dense])
    # 120,000 weights: the angle scatters by about 0.1 degrees.
    assert tfwm.weight_angles(model)["dense"] == pytest.approx(expected, abs=0.3)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A layer of each of four rules, the head with a scaled B."""
    layers = [
        tfwm.layers.FeedbackSeparableConv1D(6, 3, rule="fa", name="separable"),
        keras.layers.Flatten(),
        tfwm.layers.FeedbackDense(7, rule="ss", name="signs"),
        tfwm.layers.FeedbackDense(6, rule="bp", name="exact"),
        tfwm.layers.FeedbackDense(5, rule="kp", name="head"),
    ]
    model = keras.Sequential([keras.Input((8, 4)), *layers])
    layers[-1].feedback_kernel.assign(-2.5 * layers[-1].kernel)
    return model


def test_measures_are_keyed_by_pathway_in_execution_order(model: keras.Model) -> None:
    names = ["separable/depthwise", "separable/pointwise", "signs", "exact", "head"]
    assert list(tfwm.weight_angles(model)) == names
    assert list(tfwm.norm_ratios(model)) == names


def test_measures_are_those_of_w_and_what_carries_the_error(model: keras.Model) -> None:
    angles, ratios = tfwm.weight_angles(model), tfwm.norm_ratios(model)
    assert angles["exact"] < 1e-5
    assert ratios["exact"] == 1
    assert angles["head"] == pytest.approx(180, abs=1e-4)
    assert ratios["head"] == pytest.approx(2.5, rel=1e-6)
    for pathway in tfwm.pathways(model):
        w, carrier = pathway.kernel.numpy(), pathway.backward_kernel().numpy()
        assert isinstance(angles[pathway.name], float)
        assert angles[pathway.name] == pytest.approx(float(weight_angle_deg(pathway)), abs=1e-6)
        assert ratios[pathway.name] == pytest.approx(float(norm_ratio(pathway)), rel=1e-6)
        ratio = np.linalg.norm(carrier.ravel()) / np.linalg.norm(w.ravel())
        assert ratios[pathway.name] == pytest.approx(ratio, rel=1e-5)
        if pathway.name not in ("exact", "head"):  # where float64's `acos` has no digits
            expected = numpy_angle_deg(w, carrier)
            assert angles[pathway.name] == pytest.approx(expected, abs=1e-4)


def test_sign_symmetry_is_measured_at_its_magnitudes(model: keras.Model) -> None:
    (signs,) = (pathway for pathway in tfwm.pathways(model) if pathway.name == "signs")
    w = signs.kernel.numpy()
    assert tfwm.weight_angles(model)["signs"] == pytest.approx(
        numpy_angle_deg(w, np.sign(w)), abs=1e-4
    )


def test_a_plain_model_has_no_measures() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert tfwm.weight_angles(model) == tfwm.norm_ratios(model) == {}


def test_mixed_precision_measures_the_float32_kernels() -> None:
    dense = tfwm.layers.FeedbackDense(50, rule="fa", name="dense", dtype="mixed_float16")
    model = keras.Sequential([keras.Input((60,)), dense])
    expected = numpy_angle_deg(dense.kernel.numpy(), dense.feedback_kernel.numpy())
    assert tfwm.weight_angles(model)["dense"] == pytest.approx(expected, abs=1e-4)


def test_an_angle_between_tensors_that_only_broadcast_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(3, 1\)\. Expected one shape"):
        angle_deg(tf.ones(3), tf.ones((3, 1)))
