"""Times of candidates that take turns, and their ratios to the first one's."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Clock:
    """Now, on the wall and in the processor time of this process, all threads together.

    On a machine that does other things as well the wall tells of those too.
    """

    wall_s: float = dataclasses.field(default_factory=time.perf_counter)
    cpu_s: float = dataclasses.field(default_factory=time.process_time)

    def since(self, begin: Clock, *, times: int = 1) -> Seconds:
        return Seconds((self.wall_s - begin.wall_s) / times, (self.cpu_s - begin.cpu_s) / times)


class Seconds(NamedTuple):
    """A duration."""

    wall: float
    cpu: float


def timed(work: Callable[[], None]) -> Seconds:
    begin = Clock()
    work()
    return Clock().since(begin)


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """What `summary` gives, a line a candidate."""
    print(f"\n{title:<26}{'median, ms':>12}{'over stock':>12}{'+-':>8}{'processor':>12}")
    for name, row in rows.items():
        wall = f"{row['over_stock']:>12.3f}{row['over_stock_spread']:>8.3f}"
        processor = f"{row['cpu_over_stock']:>12.3f}"
        print(f"{name:<26}{row['median_ms']:>12.1f}{wall}{processor}", flush=True)


def summary(
    candidates: dict[str, Callable[[], Seconds]], repeats: int
) -> dict[str, dict[str, float]]:
    """Lets the candidates take turns: medians, and medians of the ratios to the first one's."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(repeats):
        # Nobody always follows the same one.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(candidates[name]())
    stock = seconds[names[0]]

    def over_stock(times: list[Seconds], kind: str) -> list[float]:
        pairs = zip(times, stock, strict=True)
        return [getattr(own, kind) / getattr(other, kind) for own, other in pairs]

    def spread(ratios: list[float]) -> float:
        if len(ratios) == 1:
            return 0.0
        quarter, _, three = statistics.quantiles(ratios, n=4)
        return (three - quarter) / 2

    return {
        name: {
            "median_ms": 1000 * statistics.median(duration.wall for duration in times),
            "fastest_ms": 1000 * min(duration.wall for duration in times),
            "over_stock": statistics.median(over_stock(times, "wall")),
            "over_stock_spread": spread(over_stock(times, "wall")),
            "cpu_median_ms": 1000 * statistics.median(duration.cpu for duration in times),
            "cpu_over_stock": statistics.median(over_stock(times, "cpu")),
        }
        for name, times in seconds.items()
    }
