"""What cells fire: orthogonality, variance, randomness, sample plans, refusals."""

import dataclasses
import types
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import BY_NAME
from tests.mirror.mirroring import (
    INDEPENDENT,
    NOISES,
    angle,
    mirror,
    random_pathways,
    relative,
)
from tests.slow import slow_but
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror import noise as noises
from tfweightmirror.mirror.noise import (
    Gaussian,
    Impulse,
    IndependentNoise,
    Noise,
    Orthogonal,
    Rademacher,
    Uniform,
)
from tfweightmirror.mirror.noise.balanced import orthogonal_rows

ROUNDING = 2e-6  # of sums of float32 squares, relative


def field(fan_in: int, fan_out: int = 3, groups: int = 1, fields: int | None = None) -> Any:
    """What a noise needs to know of a pathway."""
    return types.SimpleNamespace(groups=groups, fan_in=fan_in, fan_out=fan_out, fields=fields)


def fired(noise: Noise, shape: Any, seed: int = 0) -> np.ndarray:
    """All signals of one mirror step, at full width: (groups, samples, fan_in)."""
    firing = noise.plan(shape)
    chunks = [
        noise.signals(firing, tf.constant([seed, 1]), tf.constant(chunk)).numpy()
        for chunk in range(firing.chunks)
    ]
    x = np.concatenate(chunks, axis=-2)
    if x.ndim == 3:
        return x
    groups, turns, rows, cells = x.shape
    wide = x[:, :, :, None, :] * np.eye(turns)[None, :, None, :, None]
    return wide.reshape(groups, turns * rows, turns * cells)[:, :, : shape.fan_in]


# --- balanced noise -----------------------------------------------------------------------------


def assert_balanced(noise: Orthogonal, shape: Any) -> None:
    """X^T X = b std^2 I in every group, and every cell's power is the plan's."""
    x = fired(noise, shape).astype("float64")
    firing = noise.plan(shape)
    cells = firing.shape[-1]
    assert firing.power == pytest.approx(cells * noise.std**2)
    for of_group in x:
        error = of_group.T @ of_group - firing.power * np.eye(shape.fan_in)
        assert np.abs(error).max() < ROUNDING * cells * noise.std**2


@pytest.mark.parametrize("fan_in", [1, 2, 3, 7, 8, 9, 63, 64, 65])
@pytest.mark.parametrize("block", [1, 2, 7, 64, 10**6])
def test_orthogonal_sweep_is_an_orthogonal_basis_for_any_fan_in(fan_in: int, block: int) -> None:
    assert_balanced(Orthogonal(block=block, std=0.5), field(fan_in))


@pytest.mark.slow
@pytest.mark.parametrize("fan_in", [4, 5, 6, 10, 11, 12, 27, 100, 127, 147, 200, 576])
@pytest.mark.parametrize("block", [1, 2, 7, 64, 10**6])
def test_orthogonal_sweep_is_an_orthogonal_basis_for_more_fan_ins(fan_in: int, block: int) -> None:
    assert_balanced(Orthogonal(block=block, std=0.5), field(fan_in))


@pytest.mark.parametrize("fan_in", [1, 9, 147])
def test_impulse_sweep_fires_every_cell_alone_once(fan_in: int) -> None:
    x = fired(Impulse(std=2.0), field(fan_in))[0]
    assert np.array_equal(np.abs(x), 2.0 * np.eye(fan_in))


def test_groups_fire_balanced_noise_with_signs_of_their_own() -> None:
    shape = field(18, groups=5)
    assert_balanced(Orthogonal(block=6), shape)
    x = fired(Orthogonal(block=6), shape)
    assert not any(np.array_equal(x[0], other) for other in x[1:])


@pytest.mark.parametrize("size", [1, 2, 64, 4096])
def test_basis_of_a_power_of_two_is_hadamard(size: int) -> None:
    rows = tf.constant(np.unique(np.linspace(0, size - 1, 40).astype("int32")))
    entries = orthogonal_rows(rows, tf.range(size), size).numpy().astype("float64")
    assert set(np.unique(entries)) <= {-1.0, 1.0}
    assert np.array_equal(entries @ entries.T, size * np.eye(len(rows)))


@pytest.mark.parametrize("size", [3, 147, 4608, 25088])
def test_other_bases_are_cosines_exact_at_any_order(size: int) -> None:
    rows = np.unique(np.linspace(0, size - 1, 40).astype("int32"))
    j = np.arange(size)
    expected = np.sqrt(2) * np.cos(np.pi * rows[:, None] * (2.0 * j + 1) / (2 * size))
    expected[rows == 0] = 1.0
    entries = orthogonal_rows(tf.constant(rows), tf.range(size), size).numpy()
    # float32 keeps about 7 digits of a phase below one period; of a phase up to size^2, none.
    assert np.abs(entries - expected).max() < 2e-6
    # Columns are unit cells: all their squares sum to `size`, seen on a few columns.
    columns = tf.constant(j[:: max(1, size // 8)], tf.int32)
    tall = orthogonal_rows(tf.range(size), columns, size).numpy().astype("float64")
    assert np.abs(tall.T @ tall / size - np.eye(tall.shape[1])).max() < 1e-6


def test_rows_past_the_order_are_silent() -> None:
    assert not orthogonal_rows(tf.constant([6, 7, 100]), tf.range(6), 6).numpy().any()
    assert not orthogonal_rows(tf.constant([8, 9]), tf.range(8), 8).numpy().any()


def test_signs_and_order_of_a_sweep_are_drawn_anew_every_step() -> None:
    noise, shape = Orthogonal(block=16), field(16)
    one, same, other = (fired(noise, shape, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    # Orthogonal columns that change place and sign: their products are no more a diagonal.
    overlap = np.abs(one.T @ other) / 16
    assert np.allclose(overlap.sum(axis=0), 1, atol=1e-5)
    assert np.trace(overlap) < 8
    impulses = [np.diag(fired(Impulse(), field(64), seed)[0]) for seed in (3, 4)]
    assert 10 < np.count_nonzero(impulses[0] != impulses[1]) < 54


# --- independent noise --------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Gaussian, Uniform, Rademacher])
def test_independent_noise_has_its_variance_and_kurtosis_in_every_cell(
    noise: type[IndependentNoise],
) -> None:
    x = fired(noise(std=0.3, samples=40000), field(8))[0].astype("float64")
    # Standard errors at 40,000 samples: mean 0.005, variance 0.007, kurtosis 0.025 std.
    assert np.abs(x.mean(axis=0)).max() / 0.3 < 0.02
    assert np.abs(x.var(axis=0) / 0.09 - 1).max() < 0.03
    kurtosis = (x**4).mean(axis=0) / (x**2).mean(axis=0) ** 2
    assert np.abs(kurtosis - noise.kurtosis).max() < 0.15
    correlation = np.corrcoef(x.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.02
    if noise is Rademacher:
        assert np.array_equal(np.unique(x), np.float32([-0.3, 0.3]))
    if noise is Uniform:
        assert np.abs(x).max() <= 0.3 * np.sqrt(3)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("std", [0.05, 1.0, 3.0])
def test_variance_of_every_cell_is_std_squared(noise: str, std: float) -> None:
    noise = type(noises.get(noise))(std=std)
    shape = field(64)
    firing = noise.plan(shape)
    power = (fired(noise, shape).astype("float64") ** 2).sum(axis=1)
    # While its block fires, a cell of balanced noise has exactly the plan's power.
    tolerance = 1e-5 if noise.balanced else 0.6
    assert np.abs(power / firing.power - 1).max() < tolerance
    assert firing.power == pytest.approx(
        (firing.shape[-1] if noise.balanced else firing.samples) * std**2
    )


@pytest.mark.parametrize("noise", NOISES)
def test_the_same_seed_fires_the_same_and_another_one_does_not(noise: str) -> None:
    noise, shape = noises.get(noise), field(20)
    keras.utils.set_random_seed(1)
    one = fired(noise, shape)
    keras.utils.set_random_seed(2)
    assert np.array_equal(one, fired(noise, shape))
    assert not np.array_equal(one, fired(noise, shape, seed=1))


@pytest.mark.parametrize("noise", slow_but(["orthogonal", "gaussian"], NOISES))
def test_compiled_steps_fire_the_same_noise(noise: str) -> None:
    """Noise is a function of its seed, whether XLA compiles the step or not."""
    mode = MirrorMode(noise)
    (pathway,) = random_pathways(BY_NAME["conv2d"])
    firing = mode.noise.plan(pathway)

    def fire(seed: tf.Tensor) -> tf.Tensor:
        return mode.noise.signals(firing, seed, tf.constant(0))

    seed = tf.constant([3, 4])
    compiled = tf.function(fire, jit_compile=True)(seed)
    np.testing.assert_allclose(compiled, fire(seed), atol=1e-5)


@pytest.mark.parametrize("noise", NOISES)
def test_b_depends_on_seed_step_place_and_nothing_else(noise: str) -> None:
    """Noise with a finite number of samples leaves a trace of what was fired."""
    (pathway,) = random_pathways(BY_NAME["conv2d"])

    def taught(name: str = "a", place: int = 0, **options: Any) -> np.ndarray:
        pathway.feedback_kernel.assign(tf.zeros_like(pathway.feedback_kernel))
        named = dataclasses.replace(pathway, name=name, place=place)
        # A response that cuts small answers off tells orthogonal sweeps apart, too.
        return mirror([named], noise, response_bits=2, **options)[0]

    assert np.array_equal(taught(), taught(name="b"))
    if noise != "impulse":  # One cell at a time: signs and order leave no trace.
        for other in ({"seed": 1}, {"step": 1}, {"place": 1}):
            assert not np.array_equal(taught(), taught(**other)), other


# --- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "fan_in", "samples", "turns_and_cells"),
    [
        (Orthogonal(), 147, 147, (3, 49)),
        (Orthogonal(), 576, 576, (9, 64)),
        (Orthogonal(), 27, 27, (1, 27)),
        (Orthogonal(), 65, 66, (2, 33)),
        (Orthogonal(block=10**6), 4608, 4608, (1, 4608)),
        (Impulse(), 10, 10, (10, 1)),
        (Orthogonal(block=1), 10, 10, (10, 1)),
    ],
)
def test_sweep_fires_each_cell_in_one_of_equal_blocks(
    noise: Orthogonal, fan_in: int, samples: int, turns_and_cells: tuple[int, int]
) -> None:
    firing = noise.plan(field(fan_in))
    assert firing.samples == samples
    assert (firing.shape[1], firing.shape[3]) == turns_and_cells
    assert firing.decay == 1.0


@pytest.mark.parametrize(
    ("fields", "cells"), [(None, 64), (1, 1), (16, 1), (17, 8), (64, 16), (256, 64), (10**6, 64)]
)
def test_a_sweep_costs_a_hundredth_of_the_layers_own_products(
    fields: int | None, cells: int
) -> None:
    firing = Orthogonal().plan(field(640, 32, fields=fields))
    assert firing.shape[1:] == (640 // cells, cells, cells)
    if fields is not None and cells > 1:
        products = 3 * 2 * 32 * fields * 640 * 32
        assert 4 * cells * 640 * 32 <= 0.01 * products or cells == 8
    assert Orthogonal(block=64).plan(field(640, fields=1)).shape[3] == 64


@pytest.mark.parametrize(
    "options", [{"response_noise_std": 0.1}, {"response_bits": 8}, {"respond": lambda p, x: x}]
)
def test_where_answers_are_not_exact_blocks_stay_wide(options: dict[str, Any]) -> None:
    assert MirrorMode(**options).noise == Orthogonal(block=64)
    assert MirrorMode().noise == Orthogonal()
    assert MirrorMode("impulse", **options).noise == Impulse()


@pytest.mark.parametrize("noise", INDEPENDENT)
@pytest.mark.parametrize("fan_in", [1, 27, 576])
@pytest.mark.parametrize("target", [1.0, 12.0, 60.0])
def test_decay_comes_from_the_target_angle_by_the_law(
    noise: str, fan_in: int, target: float
) -> None:
    noise = type(noises.get(noise))(target_angle_deg=target, samples=32)
    firing = noise.plan(field(fan_in))
    excess = {"gaussian": 1.0, "uniform": -0.2, "rademacher": -1.0}[noise.name]
    averaged = 32 * (2 - firing.decay) / firing.decay
    law = np.degrees(np.arctan(np.sqrt(max(fan_in + excess, 0) / averaged)))
    if firing.decay < 1:
        assert law == pytest.approx(target, rel=1e-6)
    else:  # 32 samples alone do better.
        assert law <= target
    assert noise.angle_law_deg(fan_in, averaged) == pytest.approx(law)


def test_decay_set_by_hand_wins() -> None:
    assert Gaussian(decay=0.3, target_angle_deg=1.0).plan(field(50)).decay == 0.3
    assert Orthogonal(decay=0.3).plan(field(50)).decay == 0.3


def test_twelve_degrees_cost_22_samples_per_synapse_of_the_fan_in() -> None:
    """The published bound is 12 degrees; 1 degree costs 3,282 n."""
    assert Gaussian().averaged_samples(10**4) / 10**4 == pytest.approx(22.1, abs=0.1)
    one = Gaussian(target_angle_deg=1.0)
    assert one.averaged_samples(10**4) / 10**4 == pytest.approx(3282, abs=2)


def test_samples_per_step_count_sign_pairs_twice() -> None:
    (pathway,) = random_pathways(BY_NAME["dense_rank2"])
    assert MirrorMode(noise="gaussian").samples(pathway) == 128
    assert MirrorMode(noise="gaussian", sign_pairs=True).samples(pathway) == 256
    assert MirrorMode().samples(pathway) == pathway.fan_in


# --- chunks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", slow_but([15], [1, 15, 40]))
@pytest.mark.parametrize("fan_in", [7, 16, 50])
def test_sweep_in_chunks_is_the_same_sweep(
    fan_in: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise, shape = Orthogonal(block=16), field(fan_in)
    whole = fired(noise, shape)
    monkeypatch.setattr(noises.base, "CHUNK_ELEMENTS", elements)
    assert noise.plan(shape).chunks > 1
    in_chunks = fired(noise, shape)
    assert_balanced(noise, shape)

    def in_order(x: np.ndarray) -> np.ndarray:
        # The last chunk may hold rows past the order, which are silent. Cosines may differ in the
        # last digit between shapes.
        rows = np.round(x[0][x[0].any(axis=1)], 4) + 0.0
        return rows[np.lexsort(rows.T)]

    np.testing.assert_allclose(in_order(in_chunks), in_order(whole), atol=2e-4)


@pytest.mark.parametrize("noise", ["orthogonal", "impulse", Gaussian(samples=2000, decay=1.0)])
@pytest.mark.parametrize(
    "name", slow_but(["conv2d_groups"], ["conv2d_groups", "dense_rank2", "depthwise2d"])
)
def test_b_taught_in_chunks_is_b_taught_at_once(
    noise: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pathways = random_pathways(BY_NAME[name])
    (whole,) = mirror(pathways, noise)
    elements = 20 if noises.get(noise).balanced else 4000
    monkeypatch.setattr(noises.base, "CHUNK_ELEMENTS", elements)
    plan = noises.get(noise).plan(pathways[0])
    assert plan.chunks > 1 or noise == "impulse"
    (in_chunks,) = mirror(pathways, noise)
    if noises.get(noise).balanced:
        assert relative(in_chunks, whole) < 1e-6
    else:  # Other draws, as many of them.
        assert plan.samples >= 2000
        w = pathways[0].kernel
        law = noise.angle_law_deg(pathways[0].fan_in, 2000)
        assert angle(in_chunks, w) < 2 * law
        assert 0 < angle(in_chunks, whole) < 3 * law


def test_chunks_of_independent_noise_fire_different_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noises.base, "CHUNK_ELEMENTS", 100)
    x = fired(Gaussian(samples=40), field(10))[0]
    assert len(np.unique(x)) == x.size
    assert x.shape == (40, 10)


# --- a noise of one's own -----------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="my_package")
@dataclasses.dataclass(frozen=True)
class Laplace(IndependentNoise):
    """Heavy tails: kurtosis 6."""

    name = "laplace"
    kurtosis = 6.0

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """Differences of two exponential draws, of variance 1."""
        u = tf.random.stateless_uniform((2, *shape), seed, 1e-7, 1.0)
        return (tf.math.log(u[0]) - tf.math.log(u[1])) / np.sqrt(2)


@dataclasses.dataclass(frozen=True)
class OneByOne(Noise):
    """Balanced noise from nothing but the two methods of `Noise`: all cells, the identity."""

    name = "one_by_one"
    balanced = True

    def plan(self, pathway: tfwm.pathway.Pathway) -> noises.Firing:
        """A sweep, at full width."""
        n = pathway.fan_in
        return noises.Firing((pathway.groups, n, n), 1, n, self.std**2, 1.0)

    def signals(self, firing: noises.Firing, seed: tf.Tensor, chunk: tf.Tensor) -> tf.Tensor:
        """The identity in every group."""
        return tf.broadcast_to(self.std * tf.eye(firing.shape[-1]), firing.shape)


def small_model() -> keras.Model:
    """Two `weight_mirror` layers."""
    dense = tfwm.layers.FeedbackDense
    model = keras.Sequential([keras.Input((20,)), dense(30, name="one"), dense(40, name="two")])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("identifier", [OneByOne(), OneByOne])
def test_balanced_noise_of_ones_own_teaches_exactly(identifier: Any) -> None:
    assert max(tfwm.mirror_model(small_model(), identifier).values()) < 1e-4


def test_independent_noise_of_ones_own_meets_the_law_and_its_target() -> None:
    noise = Laplace(target_angle_deg=20.0)
    angles = tfwm.mirror_model(small_model(), noise, steps=100)
    assert all(15 < angle < 25 for angle in angles.values())
    named = tfwm.mirror_model(small_model(), "my_package>Laplace", steps=200)
    assert all(8 < angle < 16 for angle in named.values())


def test_noise_of_ones_own_works_in_the_callback() -> None:
    model, x = small_model(), np.ones((8, 20), "float32")
    callback = tfwm.callbacks.WeightMirror(OneByOne())
    model.fit(x, np.ones((8, 40)), batch_size=4, verbose=0, callbacks=[callback])
    assert max(tfwm.weight_angles(model).values()) < 1e-4
    callback = tfwm.callbacks.WeightMirror(Laplace(target_angle_deg=20.0, samples=2000))
    model.fit(x, np.ones((8, 40)), batch_size=4, verbose=0, callbacks=[callback])
    assert all(1 < angle < 25 for angle in tfwm.weight_angles(model).values())


@pytest.mark.parametrize("kind", [noises.Gaussian, noises.Uniform, noises.Orthogonal])
def test_options_have_names_so_that_none_is_taken_for_another(kind: Any) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(2_000)  # meant as samples, and once the standard deviation


@pytest.mark.parametrize(
    "noise",
    [
        Orthogonal(block=8, decay=0.5, std=2.0),
        Impulse(decay=0.25),
        Gaussian(samples=3, decay=0.1),
        Uniform(target_angle_deg=30.0),
        Rademacher(std=0.1),
        Laplace(samples=7),
    ],
)
def test_noise_survives_its_keras_config(noise: Noise) -> None:
    assert noises.get(keras.saving.serialize_keras_object(noise)) == noise


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gaussian(std=-1.0), r"standard deviation .* positive, finite .* std=-1\.0"),
        (lambda: Gaussian(std=0.0), r"positive, finite .* std=0\.0"),
        (lambda: Uniform(std=float("nan")), r"positive, finite .* std=nan"),
        (lambda: Orthogonal(std=float("inf")), r"positive, finite .* std=inf"),
        (lambda: Impulse(std=-0.5), r"positive, finite .* std=-0\.5"),
        (lambda: Gaussian(target_angle_deg=0.0), r"between 0 and 90 degrees.*Received: 0\.0"),
        (lambda: Gaussian(target_angle_deg=90.0), r"between 0 and 90 degrees.*Received: 90\.0"),
        (lambda: Gaussian(target_angle_deg=100), r"between 0 and 90 degrees.*Received: 100"),
        (lambda: Gaussian(target_angle_deg=-1), r"between 0 and 90 degrees.*Received: -1"),
        (lambda: Gaussian(target_angle_deg=float("nan")), r"between 0 and 90 degrees.*nan"),
        (lambda: Rademacher(samples=0), r"samples of mirror noise .* at least 1\. Received: 0"),
        (lambda: Rademacher(samples=1.5), r"samples .* whole number.* Received: 1\.5"),
        (lambda: Gaussian(samples="128"), r"samples .* whole number.* Received: '128'"),
        (lambda: Gaussian(decay="slow"), r"decay of mirror noise .* Received: 'slow'"),
        (lambda: Gaussian(target_angle_deg="10"), r"between 0 and 90 degrees.*Received: '10'"),
        (lambda: Orthogonal(block=2.5), r"block .* whole number of cells.* Received: 2\.5"),
        (lambda: MirrorMode(seed="one"), r"seed .* whole number\. Received: 'one'"),
        (lambda: Gaussian(decay=0.0), r"decay of mirror noise .* \(0, 1\]\. Received: 0\.0"),
        (lambda: Gaussian(decay=1.5), r"decay of mirror noise .* \(0, 1\]\. Received: 1\.5"),
        (lambda: Orthogonal(decay=0), r"decay of mirror noise .* \(0, 1\]\. Received: 0"),
        (lambda: Orthogonal(decay=1.5), r"decay of mirror noise .* \(0, 1\]\. Received: 1\.5"),
        (lambda: Impulse(decay=-0.1), r"decay of mirror noise .* \(0, 1\]\. Received: -0\.1"),
        (lambda: Orthogonal(block=0), r"block .* at least 1 cell\. Received: 0"),
        (lambda: noises.get("gausian"), r"'gausian' is not known\. Known: orthogonal, impulse"),
        (lambda: noises.get(3), r"mirror noise 3 is not known"),
        (lambda: MirrorMode(noise="pink"), r"'pink' is not known"),
        (lambda: tfwm.callbacks.WeightMirror("pink"), r"'pink' is not known"),
        (lambda: MirrorMode(norm="clip"), r"'decay', 'scaling' or None\. Received: 'clip'"),
        (lambda: MirrorMode(centre=True), r"centre=True .* sign_pairs=True with orthogonal"),
        (lambda: MirrorMode(response_noise_std=-0.1), r"response_noise_std .* Received: -0\.1"),
        (lambda: MirrorMode(response_noise_std=float("nan")), r"response_noise_std .* nan"),
        (
            lambda: MirrorMode(response_bits=0),
            r"response_bits .* at least 1, or None\. Received: 0",
        ),
        (lambda: MirrorMode(dead_cells=1.0), r"dead_cells .* \[0, 1\)\. Received: 1\.0"),
        (lambda: MirrorMode(dead_cells=-0.1), r"dead_cells .* Received: -0\.1"),
        (lambda: MirrorMode(eta=0.0), r"eta .* positive number or None\. Received: 0\.0"),
        (lambda: MirrorMode(eta=float("inf")), r"eta .* Received: inf"),
        (lambda: MirrorMode(activations={"*": "relu"}), r"through_activation is False"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
