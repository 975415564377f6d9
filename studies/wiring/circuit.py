"""Neurons that find one another by ligands and receptors (Xiao et al. 2018, 4.3, fig. 4).

An axon with ligand X makes synapses on every neuron with receptor X and on no other one. Every
neuron is consistent: all its synapses have one sign.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np


def synapses(ligands: np.ndarray, receptors: np.ndarray) -> np.ndarray:
    """Bool (axons, neurons): which axon reaches which neuron.

    Args:
        ligands: bool (axons, pairs).
        receptors: bool (neurons, pairs).
    """
    return (ligands[:, None] & receptors[None]).any(axis=-1)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """What the units of two layers express, as bool (units, pairs).

    A unit above has three neurons in the forward path: one that excites its output, one that
    inhibits it, and the output; and three in the feedback path: one that hears the errors from
    above, one that excites and one that inhibits the units below. It expresses two sets of pairs,
    each twice: as receptors forward, as ligands in the feedback path.

    Attributes:
        below: Of each unit below: ligands of its forward axon, receptors of its feedback neuron.
        plus: Of each unit above: receptors of its exciting neuron, ligands of its exciting axon.
        minus: The same of the inhibiting ones.
    """

    below: np.ndarray
    plus: np.ndarray
    minus: np.ndarray

    @property
    def pairs(self) -> int:
        """How many ligand-receptor pairs there are."""
        return int(self.below.shape[1])

    @property
    def forward(self) -> np.ndarray:
        """Sum of the signs of synapses from unit i below to unit j above, (n_in, n_out)."""
        excites, inhibits = (synapses(self.below, side) for side in (self.plus, self.minus))
        return excites.astype(int) - inhibits

    @property
    def feedback(self) -> np.ndarray:
        """The same from unit j above to unit i below, (n_out, n_in)."""
        excites, inhibits = (synapses(side, self.below) for side in (self.plus, self.minus))
        return excites.astype(int) - inhibits


def a_pair_for_each_input(signs: np.ndarray) -> Wiring:
    """Fig. 4 a: units of any signs. The paper's count: n_in pairs.

    Args:
        signs: (n_in, n_out) of -1, 0 (no synapse) and 1.
    """
    return Wiring(np.eye(len(signs), dtype=bool), signs.T > 0, signs.T < 0)


def two_pairs_for_each_output(signs: np.ndarray) -> Wiring:
    """Units of any signs by 2 n_out pairs, which are fewer where a layer narrows to less than half.

    Arguments as of `a_pair_for_each_input`.
    """
    n_out = signs.shape[1]
    one, none = np.eye(n_out, dtype=bool), np.zeros((n_out, n_out), bool)
    below = np.concatenate([signs > 0, signs < 0], axis=1)
    return Wiring(below, np.concatenate([one, none], axis=1), np.concatenate([none, one], axis=1))


def two_pairs(signs: np.ndarray) -> Wiring:
    """Fig. 4 b: consistent units, each with one sign for all units above. Two pairs.

    Args:
        signs: (n_in, n_out) of -1 and 1, rows constant.
    """
    if not (signs == signs[:, :1]).all() or not signs.all():
        raise ValueError(
            "Two pairs wire units of one sign each: rows of -1 or of 1. Received rows of both, or "
            "with 0."
        )
    positive = signs[:, 0] > 0
    above = np.zeros((signs.shape[1], 2), bool)
    return Wiring(
        np.stack([positive, ~positive], axis=1), above | [True, False], above | [False, True]
    )


def least_pairs(signs: np.ndarray) -> int:
    """The least number of pairs that can wire `signs`, (n_in, n_out), by trying all.

    For given ligands below, a neuron above can have no more receptors than those of ligands whose
    axons shall all reach it, and loses nothing by having these.
    """
    n_in = len(signs)
    wanted = np.concatenate([signs > 0, signs < 0], axis=1)
    sets = [np.array(bits, bool) for bits in itertools.product([False, True], repeat=n_in)]
    for pairs in range(n_in):
        for chosen in itertools.combinations(sets, pairs):
            ligands = np.array(chosen, bool).reshape(pairs, n_in).T
            receptors = (~ligands[:, None] | wanted[:, :, None]).all(axis=0)
            if (synapses(ligands, receptors) == wanted).all():
                return pairs
    return n_in  # a_pair_for_each_input


def least_pairs_for_all(n_in: int, n_out: int, *, consistent: bool = False) -> int:
    """The least number that wires every matrix of signs of this shape, each by pairs of its own."""
    free = n_in if consistent else n_in * n_out
    matrices = (
        np.broadcast_to(np.array(bits).reshape(n_in, -1), (n_in, n_out))
        for bits in itertools.product([-1, 1], repeat=free)
    )
    return max(least_pairs(signs) for signs in matrices)
