"""What every replica has of its own: the seeds of dropout, and BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def replica_seeds(model: keras.Model, *, seed: int) -> Callable[[tf.Tensor], None]:
    """A function `reseed(step)`, for replica context: sets the seeds of the model's random layers.

    Keras' `SeedGenerator` counts its calls, and all replicas count alike: every replica would drop
    the same cells, and a step's numbers would depend on how the training came there.
    """
    # Keras gives this name to the state of every SeedGenerator, and to nothing else.
    states: list[Any] = [
        v for v in model.non_trainable_variables if v.name == "seed_generator_state"
    ]

    def reseed(step: tf.Tensor) -> None:
        for number, state in enumerate(states):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            key = tf.constant([seed % 2**31, number], tf.int64)
            for data in (step, tf.cast(replica, tf.int64)):
                key = tf.random.experimental.stateless_fold_in(key, data, alg="philox")
            state.assign(key)

    return reseed


def averaging_of_replicas(
    model: keras.Model, strategy: tf.distribute.Strategy
) -> Callable[[], None]:
    """A function that gives all replicas the mean of what each has gathered.

    Keras lets every replica keep statistics of its own (BatchNorm), so that a saved model would
    know a part of the images only.
    """
    own: list[Any] = [
        variable.value
        for variable in model.non_trainable_variables
        if variable.aggregation == "none" and variable.dtype.startswith("float")
    ]
    if strategy.num_replicas_in_sync == 1 or not own:
        return lambda: None

    @tf.function(autograph=False)
    def average() -> None:
        copies = strategy.run(lambda: [tf.convert_to_tensor(variable) for variable in own])
        for variable, values in zip(own, copies, strict=True):
            variable.assign(strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None))

    return average
