"""Dropout as a function of (seed, step, replica)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def replica_seeds(model: keras.Model, *, seed: int) -> Callable[[tf.Tensor], None]:
    """A function that sets the seeds of `model`'s random layers for one training step.

    Keras' `SeedGenerator` counts its calls, and all replicas count alike: every replica would drop
    the same cells, and a step's numbers would depend on how the training came there.

    Args:
        model: Built.
        seed: Of the run.

    Returns:
        `reseed(step)`, to be called in replica context.
    """
    # Keras gives this name to the state of every SeedGenerator, and to nothing else.
    states: list[Any] = [
        variable
        for variable in model.non_trainable_variables
        if variable.name == "seed_generator_state"
    ]

    def reseed(step: tf.Tensor) -> None:
        if not states:
            return
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for number, state in enumerate(states):
            key = tf.constant([seed % 2**31, number], tf.int64)
            for data in (step, tf.cast(replica, tf.int64)):
                key = tf.random.experimental.stateless_fold_in(key, data, alg="philox")
            state.assign(key)

    return reseed
