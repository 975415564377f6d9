"""The equations of Amit 2018, section 3: matrices (eq. 15), one direction of them (eq. 16 to 18).

W_i is (n_i, n_i-1), R_i is (n_i-1, n_i), T is (n_k, n_0); time has no unit. Lists run from i = 1;
there is no R_1. `epsilon` is what R gets of the increments of W: 1 is updated random feedback (and
backprop, if it starts at R = W^T), 0 is feedback alignment.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

Matrices = list[np.ndarray]


def product(matrices: Sequence[np.ndarray], otherwise: int) -> np.ndarray:
    """`M_k .. M_1` of (M_1, .., M_k); of none the unit matrix of `otherwise` rows."""
    return functools.reduce(lambda done, m: m @ done, matrices, np.eye(otherwise))


def error_of(w: Matrices, t: np.ndarray) -> np.ndarray:
    """e = T - W_k .. W_1."""
    return t - product(w, w[0].shape[1])


def increments(w: Matrices, r: Matrices, error: np.ndarray) -> Matrices:
    """dW_i/dt = R_i+1 .. R_k e (W_i-1 .. W_1)^T, with e by `error_of` (eq. 15).

    R is the feedback of now. Eq. 15 writes R(0) + epsilon W^T for it, which holds for W(0) = 0
    alone.
    """
    found = []
    for i in range(len(w)):
        back = product([m.T for m in r[i:]], w[i].shape[0]).T
        found.append(back @ error @ product(w[:i], w[0].shape[1]).T)
    return found


@dataclasses.dataclass(frozen=True)
class Run:
    """A descent.

    Attributes:
        errors: |e|^2 / |T|^2 before every iteration.
        w: The weights at the end.
    """

    errors: np.ndarray
    w: Matrices


def descend(
    w: Matrices, r: Matrices, t: np.ndarray, epsilon: float, step: float, iterations: int
) -> Run:
    """Iterate eq. 15 in steps of size `step`, R moved with W: `R += step epsilon (dW)^T`.

    Args:
        w: W_1(0) to W_k(0).
        r: R_2(0) to R_k(0).
    """
    w, r = [m.copy() for m in w], [m.copy() for m in r]
    errors = np.empty(iterations)
    for iteration in range(iterations):
        error = error_of(w, t)
        errors[iteration] = (error**2).sum() / (t**2).sum()
        for i, move in enumerate(increments(w, r, error)):
            w[i] += step * move
            if i > 0:
                r[i - 1] += step * epsilon * move.T
    return Run(errors, w)


@dataclasses.dataclass(frozen=True)
class Path:
    """One direction of a decoupled network over time, from W(0) = 0.

    Attributes:
        times: (steps + 1,).
        w: lambda_i, (steps + 1, k).
        r: lambda_R,i(0) of i = 2 .. k, (k - 1,).
        t: lambda_T.
        epsilon: What R gets of the increments of W.
    """

    times: np.ndarray
    w: np.ndarray
    r: np.ndarray
    t: float
    epsilon: float

    @property
    def errors(self) -> np.ndarray:
        """e = lambda_T - lambda_1 .. lambda_k."""
        return self.t - self.w.prod(axis=1)

    @property
    def invariants(self) -> np.ndarray:
        """lambda_R,i lambda_i + epsilon lambda_i^2 / 2 - lambda_i-1^2 / 2: 0 by eq. 17."""
        upper, lower = self.w[:, 1:], self.w[:, :-1]
        return self.r * upper + self.epsilon * upper**2 / 2 - lower**2 / 2

    @property
    def rates(self) -> np.ndarray:
        """-d(log e^2)/dt by eq. 18 (for k = 2 eq. 19, for k = 3 eq. 26)."""
        squares = self.w**2
        above = (self.epsilon * squares[:, 1:] + squares[:, :-1]) / 2  # lambda_j (R_j + ..)
        k = self.w.shape[1]
        terms = (squares[:, :i].prod(axis=1) * above[:, i:].prod(axis=1) for i in range(k))
        return 2 * sum(terms)


def follow(
    r: Sequence[float], t: float, epsilon: float, duration: float, steps: int = 20_000
) -> Path:
    """Solve eq. 16 by the classical Runge-Kutta method from all lambda_i(0) = 0."""
    fixed = np.array(r, dtype=float)

    def slope(w: np.ndarray) -> np.ndarray:
        error, back = t - w.prod(), fixed + epsilon * w[1:]
        return error * np.array([w[:i].prod() * back[i:].prod() for i in range(len(w))])

    h, w = duration / steps, np.zeros((steps + 1, len(fixed) + 1))
    for n in range(steps):
        a = slope(w[n])
        b = slope(w[n] + h / 2 * a)
        c = slope(w[n] + h / 2 * b)
        d = slope(w[n] + h * c)
        w[n + 1] = w[n] + h / 6 * (a + 2 * b + 2 * c + d)
    return Path(np.linspace(0, duration, steps + 1), w, fixed, t, epsilon)
