"""A chip has the faults that it says, and no others."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from studies.noisy_hardware.chip import HEADROOM, Chip, Faults, converted, scale
from tests.mirror.mirroring import mirror, relative, wide_pathway
from tfweightmirror.mirror.noise import Gaussian, Impulse, Orthogonal
from tfweightmirror.pathway import Pathway

# 7 + 7 + 6 cells: the last turn has a cell that does not exist.
IN_TURNS = Orthogonal(block=8)


def layer() -> Pathway:
    return wide_pathway(20, 30, bias=np.linspace(-1, 1, 30))


def level(pathway: Pathway) -> float:
    return float(scale(pathway.as_matrices(pathway.kernel)))


def signals(pathway: Pathway, samples: int = 400) -> tf.Tensor:
    return tf.random.stateless_normal((1, samples, pathway.fan_in), (3, 4))


def learnt(pathway: Pathway, faults: Faults, noise: Any, seed: int = 0) -> np.ndarray:
    """B after a mirror step that listened to the chip."""
    return mirror([pathway], noise, respond=Chip(faults, seed).respond)[0]


def test_scale_is_the_size_of_answers_when_all_cells_fire() -> None:
    pathway = layer()
    answers = pathway.respond(signals(pathway, 4000)).numpy()
    assert np.sqrt((answers**2).mean()) == pytest.approx(level(pathway), rel=0.02)


@pytest.mark.parametrize("shape", [(1, 500, 20), (1, 4, 125, 5)], ids=["together", "in_turns"])
def test_noise_has_the_size_that_it_says_and_is_another_one_every_time(
    shape: tuple[int, ...],
) -> None:
    pathway = layer()
    chip, x = Chip(Faults(noise=0.3), seed=1), tf.random.stateless_normal(shape, (3, 4))
    first, second = (chip.respond(pathway, x) - pathway.respond(x) for _ in range(2))
    for errors in (first.numpy(), second.numpy()):
        assert errors.std() == pytest.approx(0.3 * level(pathway), rel=0.03)
        assert abs(errors.mean()) < 0.01 * level(pathway)
    assert abs(np.corrcoef(first.numpy().ravel(), second.numpy().ravel())[0, 1]) < 0.03
    again = Chip(Faults(noise=0.3), seed=1).respond(pathway, x) - pathway.respond(x)
    np.testing.assert_array_equal(again, first)


def test_noise_is_not_frozen_into_a_compiled_mirror() -> None:
    dense = tfwm.layers.FeedbackDense(30, rule="weight_mirror", name="dense")
    model = keras.Sequential([keras.Input((20,)), dense])
    (pathway,) = tfwm.pathways(model)
    chip, errors = Chip(Faults(noise=0.3), seed=1), []
    for _ in range(2):
        tfwm.mirror_model(model, "impulse", respond=chip.respond, first_step=0)
        errors.append((pathway.feedback_kernel - pathway.kernel).numpy().ravel())
    assert errors[0].std() == pytest.approx(0.3 * level(pathway), rel=0.1)
    assert abs(np.corrcoef(*errors)[0, 1]) < 0.15


@pytest.mark.parametrize("noise", [Impulse(), IN_TURNS, Orthogonal(block=20)])
def test_column_of_a_dead_answer_gets_nothing_and_the_others_are_exact(noise: Any) -> None:
    pathway = layer()
    faults = Faults(dead_answers=0.3)
    b = learnt(pathway, faults, noise)
    dead = ~b.any(axis=0)
    assert dead.sum() == 9
    np.testing.assert_array_equal(dead, Chip(faults, 0).alive_answers(pathway) == 0)
    assert relative(b[:, ~dead], pathway.kernel.numpy()[:, ~dead]) < 1e-5
    assert not np.array_equal(dead, ~learnt(pathway, faults, noise, seed=1).any(axis=0))


@pytest.mark.parametrize("noise", [Impulse(), IN_TURNS, Orthogonal(block=20)])
def test_row_of_a_dead_sender_gets_nothing_and_the_others_are_exact(noise: Any) -> None:
    pathway = layer()
    faults = Faults(dead_senders=0.25)
    b, w = learnt(pathway, faults, noise), pathway.kernel.numpy()
    alive = Chip(faults, 0).alive_senders(pathway).numpy()
    assert alive.sum() == 15
    assert relative(b, w * alive[:, None]) < 1e-5


def test_biases_are_constants_of_the_size_that_they_say() -> None:
    pathway = wide_pathway(20, 2000)
    x = signals(pathway, 5)
    added = (Chip(Faults(bias=0.4), 0).respond(pathway, x) - pathway.respond(x)).numpy()[0]
    np.testing.assert_allclose(added, np.broadcast_to(added[0], added.shape), atol=1e-4)
    assert added[0].std() == pytest.approx(0.4 * level(pathway), rel=0.05)


def test_own_bias_and_relu_come_in_the_order_of_a_layer() -> None:
    pathway, x = layer(), signals(layer())
    heard = Chip(Faults(own_bias=True, relu=True), 0).respond(pathway, x)
    expected = tf.nn.relu(pathway.respond(x) + pathway.bias.value)
    np.testing.assert_allclose(heard, expected, atol=1e-5)


def test_converter_has_as_many_levels_as_its_bits_and_errs_by_half_a_step() -> None:
    y = np.linspace(-0.999, 0.999, 5001)
    for bits in (1, 2, 5):
        read = converted(tf.constant(y), bits, 1.0).numpy()
        assert len(np.unique(read)) == 2**bits
        assert np.abs(read - y).max() <= 1.0001 / 2**bits
    assert converted(tf.constant([9.0]), 2, 1.0).numpy() == pytest.approx(0.75)


@pytest.mark.parametrize("matched", [True, False])
def test_gain_follows_the_answers_or_stays(matched: bool) -> None:
    """Ten times fainter signals: a tenth of the steps, or the same ones."""
    pathway, x = layer(), signals(layer())
    chip = Chip(Faults(bits=6, matched_gain=matched), 0)
    steps = []
    for amplitude in (1.0, 0.1):
        heard = np.unique(chip.respond(pathway, amplitude * x))
        steps.append(np.diff(heard).min())
    assert steps[0] == pytest.approx(2 * HEADROOM * level(pathway) / 2**6, rel=0.05)
    assert steps[1] / steps[0] == pytest.approx(0.1 if matched else 1.0, rel=0.01)


def test_restarted_chip_is_the_chip_of_that_seed_in_a_compiled_program_too() -> None:
    pathway, x = layer(), signals(layer(), 5)
    faults = Faults(noise=0.1, bias=0.5, dead_answers=0.3, dead_senders=0.2)
    chip = Chip(faults, 0)
    compiled = tf.function(lambda: chip.respond(pathway, x))
    first = compiled().numpy()
    chip.restart(7)
    second = compiled().numpy()
    np.testing.assert_allclose(second, Chip(faults, 7).respond(pathway, x), atol=1e-5)
    chip.restart(0)
    np.testing.assert_array_equal(compiled(), first)
    assert not np.allclose(first, second)


def test_no_fault_is_no_fault() -> None:
    pathway = layer()
    x = signals(pathway)
    np.testing.assert_array_equal(Chip(Faults(), 0).respond(pathway, x), pathway.respond(x))
    b = learnt(pathway, Faults(), Gaussian(samples=64, decay=1.0))
    np.testing.assert_array_equal(b, mirror([pathway], Gaussian(samples=64, decay=1.0))[0])


@pytest.mark.parametrize(
    "wrong", [{"noise": -1.0}, {"bias": float("nan")}, {"bits": 0}, {"dead_answers": 1.0}]
)
def test_faults_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} is .* Expected"):
        Faults(**wrong)
