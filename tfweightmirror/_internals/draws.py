"""Random numbers that are a function of their seed alone, compiled by XLA or not.

`tf.random.stateless_normal` and `stateless_uniform` give other floats in XLA-compiled steps, even
when told to use Philox; Philox's integers are the same everywhere, so floats are made from them.
A seed is Philox's key as it is: TensorFlow scrambles it first, by a dozen operations a draw, which
a bijection keyed by any 64 bits (Salmon et al. 2011) does not need.
"""

import math
import random
import zlib

import numpy as np
import tensorflow as tf

_LEVELS = 2**23  # so that the middle of the last one is below 1 in float32
_PHILOX = 1  # TensorFlow's number of the algorithm
# The upper half of Philox's counter, of which draws that are made with one seed have each their
# own: `fold_in` the last, so that a seed's children are none of its draws.
_CHILDREN = 2**64 - 1


def uniform(shape: tuple[int, ...], seed: tf.Tensor, stream: int = 0) -> tf.Tensor:
    """float32 draws from (0, 1), both ends excluded.

    Args:
        shape: Of the draws.
        seed: Two int32.
        stream: Which of the independent streams of this seed: a number from 0 on.
    """
    return (tf.cast(_below(_LEVELS, shape, seed, stream), tf.float32) + 0.5) / _LEVELS


def normal(shape: tuple[int, ...], seed: tf.Tensor, stream: int = 0) -> tf.Tensor:
    """float32 draws of mean 0 and variance 1 by Box and Muller; arguments as `uniform`."""
    count = math.prod(shape)
    chance, turn = tf.unstack(uniform((2, math.ceil(count / 2)), seed, stream))
    radius, angle = tf.sqrt(-2.0 * tf.math.log(chance)), 2.0 * math.pi * turn
    return _shaped(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0), shape)


def signs(shape: tuple[int, ...], seed: tf.Tensor, stream: int = 0) -> tf.Tensor:
    """float32: -1 or 1 with equal chance; arguments as `uniform`."""
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=(math.ceil(math.prod(shape) / 32), 1),
        key=_key(seed),
        counter=tf.constant([0, stream], tf.uint64),
        alg=_PHILOX,
        dtype=tf.int32,
    )
    shifted = tf.bitwise.left_shift(words, np.arange(32, dtype=np.int32))
    # Each of the 32 bits as the sign of a float whose other bits are those of 1.0.
    ones = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(shifted, -(2**31)), 0x3F800000)
    return _shaped(tf.reshape(tf.bitcast(ones, tf.float32), (-1,)), shape)


def order(length: int, seed: tf.Tensor, stream: int = 0) -> tf.Tensor:
    """int32 (length,): 0 to `length` - 1 in a random order; other arguments as `uniform`."""
    return tf.math.top_k(_below(_LEVELS, (length,), seed, stream), length).indices


def fold_in(seed: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """A seed that depends on `data`, a whole number from 0 on, too: two int32."""
    counter = tf.stack([tf.cast(data, tf.uint64), tf.constant(_CHILDREN, tf.uint64)])
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=_key(seed), counter=counter, alg=_PHILOX, dtype=tf.int32
    )


def beside(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A seed for each `number` that is known while tracing: two int32, by one operation.

    It takes the place of `seed`, of which nothing else is to be drawn.
    """
    # Odd, so that no two numbers give one seed; large, so that `seed + 1` is no other number's.
    spread = np.array([number * 0x9E3779B97F4A7C15 % 2**64], np.uint64)
    return tf.bitwise.bitwise_xor(seed, spread.view(np.int32))


def _shaped(entries: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """The first of a vector's `entries`, of this shape."""
    count = math.prod(shape)
    return tf.reshape(entries if entries.shape[0] == count else entries[:count], shape)


def _below(end: int, shape: tuple[int, ...], seed: tf.Tensor, stream: int) -> tf.Tensor:
    """int32 draws of 0 to `end` - 1."""
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=shape,
        key=_key(seed),
        counter=tf.constant([0, stream], tf.uint64),
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
