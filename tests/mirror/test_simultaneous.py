"""All layers fire at once: docs/science.md, "Layers that fire at once"."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.mirror.mirroring import angle, independent, mirror, model_of
from tests.mirror.test_laws import SOME, WIDE, law_deg, root_mean_square, unit_columns
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.noise import Gaussian, IndependentNoise, Orthogonal, Rademacher
from tfweightmirror.mirror.step import compiled_mirror, mirror_pathways
from tfweightmirror.pathway import Pathway

KURTOSIS = {"gaussian": 3.0, "uniform": 1.8, "rademacher": 1.0}


def excess(pathway: Pathway, kurtosis: float = 3.0) -> float:
    """N tan^2(angle) by the law."""
    own = 1.0 / np.mean(np.square(pathway.kernel.numpy()))
    return float(pathway.fan_in + kurtosis - 2 + own)


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"]
)
def wide_model(request: pytest.FixtureRequest) -> keras.Model:
    """Some or all kinds of layers, with many columns; answers of variance 1, 1/2 or 2."""
    model = model_of(kind for kind in WIDE if request.param or kind.name in SOME)
    random = np.random.default_rng(0)
    for place, pathway in enumerate(mirror_pathways(model)):
        variance = (1.0, 0.5, 2.0)[place % 3] / pathway.fan_in
        pathway.kernel.assign(variance**0.5 * random.normal(size=pathway.kernel.shape))
    return model


@pytest.mark.parametrize(
    ("noise", "samples"),
    [
        ("gaussian", 400),
        pytest.param("uniform", 100, marks=pytest.mark.slow),
        pytest.param("rademacher", 1600, marks=pytest.mark.slow),
    ],
)
def test_law_of_layers_that_fire_at_once_holds_on_every_layer_kind(
    wide_model: keras.Model, noise: str, samples: int
) -> None:
    pathways = mirror_pathways(wide_model)
    mode = MirrorMode(noise=independent(noise, samples=samples, std=0.5), simultaneous=True)
    run = compiled_mirror(wide_model, pathways, mode)
    found: dict[str, list[float]] = {pathway.name: [] for pathway in pathways}
    for draw in range(20):
        run(tf.constant(draw), tf.constant(1), tf.constant(0))
        for pathway in pathways:
            found[pathway.name].append(angle(pathway.kernel, pathway.feedback_kernel))
    wrong = {}
    for pathway in pathways:
        law = law_deg(excess(pathway, KURTOSIS[noise]), samples)
        rms = root_mean_square(np.tan(np.radians(found[pathway.name])))
        if abs(np.degrees(np.arctan(rms)) - law) > 0.05 * law:
            wrong[pathway.name] = f"{np.degrees(np.arctan(rms)):.3f}, law {law:.3f}"
    assert wrong == {}


@pytest.mark.parametrize("per_fan_in", [1, 5, 22, 100])
def test_answers_of_the_noises_own_size_need_twice_the_samples(per_fan_in: int) -> None:
    pathway = unit_columns(200, 128)  # of length 1
    noise = Gaussian(samples=200 * per_fan_in, decay=1.0)
    angles = [
        angle(mirror([pathway], noise, step=step, simultaneous=True)[0], pathway.kernel)
        for step in range(4)
    ]
    assert root_mean_square(angles) == pytest.approx(law_deg(401, 200 * per_fan_in), rel=0.05)


def test_it_averages_as_the_noise_of_the_firing_cells_under_decay() -> None:
    dense = tfwm.layers.FeedbackDense(256, name="dense", kernel_initializer="he_normal")
    model = keras.Sequential([keras.Input((200,)), dense])
    (pathway,) = mirror_pathways(model)
    noise = Gaussian(samples=200, decay=0.1)
    angles = tfwm.mirror_model(model, noise, steps=80, simultaneous=True)
    assert angles["dense"] == pytest.approx(law_deg(excess(pathway), 200 * 1.9 / 0.1), rel=0.05)


# --- what is heard ------------------------------------------------------------------------------


def silence(pathway: Pathway, signals: tf.Tensor) -> tf.Tensor:
    return 0.0 * pathway.respond(signals)


def heard(**options: Any) -> np.ndarray:
    """B where cells answer nothing, so that their own noise is all that is heard."""
    options = {"noise": Rademacher(samples=3, decay=1.0), "simultaneous": True} | options
    (b,) = mirror([unit_columns(40, 30)], respond=silence, **options)
    return b


def test_next_cells_fire_the_same_kind_of_noise_behind_their_activation() -> None:
    assert not heard(simultaneous=False).any()
    b = heard()
    # The mean of three products of signs.
    np.testing.assert_allclose(np.unique(np.abs(b)), [1 / 3, 1], rtol=1e-6)
    for more in ({"step": 1}, {"seed": 1}):
        assert abs(np.corrcoef(b.ravel(), heard(**more).ravel())[0, 1]) < 0.15
    np.testing.assert_array_equal(heard(through_activation=True, activation=tf.zeros_like), b)
    loud = heard(noise=Rademacher(samples=3, decay=1.0, std=2.0))
    np.testing.assert_allclose(loud, b, rtol=1e-6)


def test_with_sign_pairs_next_cells_fire_pairs_too_and_nothing_is_gained() -> None:
    np.testing.assert_allclose(heard(sign_pairs=True), heard(), rtol=1e-6)


def test_dead_cells_do_not_fire_either() -> None:
    dead = ~heard(dead_cells=0.5).any(axis=0)
    assert 0 < dead.sum() < 30


def test_each_replica_has_noise_of_its_own(two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        dense = tfwm.layers.FeedbackDense(128, name="dense", kernel_initializer="lecun_normal")
        model = keras.Sequential([keras.Input((64,)), dense])
    (pathway,) = mirror_pathways(model)
    mode = MirrorMode(noise=Gaussian(samples=200, decay=1.0), simultaneous=True)
    run = compiled_mirror(model, [pathway], mode)
    angles = []
    for draw in range(10):
        run(tf.constant(draw), tf.constant(1), tf.constant(0))
        angles.append(angle(pathway.kernel, pathway.feedback_kernel))
    assert root_mean_square(angles) == pytest.approx(law_deg(excess(pathway), 400), rel=0.05)


def test_chunks_do_not_hear_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfwm.mirror.noise.base, "CHUNK_ELEMENTS", 200 * 100)
    pathway, noise = unit_columns(200, 128), Gaussian(samples=1000, decay=1.0)
    assert noise.plan(pathway).chunks == 10
    (b,) = mirror([pathway], noise, simultaneous=True)
    assert angle(b, pathway.kernel) == pytest.approx(law_deg(401, 1000), rel=0.05)


# --- what the law leaves out --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DrivenFromBelow(IndependentNoise):
    """Gaussian noise of cells that also pass on what they hear of a layer below."""

    def draw(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        below = unit_columns(200, shape[-1], seed=1).kernel.numpy()
        heard = tf.random.stateless_normal((*shape[:-1], 200), seed) @ below
        return heard + tf.random.stateless_normal(shape, seed + 1)


@pytest.mark.parametrize(("cells", "floor"), [(100, 19.5), (200, 26.6)])
def test_what_firing_cells_hear_from_below_would_leave_a_floor(cells: int, floor: float) -> None:
    """`cos = (1 + g) / sqrt((1 + g)^2 + g^2 n / n_below)`, columns of length 1: g = 1."""
    law = np.degrees(np.arccos(2 / np.sqrt(4 + cells / 200)))
    assert law == pytest.approx(floor, abs=0.05)
    pathway = unit_columns(cells, 256)
    (b,) = mirror([pathway], DrivenFromBelow(samples=40000, decay=1.0))
    assert angle(b, pathway.kernel) == pytest.approx(floor, abs=1.0)


def test_no_law_is_told_and_balanced_noise_is_refused() -> None:
    pathway = unit_columns()
    assert MirrorMode("gaussian", simultaneous=True).predicted_angle_deg(pathway) is None
    assert MirrorMode("gaussian").predicted_angle_deg(pathway) is not None
    for noise in ("orthogonal", Orthogonal(decay=0.1), "impulse"):
        with pytest.raises(ValueError, match=r"only independent noise.* Received: '(orth|imp)"):
            MirrorMode(noise, simultaneous=True)
