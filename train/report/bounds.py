"""Bounds that a paper states for a figure without printing its numbers, beside our runs."""

from __future__ import annotations

import dataclasses
from typing import Literal

from train.report.groups import Group


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a paper says of the layers' angles in a figure.

    Args:
        measure: As in the logs, before the slash, in degrees.
        says: In words.
        layers: Which layers it is said of.
        below: Largest value; None if no such number is given.
        above: Smallest value in most layers; None if no such number is given.
        from_epoch: First epoch that it is said of.
    """

    measure: str
    says: str
    layers: Literal["all", "all but the last", "most"]
    below: float | None = None
    above: float | None = None
    from_epoch: int | Literal["last"] = 1

    def ours(self, group: Group) -> tuple[str, str]:
        """What a group's runs have in its place, and whether that holds: `yes`, `no` or nothing.

        The farthest of all epochs that the bound is said of, of the means over the seeds.
        """
        layers = group.layers(self.measure)
        layers = layers[:-1] if self.layers == "all but the last" else layers
        first = group.epochs if self.from_epoch == "last" else self.from_epoch
        found = [
            (estimate.mean, layer, epoch)
            for layer in layers
            for epoch, estimate in group.over_epochs(f"{self.measure}/{layer}").items()
            if epoch >= first
        ]
        if not layers:
            return "not measured", ""
        if not found:
            return f"ends before epoch {first}", ""
        if self.above is not None:
            return self._most_above(found, self.above)
        value, layer, epoch = max(found)
        holds = "" if self.below is None else "yes" if value < self.below else "no"
        return f"largest {value:.2f} ({layer}, epoch {epoch})", holds

    @staticmethod
    def _most_above(found: list[tuple[float, str, int]], above: float) -> tuple[str, str]:
        """Of the epoch with the fewest layers above."""
        epochs = {epoch: [v > above for v, _, at in found if at == epoch] for _, _, epoch in found}
        epoch, are = min(epochs.items(), key=lambda item: sum(item[1]) / len(item[1]))
        text = f"at least {sum(are)} of {len(are)} layers (epoch {epoch})"
        return text, "yes" if 2 * sum(are) > len(are) else "no"
