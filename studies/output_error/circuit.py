"""The circuit of Amit 2018, 2.3 (fig. 1 and 2, eq. 8 and 9), all classes at once.

For every class a supervising unit s (1 for the class shown, -1 for the others), the output unit o
and a control unit t, which shuts o off where the field h of the class is far enough on its side.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Circuit:
    """Its constants.

    Attributes:
        mu: Activity of a class not shown, below 1.
        threshold: S, up to which a field is taught.
        largest: M: all fields are in [-M, M].
        excess: epsilon, by which activity rises above 1 or falls below -mu before it is shut off.
    """

    mu: float = 0.5
    threshold: float = 1.0
    largest: float = 5.0
    excess: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.mu < 1 and 0 < self.threshold < self.largest and self.excess > 0):
            raise ValueError(
                f"The circuit received {self}. Expected 0 < mu < 1, 0 < threshold < largest and "
                "excess > 0."
            )

    def output(self, field: np.ndarray) -> np.ndarray:
        """sigma_o (eq. 9). A field of exactly M or -M is that of a unit that is taught."""
        far = 2 * self.largest + self.threshold
        up = np.where(field > far, 1 + self.excess, 1.0)
        down = np.where(field < -far, -self.mu - self.excess, -self.mu)
        at_rest = np.zeros_like(field)
        return np.select([field >= self.largest, field <= -self.largest], [up, down], at_rest)

    def control(self, output: np.ndarray) -> np.ndarray:
        """sigma_t (eq. 9)."""
        return np.where(output > 1, 1.0, np.where(output < -self.mu, -1.0, 0.0))

    def run(self, fields: np.ndarray, shown: np.ndarray, turns: int = 8) -> np.ndarray:
        """The outputs over time, (turns, ...): o, then t, then o again (eq. 8).

        Args:
            fields: h, (...), each in (-M, M): at the ends a shut-off unit would not fall silent.
            shown: bool, of this shape: whether the class is the one shown.
            turns: How often o is computed.
        """
        if (abs(fields) >= self.largest).any():
            raise ValueError(
                f"A field is {abs(fields).max():g} in size. Expected all to be below M = "
                f"{self.largest:g}."
            )
        supervising, control = np.where(shown, 1.0, -1.0), np.zeros_like(fields)
        outputs = []
        for _ in range(turns):
            # H = h + 2 M s - 2 M t
            outputs.append(self.output(fields + 2 * self.largest * (supervising - control)))
            control = self.control(outputs[-1])
        return np.stack(outputs)

    def activity(self, fields: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """The activity of each output unit as eq. 4 takes it: one that comes and goes is none."""
        turns = self.run(fields, shown)[-4:]
        return np.where((turns == turns[0]).all(axis=0), turns[0], 0.0)
