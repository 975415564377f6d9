"""Mirror mode does what the theory says, in figures: docs/science.md, "Laws of mirror mode"."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import Kind
from tests.mirror.mirroring import INDEPENDENT, angle, independent, mirror, model_of, relative
from tests.slow import slow_but
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.mode import quantized
from tfweightmirror.mirror.noise import Gaussian, Impulse, Orthogonal
from tfweightmirror.mirror.step import compiled_mirror, mirror_pathways
from tfweightmirror.pathway import Pathway

SEED = tf.constant(0)

# The law speaks of the mean over draws. The angle of one draw scatters by about 1 / sqrt(fan-in x
# columns of all groups) of itself, so these layers have hundreds of columns, and with few columns
# the part of the error along W, which turns nothing, would count too.
WIDE = [
    Kind("dense", "Dense", {"units": 128}, ((2, 64),)),
    Kind("conv1d", "Conv1D", {"filters": 96, "kernel_size": 5}, ((2, 9, 12),)),
    Kind("conv1d_groups", "Conv1D", {"filters": 96, "kernel_size": 5, "groups": 3}, ((2, 9, 24),)),
    Kind("conv2d", "Conv2D", {"filters": 96, "kernel_size": 3}, ((2, 6, 6, 8),)),
    Kind(
        "conv2d_groups", "Conv2D", {"filters": 96, "kernel_size": 3, "groups": 4}, ((2, 6, 6, 16),)
    ),
    Kind("conv3d", "Conv3D", {"filters": 96, "kernel_size": 2}, ((2, 4, 4, 4, 8),)),
    Kind("conv1d_transpose", "Conv1DTranspose", {"filters": 24, "kernel_size": 5}, ((2, 4, 64),)),
    Kind(
        "conv2d_transpose",
        "Conv2DTranspose",
        {"filters": 16, "kernel_size": 3, "strides": 2, "padding": "same"},
        ((2, 4, 4, 64),),
    ),
    Kind(
        "conv3d_transpose",
        "Conv3DTranspose",
        {"filters": 12, "kernel_size": 2},
        ((2, 3, 3, 3, 64),),
    ),
    Kind(
        "depthwise1d", "DepthwiseConv1D", {"kernel_size": 9, "depth_multiplier": 8}, ((2, 12, 64),)
    ),
    Kind(
        "depthwise2d",
        "DepthwiseConv2D",
        {"kernel_size": 5, "depth_multiplier": 4},
        ((2, 6, 6, 64),),
    ),
    Kind(
        "separable1d",
        "SeparableConv1D",
        {"filters": 128, "kernel_size": 9, "depth_multiplier": 4},
        ((2, 12, 64),),
    ),
    Kind(
        "separable2d",
        "SeparableConv2D",
        {"filters": 128, "kernel_size": 3, "depth_multiplier": 4},
        ((2, 6, 6, 64),),
    ),
    Kind(
        "einsum",
        "EinsumDense",
        {"equation": "abc,cde->abde", "output_shape": (None, 8, 16), "bias_axes": "de"},
        ((2, 3, 64),),
    ),
    Kind(
        "einsum_group",
        "EinsumDense",
        {"equation": "abc,bcd->abd", "output_shape": (8, 32), "bias_axes": "bd"},
        ((2, 8, 32),),
    ),
    Kind(
        "einsum_one_to_one",
        "EinsumDense",
        {"equation": "abc,c->abc", "output_shape": (None, 2048), "bias_axes": "c"},
        ((2, 3, 2048),),
    ),
    Kind("attention", "MultiHeadAttention", {"num_heads": 8, "key_dim": 16}, ((2, 4, 64),) * 2),
    Kind(
        "grouped_attention",
        "GroupQueryAttention",
        {"head_dim": 32, "num_query_heads": 4, "num_key_value_heads": 2},
        ((2, 4, 64),) * 2,
    ),
]
SOME = ("dense", "conv2d_groups", "conv2d_transpose", "depthwise1d", "einsum_one_to_one")
SAMPLES = 400
DRAWS = 20


def root_mean_square(values: Any) -> float:
    """Of a list of numbers."""
    return float(np.sqrt(np.mean(np.square(values))))


def law_deg(excess: float, samples: float) -> float:
    """`tan^2(angle) = excess / samples`, in degrees."""
    return float(np.degrees(np.arctan(np.sqrt(excess / samples))))


def unit_columns(
    fan_in: int = 200, columns: int = 64, *, bias_std: float = 0.0, seed: int = 5
) -> Pathway:
    """A dense pathway with W normal, its columns of length 1, and normal biases."""
    layer = tfwm.layers.FeedbackDense(columns, name="dense")
    layer.build((None, fan_in))
    random = np.random.default_rng(seed)
    w = random.normal(size=(fan_in, columns))
    layer.kernel.assign(w / np.linalg.norm(w, axis=0))
    layer.feedback_kernel.assign(random.normal(size=(fan_in, columns)))
    layer.bias.assign(bias_std * random.normal(size=columns))
    return layer.pathways[0]


# --- independent noise: tan^2(angle) = (n + kurtosis - 2) / N ------------------------------------


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"]
)
def wide_model(request: pytest.FixtureRequest) -> keras.Model:
    """Some or all kinds of layers, with many columns."""
    model = model_of(kind for kind in WIDE if request.param or kind.name in SOME)
    random = np.random.default_rng(0)
    for pathway in mirror_pathways(model):
        pathway.kernel.assign(random.normal(size=pathway.kernel.shape))
    return model


# The kurtosis of the uniform distribution lies between those of the two others.
@pytest.mark.parametrize("noise", slow_but(["gaussian"], INDEPENDENT))
def test_angle_law_of_independent_noise_holds_on_every_layer_kind(
    wide_model: keras.Model, noise: str
) -> None:
    pathways = mirror_pathways(wide_model)
    fired = independent(noise, samples=SAMPLES)
    run = compiled_mirror(wide_model, pathways, MirrorMode(noise=fired))
    found: dict[str, list[float]] = {pathway.name: [] for pathway in pathways}
    for draw in range(DRAWS):  # Noise is a function of the step, and each step replaces B.
        run(tf.constant(draw), tf.constant(1), SEED)
        for pathway in pathways:
            found[pathway.name].append(angle(pathway.kernel, pathway.feedback_kernel))
    kurtosis = {"gaussian": 3.0, "uniform": 1.8, "rademacher": 1.0}[noise]
    wrong = {}
    for pathway in pathways:
        law = law_deg(pathway.fan_in + kurtosis - 2, SAMPLES)
        rms = root_mean_square(found[pathway.name])
        # Signs of a single cell are never wrong: the law says 0, and float32 1e-5.
        if abs(rms - law) > 0.05 * law + 1e-3:
            wrong[pathway.name] = f"{rms:.3f}, law {law:.3f}"
    assert wrong == {}


@pytest.mark.parametrize("per_fan_in", slow_but([1, 22], [1, 5, 22, 100]))
def test_angle_law_holds_from_few_samples_to_many(per_fan_in: int) -> None:
    pathway = unit_columns(200, 128)
    noise = Gaussian(samples=200 * per_fan_in, decay=1.0)
    angles = [angle(mirror([pathway], noise, step=step)[0], pathway.kernel) for step in range(8)]
    assert root_mean_square(angles) == pytest.approx(law_deg(201, 200 * per_fan_in), rel=0.05)


@pytest.mark.parametrize(
    ("samples", "decay"),
    [pytest.param(200, 0.02, marks=pytest.mark.slow), (10, 0.02), (128, 0.5)],
    ids=["12_deg", "45_deg", "36_deg"],
)
def test_leaky_averaging_counts_as_m_times_2_minus_d_over_d_samples(
    samples: int, decay: float
) -> None:
    model = dense_model(200, 256)
    (pathway,) = mirror_pathways(model)
    noise = Gaussian(samples=samples, decay=decay)
    run = compiled_mirror(model, [pathway], MirrorMode(noise=noise))
    forgotten = round(5 / decay)  # e^-5 of what was before is left
    angles = []
    for draw in range(5):
        run(tf.constant(draw * forgotten), tf.constant(forgotten), SEED)
        angles.append(angle(pathway.kernel, pathway.feedback_kernel))
    law = law_deg(201, samples * (2 - decay) / decay)
    # B - W falls by e^-5 in each wait; from a random B of W's size that is 0.4 degrees at most.
    assert root_mean_square(angles) == pytest.approx(law, rel=0.05)


def test_mirror_settles_at_its_target_angle() -> None:
    model = dense_model(200, 256)
    angles = tfwm.mirror_model(model, Gaussian(target_angle_deg=8.0), steps=400)
    assert angles["dense"] == pytest.approx(8.0, rel=0.05)


def test_step_size_set_by_hand_settles_at_eta_m_variance_over_decay_times_w() -> None:
    model = dense_model(64, 128)
    noise = Gaussian(std=0.5, samples=640, decay=0.1)
    tfwm.mirror_model(model, noise, steps=100, eta=1e-3)
    ratio = tfwm.norm_ratios(model)["dense"]
    expected = 1e-3 * 640 * 0.25 / 0.1
    angle_there = np.radians(law_deg(65, 640 * 1.9 / 0.1))
    assert ratio == pytest.approx(expected / np.cos(angle_there), rel=0.01)


def dense_model(fan_in: int, columns: int) -> keras.Model:
    """One `weight_mirror` layer with a normal kernel."""
    dense = tfwm.layers.FeedbackDense(columns, name="dense", kernel_initializer="he_normal")
    return keras.Sequential([keras.Input((fan_in,)), dense])


def test_synaptic_scaling_keeps_the_norm_and_turns_b_towards_w() -> None:
    model = dense_model(50, 40)
    (pathway,) = mirror_pathways(model)
    start = tfwm.norm_ratios(model)["dense"]
    before = tfwm.weight_angles(model)["dense"]
    angles = tfwm.mirror_model(model, Orthogonal(decay=0.3), norm="scaling", steps=1)
    assert 45 < angles["dense"] < before - 10
    angles = tfwm.mirror_model(model, Orthogonal(decay=0.3), norm="scaling", steps=60)
    # Each step divides what is beside W by more than 1.2.
    assert angles["dense"] < 0.01
    assert tfwm.norm_ratios(model)["dense"] == pytest.approx(start, rel=1e-5)
    assert np.isfinite(pathway.feedback_kernel.numpy()).all()


def test_without_a_bound_b_grows_by_the_same_share_of_w_every_step() -> None:
    model = dense_model(50, 40)
    (pathway,) = mirror_pathways(model)
    start = pathway.feedback_kernel.numpy()
    tfwm.mirror_model(model, Orthogonal(decay=0.3), norm=None, steps=20)
    grown = start + 20 * 0.3 * pathway.kernel.numpy()
    assert relative(pathway.feedback_kernel, grown) < 1e-5


def test_replicas_count_as_so_many_times_the_samples(
    two_replicas: tf.distribute.Strategy,
) -> None:
    with two_replicas.scope():
        model = dense_model(64, 128)
    (pathway,) = mirror_pathways(model)
    run = compiled_mirror(model, [pathway], MirrorMode(noise=Gaussian(samples=200, decay=1.0)))
    angles = []
    for draw in range(10):
        run(tf.constant(draw), tf.constant(1), SEED)
        angles.append(angle(pathway.kernel, pathway.feedback_kernel))
    # Were both to fire the same noise, it would be 29.7 degrees in place of 22.0.
    assert root_mean_square(angles) == pytest.approx(law_deg(65, 2 * 200), rel=0.05)
    one, other = two_replicas.experimental_local_results(pathway.feedback_kernel.value)
    np.testing.assert_array_equal(one, other)


# --- balanced noise: exact ----------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 8, 64, 200])
def test_balanced_sweep_is_exact_for_any_block(block: int) -> None:
    pathway = unit_columns()
    (b,) = mirror([pathway], Orthogonal(block=block))
    assert angle(b, pathway.kernel) < 1e-4
    assert relative(b, pathway.kernel) < 2e-6


@pytest.mark.parametrize("noise", [Orthogonal(decay=0.3), Impulse(decay=0.3)])
def test_gap_falls_by_one_minus_decay_each_sweep(noise: Orthogonal) -> None:
    model = dense_model(50, 40)
    (pathway,) = mirror_pathways(model)
    gap = pathway.feedback_kernel.numpy() - pathway.kernel.numpy()
    tfwm.mirror_model(model, noise, steps=5)
    left = pathway.feedback_kernel.numpy() - pathway.kernel.numpy()
    assert relative(left, 0.16807 * gap) < 1e-5  # 0.7^5


@pytest.mark.parametrize("noise", [Orthogonal(), Gaussian(samples=100, decay=1.0)])
def test_amplitude_changes_nothing_where_the_response_is_linear(noise: Any) -> None:
    pathway = unit_columns()
    loud = type(noise)(**{**noise.get_config(), "std": 16.0})
    assert relative(mirror([pathway], loud)[0], mirror([pathway], noise)[0]) < 1e-5


# --- zero padding -------------------------------------------------------------------------------


def floor_deg(size: int) -> float:
    """The angle floor of a 3x3 kernel mirrored on whole `size` x `size` maps, by tap counts."""
    offsets = np.abs(np.arange(-1, 2))
    counts = np.outer(size - offsets, size - offsets).ravel()
    return float(np.degrees(np.arccos(counts.mean() / root_mean_square(counts))))


@pytest.mark.parametrize("size", slow_but([4], [4, 8]))
def test_one_receptive_field_has_no_floor_where_a_zero_padded_map_has_one(size: int) -> None:
    layer = tfwm.layers.FeedbackConv2D(256, 3, padding="same", name="conv", use_bias=False)
    layer.build((None, size, size, 4))
    layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))
    (pathway,) = layer.pathways
    # The published way: noise on whole maps, correlated with what the convolution answers.
    x = tf.random.stateless_normal((6000, size, size, 4), (1, 2))
    kernel = tf.convert_to_tensor(layer.kernel)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
    published = angle(tape.gradient(y, kernel, y), kernel)
    assert {4: 11.4, 8: 5.2}[size] == pytest.approx(floor_deg(size), abs=0.05)
    assert published == pytest.approx(floor_deg(size), abs=1.0)
    # One receptive field: exact, or as good as its number of samples.
    assert angle(mirror([pathway])[0], kernel) < 1e-4
    many = Gaussian(samples=20000, decay=1.0)
    assert angle(mirror([pathway], many)[0], kernel) == pytest.approx(law_deg(37, 20000), rel=0.1)


# --- through the activation ---------------------------------------------------------------------


def clip(y: tf.Tensor) -> tf.Tensor:
    """Linear between -1 and 1."""
    return tf.clip_by_value(y, -1.0, 1.0)


def through(
    pathway: Pathway, noise: Any, activation: Callable[[tf.Tensor], tf.Tensor], **options: Any
) -> np.ndarray:
    """B after a mirror step through the activation."""
    return mirror([pathway], noise, activation=activation, through_activation=True, **options)[0]


@pytest.mark.parametrize(("centre", "excess"), [(False, 2.0), (True, 1.36)])
def test_relu_without_bias_is_unbiased_at_a_price(centre: bool, excess: float) -> None:
    pathway = unit_columns(100, 128)
    noise = Gaussian(samples=200 * 100, decay=1.0)
    angles = [
        angle(through(pathway, noise, tf.nn.relu, centre=centre, step=step), pathway.kernel)
        for step in range(8)
    ]
    assert root_mean_square(angles) == pytest.approx(law_deg(excess, 200), rel=0.05)


def mean_slope(
    activation: Callable[[tf.Tensor], tf.Tensor], bias: np.ndarray, std: float
) -> np.ndarray:
    """`E phi'(z)`, z normal about each bias, by quadrature and Stein's lemma."""
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    z = tf.constant(bias[:, None] + std * points)
    return (activation(z).numpy() * points) @ (weights / weights.sum()) / std


@pytest.mark.parametrize("std", slow_but([0.1], [1.0, 0.1]))
def test_biases_bend_relu_to_a_floor_at_the_columns_mean_slopes(std: float) -> None:
    """`E[X^T phi(X W + b)]` points along `W diag(Phi(b / (s |w|)))`."""
    pathway = unit_columns(100, 200, bias_std=0.5)
    bias = pathway.bias.numpy().astype("float64")
    slopes = 0.5 * (1 + np.vectorize(math.erf)(bias / std / math.sqrt(2)))
    np.testing.assert_allclose(mean_slope(tf.nn.relu, bias, std), slopes, atol=0.01)
    w = pathway.kernel.numpy()
    floor = angle(w, w * slopes.astype("float32"))
    # The limit of infinitely many columns is 19.7 and 42.2 degrees.
    assert floor == pytest.approx({1.0: 19.7, 0.1: 42.2}[std], abs=2.0)
    noise = Gaussian(samples=100 * 1000, decay=1.0, std=std)
    b = through(pathway, noise, tf.nn.relu, bias_blocking=False, centre=True)
    assert angle(b, w * slopes.astype("float32")) < 4
    assert angle(b, w) == pytest.approx(floor, abs=1.0)
    blocked = through(pathway, noise, tf.nn.relu, centre=True)
    assert angle(blocked, w) < 4


@pytest.mark.parametrize(
    ("activation", "one_tenth", "one"),
    [
        (tf.nn.relu, 0.0, 0.0),
        (tf.nn.sigmoid, 0.12, 7.2),
        (tf.nn.tanh, 0.47, 15.0),
        (clip, 0.0, 18.0),
    ],
)
def test_sign_pairs_leave_the_odd_part_of_the_response(
    activation: Callable[[tf.Tensor], tf.Tensor], one_tenth: float, one: float
) -> None:
    """All cells fire together, with noise of 0.1 and 1: ReLU is exact, the others nearly linear."""
    pathway = unit_columns()
    for std, expected in ((0.1, one_tenth), (1.0, one)):
        noise = Orthogonal(std=std, block=200)
        b = through(pathway, noise, activation, sign_pairs=True)
        assert angle(b, pathway.kernel) == pytest.approx(expected, rel=0.1, abs=1e-3)


@pytest.mark.parametrize("noise", [Impulse(std=0.5), Orthogonal(), Orthogonal(block=200)])
@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.leaky_relu])
def test_sign_pairs_make_a_sweep_through_relu_exact(
    noise: Orthogonal, activation: Callable[[tf.Tensor], tf.Tensor]
) -> None:
    """`phi(z) - phi(-z)` is a multiple of z: 1 for ReLU, 1 + 0.2 for the leaky one, over 2."""
    pathway = unit_columns()
    b = through(pathway, noise, activation, sign_pairs=True)
    half = 0.5 if activation is tf.nn.relu else 0.6
    assert angle(b, pathway.kernel) < 0.01
    assert relative(b, half * pathway.kernel.numpy()) < 1e-5


def test_without_sign_pairs_a_sweep_through_relu_or_sigmoid_is_far_off() -> None:
    pathway = unit_columns()
    noise = Orthogonal(std=0.1, block=200)
    assert angle(through(pathway, noise, tf.nn.relu), pathway.kernel) == pytest.approx(45, abs=1)
    # Its offset of 0.5 is all that is heard.
    assert angle(through(pathway, noise, tf.nn.sigmoid), pathway.kernel) > 85


@pytest.mark.parametrize(
    "activation",
    slow_but((tf.nn.relu,), [tf.nn.relu, tf.nn.sigmoid, tf.nn.tanh, clip]),
)
def test_with_biases_sign_pairs_point_along_the_columns_mean_slopes(
    activation: Callable[[tf.Tensor], tf.Tensor],
) -> None:
    noise = Orthogonal(std=0.1, block=200)
    angles = []
    for seed in range(20):
        pathway = unit_columns(bias_std=0.5, seed=seed)
        w = pathway.kernel.numpy()
        b = through(pathway, noise, activation, sign_pairs=True, bias_blocking=False)
        slopes = mean_slope(activation, pathway.bias.numpy().astype("float64"), 0.1)
        assert angle(b, w * slopes.astype("float32")) < (6 if activation is tf.nn.relu else 2)
        angles.append(angle(b, w))
    expected = {tf.nn.relu: 43, tf.nn.sigmoid: 4.3, tf.nn.tanh: 12, clip: 11}[activation]
    assert np.mean(angles) == pytest.approx(expected, rel=0.15)


# --- hardware: noisy, rounded, dead -------------------------------------------------------------


@pytest.mark.parametrize("response_noise_std", [0.01, 0.1])
@pytest.mark.parametrize("block", [1, 8, 50, 200])
def test_blocks_of_b_cells_are_sqrt_b_more_robust_to_noise_in_the_response(
    block: int, response_noise_std: float
) -> None:
    pathway = unit_columns()
    noise = Impulse() if block == 1 else Orthogonal(block=block)
    (b,) = mirror([pathway], noise, response_noise_std=response_noise_std)
    # The entries of W have root mean square 1 / sqrt(200).
    law = np.degrees(np.arctan(response_noise_std * np.sqrt(200 / block)))
    assert angle(b, pathway.kernel) == pytest.approx(law, rel=0.05)


@pytest.mark.parametrize("response_noise_std", [0.01, 0.1])
def test_gaussian_noise_hides_small_noise_in_the_response_behind_its_own(
    response_noise_std: float,
) -> None:
    """As many samples as a sweep: 45 degrees, where orthogonal noise gives 0.6 and 5.7."""
    pathway = unit_columns()
    noise = Gaussian(samples=200, decay=1.0)
    angles = [
        angle(b, pathway.kernel)
        for step in range(4)
        for b in mirror([pathway], noise, response_noise_std=response_noise_std, step=step)
    ]
    # The columns have length 1, so that a cell's answer has variance 1, to which its noise adds.
    law = law_deg(201 + 200 * response_noise_std**2, 200)
    assert root_mean_square(angles) == pytest.approx(law, rel=0.03)


def test_noise_in_the_response_is_another_one_every_step_and_cell() -> None:
    pathway = unit_columns(20, 30)
    errors = [
        mirror([pathway], "impulse", response_noise_std=0.1, step=step)[0] - pathway.kernel.numpy()
        for step in range(3)
    ]
    for error in errors:
        assert error.std() == pytest.approx(0.1, rel=0.1)
    assert len(np.unique(np.abs(errors))) > 0.99 * 3 * 600
    assert abs(np.corrcoef(errors[0].ravel(), errors[1].ravel())[0, 1]) < 0.15


@pytest.mark.parametrize("noise", [Impulse(), Orthogonal()])
def test_each_bit_of_the_response_halves_the_error(noise: Orthogonal) -> None:
    pathway = unit_columns()
    angles = [
        angle(mirror([pathway], noise, response_bits=bits)[0], pathway.kernel)
        for bits in (1, 2, 4, 6, 8, 10)
    ]
    assert angles == sorted(angles, reverse=True)
    assert angles[0] > 30
    for coarse, fine in itertools.pairwise(angles[2:]):
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_rounded_answers_have_as_many_levels_as_their_bits_allow() -> None:
    y = tf.constant(np.linspace(-1, 1, 10000), tf.float32)
    for bits in (1, 2, 3, 5):
        rounded = quantized(y, bits).numpy()
        assert len(np.unique(rounded)) == 2**bits
        assert np.abs(rounded - y.numpy()).max() <= 1.001 / (2**bits - 1)
        np.testing.assert_allclose(rounded, -rounded[::-1], atol=1e-6)
    assert not quantized(tf.zeros(5), 3).numpy().any()


def test_dead_cells_leave_zero_columns_and_the_others_exact() -> None:
    pathway = unit_columns(200, 400)
    first, second = (mirror([pathway], dead_cells=0.25, step=step)[0] for step in range(2))
    dead = ~first.any(axis=0)
    assert 70 < dead.sum() < 130  # a quarter of 400, give or take 3.5 standard deviations
    assert np.array_equal(dead, ~second.any(axis=0))
    assert relative(first[:, ~dead], pathway.kernel.numpy()[:, ~dead]) < 2e-6
    (other,) = mirror([pathway], dead_cells=0.25, seed=1)
    assert not np.array_equal(dead, ~other.any(axis=0))
