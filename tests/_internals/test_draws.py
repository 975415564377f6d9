"""Draws: their laws, that streams and seeds share nothing, and that XLA draws the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfweightmirror._internals import draws

SEED = tf.constant([3, -4])
DRAWS: dict[str, Callable[..., tf.Tensor]] = {
    "uniform": draws.uniform,
    "normal": draws.normal,
    "signs": draws.signs,
    "order": lambda shape, seed, stream=0: draws.order(int(np.prod(shape)), seed, stream),
}


def correlation(one: Any, other: Any) -> float:
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


@pytest.mark.parametrize("draw", DRAWS)
def test_streams_children_and_neighbours_of_a_seed_share_nothing(draw: str) -> None:
    seeds = [
        SEED,
        *(draws.fold_in(SEED, n) for n in (0, 1)),
        *(draws.beside(SEED, n) for n in (1, 2, 256)),
    ]
    drawn = [DRAWS[draw]((4000,), seed).numpy() for seed in seeds]
    drawn += [DRAWS[draw]((4000,), SEED, stream).numpy() for stream in (1, 2)]
    for place, one in enumerate(drawn):
        for other in drawn[:place]:
            # Their standard error is 0.016; other parts of one stream would be shifted.
            assert abs(correlation(one, other)) < 0.07
            assert abs(correlation(one[1:], other[:-1])) < 0.07
            assert abs(correlation(one[4:], other[:-4])) < 0.07


@pytest.mark.parametrize("draw", DRAWS)
def test_xla_draws_the_same(draw: str) -> None:
    def drawn(seed: tf.Tensor) -> tf.Tensor:
        return DRAWS[draw]((3, 35), draws.beside(draws.fold_in(seed, 7), 5), 1)

    compiled = tf.function(drawn, jit_compile=True)(SEED)
    np.testing.assert_allclose(compiled, drawn(SEED), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tf.function(drawn)(SEED), drawn(SEED), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100_000])
def test_signs_are_fair_coins_for_any_number_of_cells(count: int) -> None:
    x = draws.signs((1, count), SEED).numpy()
    assert x.shape == (1, count)
    assert set(np.unique(x)) <= {-1.0, 1.0}
    if count > 1000:  # five standard errors
        assert abs(x.mean()) < 5 / count**0.5
        for lag in (1, 2, 31, 32, 33, 128):
            assert abs(correlation(x[:, lag:], x[:, :-lag])) < 5 / count**0.5
        assert np.abs(x[0, : count // 32 * 32].reshape(-1, 32).mean(axis=0)).max() < 0.1


def test_normal_draws_have_their_moments_and_do_not_correlate() -> None:
    x = draws.normal((2, 100_001), SEED).numpy().astype("float64")
    # Standard errors: 0.003 of the mean, 0.005 of the variance, 0.02 of the kurtosis.
    assert np.abs(x.mean(axis=1)).max() < 0.02
    assert np.abs(x.var(axis=1) - 1).max() < 0.03
    assert np.abs((x**4).mean(axis=1) - 3).max() < 0.1
    # Two by two they are made from one radius: nor do their squares correlate.
    for power in (1, 2):
        assert abs(correlation(x[0] ** power, x[1] ** power)) < 0.016


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (1, 1, 1)])
def test_normal_draws_of_odd_shapes(shape: tuple[int, ...]) -> None:
    x = draws.normal(shape, SEED).numpy()
    assert x.shape == shape
    assert np.isfinite(x).all()
    assert len(np.unique(x)) == x.size


def test_order_is_any_permutation_with_equal_chance() -> None:
    orders = [tuple(draws.order(3, draws.fold_in(SEED, n)).numpy()) for n in range(1200)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 200).max() < 65  # five standard errors
