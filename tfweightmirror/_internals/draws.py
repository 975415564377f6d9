"""Random numbers that are a function of their seed alone, compiled by XLA or not.

`tf.random.stateless_normal` and `stateless_uniform` give other floats in XLA-compiled steps, even
when told to use Philox; Philox's integers are the same everywhere, so floats are made from them.
"""

import math
import random
import zlib

import tensorflow as tf

_LEVELS = 2**23  # so that the middle of the last one is below 1 in float32


def uniform(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """float32 draws from (0, 1), both ends excluded.

    Args:
        shape: Of the draws.
        seed: Two int32.
    """
    levels = tf.random.stateless_uniform(shape, seed, 0, _LEVELS, tf.int32, alg="philox")
    return (tf.cast(levels, tf.float32) + 0.5) / _LEVELS


def normal(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """float32 draws of mean 0 and variance 1 by Box and Muller; arguments as `uniform`."""
    radius, turn = tf.unstack(uniform((2, *shape), seed))
    return tf.sqrt(-2.0 * tf.math.log(radius)) * tf.cos(2.0 * math.pi * turn)


def signs(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """float32: -1 or 1 with equal chance; arguments as `uniform`."""
    bits = tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32, alg="philox")
    return tf.cast(2 * bits - 1, tf.float32)


def fold_in(seed: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """A seed that depends on `data`, too: two int32."""
    return tf.random.experimental.stateless_fold_in(seed, data, alg="philox")


_seeds_given: dict[int, int] = {}  # state of Python's random stream: seeds given in it


def unused_seed() -> int:
    """A seed that nobody was given, a function of Python's random stream, which does not move.

    `keras.utils.set_random_seed` sets that stream, and Keras draws the seeds of initializers from
    it. While it stands still, seeds are counted.
    """
    state = zlib.crc32(repr(random.getstate()).encode())
    count = _seeds_given.get(state, 0)
    _seeds_given.clear()
    _seeds_given[state] = count + 1
    return zlib.crc32(f"{state} {count}".encode()) % 2**31
