"""Simulates the output-error circuit of Amit 2018 over fields: `python -m studies.output_error`."""

from __future__ import annotations

import sys

import numpy as np

from studies.output_error.circuit import Circuit

FIELDS = (-4.0, -1.01, -0.99, 0.0, 0.99, 1.01, 4.0)


def main() -> int:
    circuit, fields = Circuit(), np.array(FIELDS)
    print("| | " + " | ".join(f"h = {field:g}" for field in FIELDS) + " |")
    print("|---" * (len(FIELDS) + 1) + "|")
    for name, is_shown in (("shown", True), ("not shown", False)):
        shown = np.full(fields.shape, is_shown)
        turns = circuit.run(fields, shown)[-2:]
        cells = (
            f"{one:g}" if one == two else f"{one:g} and {two:g} in turns" for one, two in turns.T
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
