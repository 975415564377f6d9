"""Xiao et al. 2018, fig. 4: by ligands and receptors, feedback synapses have the forward signs."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from studies.wiring.__main__ import main
from studies.wiring.circuit import (
    Wiring,
    a_pair_for_each_input,
    least_pairs,
    least_pairs_for_all,
    synapses,
    two_pairs,
    two_pairs_for_each_output,
)

random = np.random.default_rng(0)
MIXED = random.choice([-1, 0, 1], (30, 7))
ROWS = np.broadcast_to(random.choice([-1, 1], (30, 1)), (30, 7))


@pytest.mark.parametrize(
    ("scheme", "signs", "pairs"),
    [
        (a_pair_for_each_input, MIXED, 30),
        (two_pairs_for_each_output, MIXED, 14),
        (a_pair_for_each_input, ROWS, 30),
        (two_pairs, ROWS, 2),
    ],
)
def test_forward_and_feedback_synapses_have_the_same_sign(
    scheme: Callable[[np.ndarray], Wiring], signs: np.ndarray, pairs: int
) -> None:
    wiring = scheme(signs)
    assert wiring.pairs == pairs
    np.testing.assert_array_equal(wiring.forward, signs)
    np.testing.assert_array_equal(wiring.feedback, signs.T)
    # Nobody both excites and inhibits the same unit.
    assert not (synapses(wiring.plus, wiring.below) & synapses(wiring.minus, wiring.below)).any()


def test_a_receptor_more_is_a_wrong_synapse_in_both_directions() -> None:
    wiring = a_pair_for_each_input(MIXED)
    wiring.plus[2, 4] ^= True
    assert np.argwhere(wiring.forward != MIXED).tolist() == [[4, 2]]
    assert np.argwhere(wiring.feedback != MIXED.T).tolist() == [[2, 4]]


def test_errors_on_such_wires_are_those_of_sign_symmetry() -> None:
    layer = tfwm.layers.FeedbackDense(7, rule=tfwm.rules.SignSymmetry(scale=1.0))
    x = tf.constant(random.normal(size=(5, 30)), "float32")
    errors = random.normal(size=(5, 7)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    carried = tape.gradient(y, x, output_gradients=tf.constant(errors))
    wiring = a_pair_for_each_input(np.sign(layer.kernel.numpy()).astype(int))
    np.testing.assert_allclose(carried, errors @ wiring.feedback, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("n_in", "n_out", "all_signs"), [(2, 1, 2), (3, 1, 2), (2, 2, 2), (3, 2, 3), (3, 3, 3)]
)
def test_the_least_number_of_pairs_is_that_of_the_cheaper_scheme(
    n_in: int, n_out: int, all_signs: int
) -> None:
    assert least_pairs_for_all(n_in, n_out) == all_signs == min(n_in, 2 * n_out)
    assert least_pairs_for_all(n_in, n_out, consistent=True) == 2


def test_one_positive_synapse_a_unit_needs_a_pair_for_each_input() -> None:
    """As many outputs as inputs: an axon that shared a pair would reach another's neuron."""
    for size in (2, 3, 4):
        assert least_pairs(2 * np.eye(size, dtype=int) - 1) == size
    assert least_pairs(np.ones((4, 3), int)) == 1


def test_two_pairs_refuse_units_of_both_signs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Received rows of both"):
        two_pairs(MIXED)
    assert main() == 0
    assert "20 pairs, 5000 synapses each way, 0 of a wrong sign" in capsys.readouterr().out
