"""The mirror's learning rule against NumPy, and what bounds B."""

import numpy as np
import pytest
import tensorflow as tf

from tests.mirror.mirroring import relative
from tfweightmirror.mirror.hebbian import hebbian_product, learn

random = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """A float32 array."""
    return random.normal(size=shape).astype("float32")


def test_product_of_cells_that_fire_together_is_summed_over_samples() -> None:
    x, y = normal(3, 50, 7), normal(3, 50, 4)
    expected = np.zeros((3, 7, 4))
    for group in range(3):
        for sample in range(50):
            expected[group] += np.outer(x[group, sample], y[group, sample])
    found = hebbian_product(tf.constant(x), tf.constant(y), 7)
    assert found.shape == (3, 7, 4)
    assert relative(found, expected) < 1e-6


def test_product_of_cells_that_fire_in_turns_has_a_block_of_rows_for_each_turn() -> None:
    # Three turns of four cells for a fan-in of ten: the last two cells do not exist.
    x, y = normal(2, 3, 6, 4), normal(2, 3, 6, 5)
    expected = np.zeros((2, 10, 5))
    for group in range(2):
        for cell in range(10):
            turn, place = divmod(cell, 4)
            expected[group, cell] = x[group, turn, :, place] @ y[group, turn]
    found = hebbian_product(tf.constant(x), tf.constant(y), 10)
    assert found.shape == (2, 10, 5)
    assert relative(found, expected) < 1e-6


@pytest.mark.parametrize("decay", [0.1, 0.7, 1.0])
def test_b_decays_and_moves_by_the_product(decay: float) -> None:
    b, product = normal(3, 2, 4), normal(3, 2, 4)
    found = learn(tf.constant(b), tf.constant(product), 0.05, decay, "decay")
    assert relative(found, (1 - decay) * b + 0.05 * product) < 1e-6


def test_repeated_steps_settle_at_eta_over_decay_times_the_product() -> None:
    b, product = tf.constant(normal(5, 6)), tf.constant(normal(5, 6))
    for _ in range(200):
        b = learn(b, product, 0.03, 0.1, "decay")
    assert relative(b, 0.3 * product) < 1e-5


def test_scaling_keeps_the_norm_and_turns_b_towards_the_product() -> None:
    b, product = tf.constant(normal(5, 6)), tf.constant(normal(5, 6))
    start = float(tf.norm(b))
    for _ in range(50):
        before = b
        b = learn(b, product, 0.2, 0.5, "scaling")
        grown = before + 0.2 * product
        assert relative(b, grown * (tf.norm(before) / tf.norm(grown))) < 1e-6
        assert float(tf.norm(b)) == pytest.approx(start, rel=1e-5)
    assert relative(b / tf.norm(b), product / tf.norm(product)) < 1e-3


def test_without_a_bound_b_grows_by_the_same_step_for_ever() -> None:
    product = tf.constant(normal(5, 6))
    b = tf.zeros((5, 6))
    norms = []
    for _ in range(20):
        b = learn(b, product, 0.5, 0.9, None)
        norms.append(float(tf.norm(b)))
    steps = np.arange(1, 21) * 0.5 * float(tf.norm(product))
    np.testing.assert_allclose(norms, steps, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_full_decay_forgets_what_is_not_a_number(bad: float) -> None:
    product = tf.constant(normal(4))
    found = learn(tf.fill([4], bad), product, 1.0, 1.0, "decay")
    np.testing.assert_array_equal(found, product)
    assert not np.isfinite(learn(tf.fill([4], bad), product, 1.0, 0.999, "decay")).any()
