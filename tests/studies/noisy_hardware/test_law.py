"""The law is what is measured, and at its ends the closed forms of docs/noisy_hardware.md."""

import math

import numpy as np
import pytest
import tensorflow as tf

from studies.noisy_hardware.angles import angles
from studies.noisy_hardware.bases import BASES
from studies.noisy_hardware.chip import Chip, Faults, scale
from studies.noisy_hardware.law import law_deg, settled_deg
from tests.mirror.mirroring import angle, wide_pathway
from tfweightmirror.pathway import Pathway

N = 128
BLOCK = {"impulse": 1, "blocks of 64": 64, "all cells": N}


def law(faults: Faults, basis: str, steps: float, pathway: Pathway | None = None) -> float:
    pathway = pathway or wide_pathway(N, 40)
    return law_deg(Chip(faults, 0), pathway, BASES[basis], [steps])[0]


def degrees(tangent: float) -> float:
    return math.degrees(math.atan(tangent))


def biases(chip: Chip, pathway: Pathway) -> np.ndarray:
    """The constants that stand on the answers."""
    return np.asarray(chip.before_noise(pathway, tf.zeros((1, pathway.fan_out), tf.float64)))[0]


@pytest.mark.parametrize("basis", BLOCK)
def test_noise_costs_the_root_of_turns_over_sweeps(basis: str) -> None:
    for steps in (1, 5):
        expected = degrees(0.2 * math.sqrt(N / BLOCK[basis] / steps))
        assert law(Faults(noise=0.2), basis, steps) == pytest.approx(expected)


@pytest.mark.parametrize("basis", BLOCK)
def test_biases_cost_as_noise_of_their_size_does(basis: str) -> None:
    pathway, chip = wide_pathway(N, 40), Chip(Faults(bias=0.2), 0)
    size = np.sqrt(np.mean(biases(chip, pathway) ** 2)) / float(scale(pathway.kernel))
    for steps in (1, 5):
        expected = law(Faults(noise=float(size)), basis, steps, pathway)
        assert law(Faults(bias=0.2), basis, steps, pathway) == pytest.approx(expected, rel=1e-3)
    if basis == "all cells":
        assert law(Faults(bias=0.2), "all cells, pairs", 1, pathway) < 1e-3


def test_independent_noise_has_the_angle_law_and_pays_for_noise_in_the_same_coin() -> None:
    assert law(Faults(), "independent", 5) == pytest.approx(degrees(math.sqrt((N + 1) / N / 5)))
    noisy = degrees(math.sqrt((N + 1 + N * 0.5**2) / N / 5))
    assert law(Faults(noise=0.5), "independent", 5) == pytest.approx(noisy)


@pytest.mark.parametrize("basis", BLOCK)
def test_relu_costs_a_sweep_45_degrees_and_pairs_nothing(basis: str) -> None:
    assert law(Faults(relu=True), basis, 1) == pytest.approx(45)
    assert law(Faults(relu=True), basis, 4) == pytest.approx(degrees(0.5))
    assert law(Faults(relu=True), "all cells, pairs", 1) < 1e-3
    noisy = law(Faults(relu=True, noise=0.1), "all cells, pairs", 1)
    assert noisy == pytest.approx(degrees(0.2 / math.sqrt(2)), rel=1e-3)


def test_biases_in_front_of_relu_leave_the_floor_of_mean_slopes() -> None:
    pathway, chip = wide_pathway(N, 400), Chip(Faults(relu=True, bias=1.0), 0)
    w = pathway.kernel.numpy()
    ratio = biases(Chip(Faults(bias=1.0), 0), pathway) / np.linalg.norm(w, axis=0)
    slopes = np.array([0.5 * (1 + math.erf(r / math.sqrt(2))) for r in ratio])
    floor = angle(w, w * slopes.astype("float32"))
    assert 20 < floor < 45
    for basis in ("all cells", "all cells, pairs", "independent"):
        assert law_deg(chip, pathway, BASES[basis], [1e9])[0] == pytest.approx(floor, abs=0.1)


def test_rounding_is_noise_of_a_twelfth_of_a_step_squared() -> None:
    """Full scale is 4 scales: a step of 8 / 2^bits, its square over 12."""
    for basis, turns in (("all cells", 1), ("blocks of 64", 2)):
        expected = degrees(8 / 2**6 / math.sqrt(12) * math.sqrt(turns))
        assert law(Faults(bits=6), basis, 1) == pytest.approx(expected, rel=0.01)


def test_impulses_round_alike_in_every_sweep_so_that_none_helps() -> None:
    once, often = (law(Faults(bits=5), "impulse", steps) for steps in (1, 1000))
    assert once == pytest.approx(often)
    assert once > 20
    assert law(Faults(bits=5), "all cells", 1000) < 0.2


@pytest.mark.parametrize("fault", ["dead_answers", "dead_senders"])
def test_dead_cells_are_a_factor_of_the_cosine(fault: str) -> None:
    pathway = wide_pathway(N, 400)
    faults = Faults(**{fault: 0.25})
    exact = math.cos(math.radians(law(faults, "all cells", 1, pathway)))
    assert exact**2 == pytest.approx(0.75, abs=0.01)
    independent = math.cos(math.radians(law(faults, "independent", 1, pathway)))
    assert independent**2 == pytest.approx(0.75 / 2, abs=0.01)


@pytest.mark.parametrize(
    ("faults", "basis"),
    [
        (Faults(noise=0.3), "blocks of 64"),
        (Faults(bits=3), "impulse"),
        (Faults(relu=True, bias=0.5), "all cells"),
        (Faults(dead_senders=0.2, noise=0.1), "independent"),
    ],
)
def test_law_is_what_is_measured(
    faults: Faults, basis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.noisy_hardware.angles.STEPS", (1, 8))
    pathway = wide_pathway(N, 400)
    point = angles(lambda: pathway, faults, basis, 0)
    assert point["sweeps"] == [1, 8]
    # One chip and one draw of noise: through a ReLU with biases they scatter by 5 %.
    assert point["angle_deg"] == pytest.approx(point["law_deg"], rel=0.06)
    assert point["angle_deg"][0] > 5


@pytest.mark.parametrize("step_deg", [0.0, 20.0, 46.0, 78.0])
def test_under_synaptic_scaling_the_angle_settles_at_the_root_of_its_cubic(step_deg: float) -> None:
    random, decay = np.random.default_rng(0), 0.1
    w = random.normal(size=4000)
    b, angles_after = random.normal(size=w.size), []
    for step in range(150):
        noise = math.tan(math.radians(step_deg)) * random.normal(size=w.size)
        grown = b + decay * (w + noise)
        b = grown * np.linalg.norm(w) / np.linalg.norm(grown)
        if step >= 100:
            cosine = b @ w / np.linalg.norm(b) / np.linalg.norm(w)
            angles_after.append(math.degrees(math.acos(min(1.0, cosine))))
    assert np.mean(angles_after) == pytest.approx(settled_deg(step_deg, decay), rel=0.02, abs=0.01)
