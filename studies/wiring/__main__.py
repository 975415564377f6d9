"""Counts the pairs that sign-symmetric wiring needs: `python -m studies.wiring`."""

from __future__ import annotations

import sys

import numpy as np

from studies.wiring.circuit import (
    a_pair_for_each_input,
    least_pairs_for_all,
    two_pairs,
    two_pairs_for_each_output,
)

SMALL = ((2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2), (2, 3), (3, 3))
LARGE = (500, 10)


def main() -> int:
    print("| n_in, n_out | pairs by input | by output | least, all signs | least, consistent |")
    print("|---|---|---|---|---|")
    for n_in, n_out in SMALL:
        least = (least_pairs_for_all(n_in, n_out, consistent=c) for c in (False, True))
        print(f"| {n_in}, {n_out} | {n_in} | {2 * n_out} | " + " | ".join(map(str, least)) + " |")
    signs = np.random.default_rng(0).choice([-1, 1], LARGE)
    rows = np.broadcast_to(signs[:, :1], LARGE)
    for scheme, wanted in (
        (a_pair_for_each_input, signs),
        (two_pairs_for_each_output, signs),
        (two_pairs, rows),
    ):
        wiring = scheme(wanted)
        wrong = (wiring.forward != wanted).sum() + (wiring.feedback != wanted.T).sum()
        name = scheme.__name__.replace("_", " ")
        print(f"\n{LARGE[0]} units below, {LARGE[1]} above, {name}: {wiring.pairs} pairs,", end=" ")
        print(f"{wanted.size} synapses each way, {wrong} of a wrong sign")
    return 0


if __name__ == "__main__":
    sys.exit(main())
