"""Random numbers that are a function of their seed alone, compiled by XLA or not.

`tf.random.stateless_normal` and `stateless_uniform` give other floats in XLA-compiled steps, even
when told to use Philox; Philox's integers are the same everywhere, so floats are made from them.
A seed is Philox's key as it is: TensorFlow scrambles it first, by a dozen operations a draw, which
a bijection keyed by any 64 bits (Salmon et al. 2011) does not need.
"""

import math
import random
import zlib

import tensorflow as tf

_LEVELS = 2**23  # so that the middle of the last one is below 1 in float32
_PHILOX = 1  # TensorFlow's number of the algorithm


def uniform(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """float32 draws from (0, 1), both ends excluded.

    Args:
        shape: Of the draws.
        seed: Two int32.
    """
    return (tf.cast(_below(_LEVELS, shape, seed), tf.float32) + 0.5) / _LEVELS


def normal(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """float32 draws of mean 0 and variance 1 by Box and Muller; arguments as `uniform`."""
    radius, turn = tf.unstack(uniform((2, *shape), seed))
    return tf.sqrt(-2.0 * tf.math.log(radius)) * tf.cos(2.0 * math.pi * turn)


def signs(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """float32: -1 or 1 with equal chance; arguments as `uniform`."""
    return tf.cast(2 * _below(2, shape, seed) - 1, tf.float32)


def fold_in(seed: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """A seed that depends on `data`, a whole number from 0 on, too: two int32."""
    # The upper half of the counter is 0 in draws, so a seed's children are none of its draws.
    counter = tf.stack([tf.cast(data, tf.uint64), tf.ones((), tf.uint64)])
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=_key(seed), counter=counter, alg=_PHILOX, dtype=tf.int32
    )


def _below(end: int, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """int32 draws of 0 to `end` - 1."""
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=shape,
        key=_key(seed),
        counter=tf.zeros((2,), tf.uint64),
        alg=_PHILOX,
        minval=0,
        maxval=end,
    )


def _key(seed: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.bitcast(seed, tf.uint64), (1,))


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
