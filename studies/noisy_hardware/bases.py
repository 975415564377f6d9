"""What the cells fire: four bases at equal firings, and one of them in sign pairs."""

from __future__ import annotations

import dataclasses

from tfweightmirror.mirror.noise import Gaussian, Impulse, Noise, Orthogonal


@dataclasses.dataclass(frozen=True)
class Basis:
    """A way to spend firings.

    Args:
        block: Cells that fire together, in turns; None: all of a layer.
        independent: Whether every cell fires normal noise of its own; else an orthogonal basis.
        sign_pairs: Whether every sample is fired again with its sign reversed.
    """

    block: int | None = None
    independent: bool = False
    sign_pairs: bool = False

    def noise(self, fan_in: int, decay: float = 1.0) -> Noise:
        """As many samples a mirror step as a sweep of `fan_in` cells has, without pairs."""
        if self.independent:
            return Gaussian(samples=fan_in, decay=decay)
        if self.block == 1:
            return Impulse(decay=decay)
        return Orthogonal(block=self.cells(fan_in), decay=decay)

    def cells(self, fan_in: int) -> int:
        """Cells that fire together."""
        return fan_in if self.block is None else min(self.block, fan_in)

    @property
    def sweeps_per_step(self) -> int:
        """Firings of a mirror step, over the fan-in."""
        return 2 if self.sign_pairs else 1


BASES = {
    "impulse": Basis(block=1),
    "blocks of 64": Basis(block=64),
    "all cells": Basis(),
    "all cells, pairs": Basis(sign_pairs=True),
    "independent": Basis(independent=True),
}
