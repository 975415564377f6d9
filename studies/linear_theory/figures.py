"""Amit 2018, figures 3 and 4, of networks of this study's own draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from studies.linear_theory.checks import EPSILONS
from studies.linear_theory.theory import Matrices, Run, descend, product

# Amit 2018, 3.3. Scales and step are not in the paper: these are this study's.
SIZES = (40, 100, 100, 10)
ITERATIONS = 5_000
STEP, SCALE = 0.01, 0.5
MARKS = {"SGD": "o", "URFB": "u", "FRFB": "f"}  # the paper's
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
FLOOR = 1e-30  # of relative squared errors: below stands rounding


def draw(rng: np.random.Generator, sizes: Sequence[int], scale: float) -> Matrices:
    """From each size to the next, a matrix of normal entries of deviation scale / sqrt(fan-in)."""
    return [
        scale * rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
        for inputs, outputs in itertools.pairwise(sizes)
    ]


def start(seed: int) -> tuple[Matrices, Matrices, np.ndarray]:
    """W(0), R(0) of their own and T, a product of three other random matrices."""
    rng = np.random.default_rng(seed)
    t = product(draw(rng, SIZES, 1.0), SIZES[0])
    w = draw(rng, SIZES, SCALE)
    r = draw(rng, SIZES[:0:-1], SCALE)[::-1]
    return w, r, t


def three_ways(seed: int, iterations: int = ITERATIONS) -> dict[str, Run]:
    """Figure 3: one W(0) for SGD, updated and fixed random feedback."""
    w, r, t = start(seed)
    ways = {"SGD": ([m.T for m in w[1:]], 1.0), "URFB": (r, 1.0), "FRFB": (r, 0.0)}
    return {
        name: descend(w, feedback, t, epsilon, STEP, iterations)
        for name, (feedback, epsilon) in ways.items()
    }


def over_epsilon(seed: int, iterations: int = ITERATIONS) -> dict[str, Run]:
    """Figure 4: W(0) = 0 and one R(0). SGD, which never leaves W = 0, starts as in figure 3."""
    w, r, t = start(seed)
    zeros = [np.zeros_like(m) for m in w]
    runs = {f"epsilon {e:g}": descend(zeros, r, t, e, STEP, iterations) for e in EPSILONS}
    runs["SGD, random W(0)"] = descend(w, [m.T for m in w[1:]], t, 1.0, STEP, iterations)
    return runs


def figure_3(seeds: Sequence[int], iterations: int = ITERATIONS) -> Figure:
    """Errors above; per layer, by how much URFB's weights end apart from SGD's."""
    figure = Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots(4, len(seeds), squeeze=False, sharex="row", sharey="row")
    for column, seed in enumerate(seeds):
        runs = three_ways(seed, iterations)
        for (name, run), colour in zip(runs.items(), COLOURS, strict=False):
            marker = {"marker": f"${MARKS[name]}$", "markevery": iterations // 12, "markersize": 7}
            axes[0, column].semilogy(run.errors.clip(FLOOR), color=colour, label=name, **marker)
        axes[0, column].set(title=f"seed {seed}", xlabel="iteration")
        for layer in range(len(SIZES) - 1):
            one, other = runs["SGD"].w[layer], runs["URFB"].w[layer]
            apart = (other - one) / abs(one)
            axes[layer + 1, column].hist(apart.ravel(), bins=60, range=(-3, 3), color=COLOURS[1])
            axes[layer + 1, column].set(xlabel=f"$W_{layer + 1}$: (URFB - SGD) / |SGD|")
    axes[0, 0].set_ylabel("$|e|^2 / |T|^2$")
    axes[0, 0].legend()
    for row in axes[1:, 0]:
        row.set_ylabel("weights")
    return figure


def figure_4(seeds: Sequence[int], iterations: int = ITERATIONS) -> Figure:
    """Errors for each epsilon."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    axes = figure.subplots(1, len(seeds), squeeze=False, sharey=True)[0]
    for axis, seed in zip(axes, seeds, strict=True):
        runs = over_epsilon(seed, iterations).items()
        for (name, run), colour in zip(runs, COLOURS[::-1], strict=True):
            axis.semilogy(run.errors.clip(FLOOR), color=colour, label=name)
        axis.set(title=f"seed {seed}", xlabel="iteration")
    axes[0].set_ylabel("$|e|^2 / |T|^2$")
    axes[-1].legend()
    return figure
