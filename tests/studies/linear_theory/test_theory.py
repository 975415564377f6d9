"""Amit 2018, section 3: what the study computes, and that the library's rule does the same."""

from pathlib import Path

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from studies.linear_theory import checks, figures
from studies.linear_theory.__main__ import main
from studies.linear_theory.theory import Matrices, descend, error_of, follow, increments


def small(seed: int = 0) -> tuple[Matrices, Matrices, np.ndarray]:
    """W, R and T of a network 5-4-3-2."""
    rng = np.random.default_rng(seed)
    sizes = (5, 4, 3, 2)
    w = figures.draw(rng, sizes, 1.0)
    return w, [rng.normal(size=m.T.shape) for m in w[1:]], rng.normal(size=(2, 5))


def test_increments_are_those_of_equation_15_written_out() -> None:
    (w1, w2, w3), (r2, r3), t = small()
    e = t - w3 @ w2 @ w1
    written = [r2 @ r3 @ e, r3 @ e @ w1.T, e @ w1.T @ w2.T]
    for found, expected in zip(increments([w1, w2, w3], [r2, r3], e), written, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_feedback_of_w_is_the_gradient() -> None:
    w, _, t = small()
    found = increments(w, [m.T for m in w[1:]], error_of(w, t))

    def loss() -> float:
        return float(((t - w[2] @ w[1] @ w[0]) ** 2).sum() / 2)

    for matrix, move in zip(w, found, strict=True):
        matrix[1, 1] += 1e-6
        above = loss()
        matrix[1, 1] -= 2e-6
        assert move[1, 1] == pytest.approx(-(above - loss()) / 2e-6, rel=1e-5)
        matrix[1, 1] += 1e-6


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_the_library_s_rule_descends_as_the_study(epsilon: float) -> None:
    w, r, t = small()
    rule = tfwm.rules.UpdatedRandomFeedback(epsilon) if epsilon else "feedback_alignment"
    layers = [
        tfwm.layers.FeedbackDense(m.shape[0], use_bias=False, rule=rule, name=f"w{i}")
        for i, m in enumerate(w)
    ]
    model = keras.Sequential([keras.Input((5,)), *layers])
    for layer, kernel, feedback in zip(layers, w, [np.zeros_like(w[0].T), *r], strict=True):
        layer.kernel.assign(kernel.T)
        layer.feedback_kernel.assign(feedback if feedback.shape == kernel.T.shape else kernel.T)
    # Whitened inputs: X = 1, Y = T. The loss is a mean over 5 x 2 numbers, the study's a half sum.
    model.compile(keras.optimizers.SGD(0.01 * 5), "mean_squared_error")
    model.fit(np.eye(5, dtype="float32"), t.T, batch_size=5, epochs=3, verbose=0)
    expected = descend(w, r, t, epsilon, step=0.01, iterations=3).w
    for layer, kernel in zip(layers, expected, strict=True):
        np.testing.assert_allclose(layer.kernel.numpy().T, kernel, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_one_direction_is_what_the_matrices_do_in_it() -> None:
    """Eq. 16 from eq. 15: a network of one cell a layer, in small steps."""
    path = follow([0.3, 0.2], t=0.8, epsilon=0.5, duration=10.0, steps=1_000)
    zeros = [np.zeros((1, 1))] * 3
    run = descend(zeros, [np.full((1, 1), 0.3), np.full((1, 1), 0.2)], np.full((1, 1), 0.8), 0.5,
                  step=0.001, iterations=10_000)  # fmt: skip
    np.testing.assert_allclose([m.item() for m in run.w], path.w[-1], rtol=1e-3)


@pytest.mark.slow
def test_the_theorems_and_the_invariant_hold() -> None:
    first, second, outside = (checks.paths(case) for case in checks.CASES)
    for solutions in (first, second, outside):
        assert checks.grows(solutions, checks.reached)  # so that e falls faster
        assert max(abs(path.invariants).max() for path in solutions) < 1e-8
        assert max(map(checks.rates_apart, solutions)) < 1e-3
    assert checks.grows(first, checks.direction(0))
    assert not checks.grows(first, checks.direction(1))  # as e goes to 0, eq. 17 ends it
    assert all(checks.grows(second, checks.direction(i)) for i in range(3))
    assert not checks.grows(outside, checks.direction(2))


@pytest.mark.slow
def test_updated_feedback_descends_faster_than_fixed_and_ends_at_other_weights() -> None:
    runs = figures.three_ways(seed=0, iterations=300)
    assert runs["URFB"].errors[-1] < 0.1 * runs["FRFB"].errors[-1]
    ends = [run.errors[-1] for run in figures.over_epsilon(0, iterations=600).values()][:4]
    assert ends == sorted(ends, reverse=True)
    one, other = runs["URFB"].w[1], runs["SGD"].w[1]
    assert np.linalg.norm(one - other) > 0.3 * np.linalg.norm(other)


def test_too_few_iterations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--iterations", "10"])
    assert "Expected at least 100" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_draws_both_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--iterations", "200", "--seeds", "0", "--pictures", str(tmp_path)]) == 0
    assert "| theorem 1, k = 2 |" in capsys.readouterr().out
    assert all((tmp_path / f"linear_theory_figure_{n}.png").stat().st_size > 10_000 for n in (3, 4))
