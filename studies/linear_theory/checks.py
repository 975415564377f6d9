"""What solving eq. 16 of Amit 2018 numerically says of its theorems and of its invariant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from studies.linear_theory.theory import Path, follow

EPSILONS = (0.0, 0.25, 0.5, 1.0)  # of figure 4, too
T = 0.8  # lambda_T
# lambda_R,i(0), and how long they are followed. Theorem 2 asks for a first one that is larger than
# (1 + sqrt(1 + epsilon)) / 2 times the second, 1.21 for epsilon 1; the last row is outside.
CASES = {
    "theorem 1, k = 2": ((0.1,), 60.0),
    "theorem 2, k = 3": ((0.1, 0.05), 400.0),
    "outside its condition": ((0.02, 0.3), 400.0),
}


def paths(case: str, epsilons: Sequence[float] = EPSILONS) -> list[Path]:
    """The solutions of one of `CASES`."""
    r, duration = CASES[case]
    return [follow(r, T, epsilon, duration, steps=8_000) for epsilon in epsilons]


def half_times(solutions: Sequence[Path]) -> list[float]:
    """When e has fallen to half of lambda_T."""
    return [float(p.times[np.argmax(p.errors < p.t / 2)]) for p in solutions]


def rates_apart(path: Path) -> float:
    """The largest relative distance of -d(log e^2)/dt from eq. 18, where e is above rounding."""
    seen = np.flatnonzero(path.errors > 1e-6 * path.t)[1:-1]
    by_differences = -np.gradient(np.log(path.errors[: seen[-1] + 2] ** 2), path.times[1])[seen]
    return float((abs(by_differences - path.rates[seen]) / path.rates[seen].max()).max())


def grows(solutions: Sequence[Path], of: Callable[[Path], np.ndarray]) -> bool:
    """Whether `of` is larger for every larger epsilon, as long as every e is above rounding."""
    seen = np.logical_and.reduce([p.errors > 1e-6 * p.t for p in solutions])[1:]
    values = np.stack([of(p)[1:] for p in solutions])[:, seen]
    return bool((np.diff(values, axis=0) > 0).all())


def direction(i: int) -> Callable[[Path], np.ndarray]:
    """What takes lambda_i+1, (times,), from a path."""
    return lambda path: path.w[:, i]


def reached(path: Path) -> np.ndarray:
    """lambda_T - e, (times,): computed as a product, since e itself begins as rounding."""
    return path.w.prod(axis=1)


def table() -> str:
    """One line a case, in Markdown."""
    lines = [
        "| | lambda_R | time to e = lambda_T / 2 at epsilon " + ", ".join(map(str, EPSILONS)) + " "
        "| e falls faster | grow with epsilon | eq. 17 off by | eq. 18 off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, (r, _) in CASES.items():
        solutions = paths(case)
        growing = [f"lambda_{i + 1}" for i in range(len(r) + 1) if grows(solutions, direction(i))]
        cells = (
            case,
            ", ".join(map(str, r)),
            ", ".join(f"{time:.1f}" for time in half_times(solutions)),
            "yes" if grows(solutions, reached) else "no",
            ", ".join(growing) or "none",
            f"{max(abs(p.invariants).max() for p in solutions):.0e}",
            f"{max(map(rates_apart, solutions)):.0e}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
