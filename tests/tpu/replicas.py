"""One of several data-parallel replicas, as far as a compiler sees it.

`TPUStrategy` cannot be made without a TPU. It runs one program on every replica, in which a
replica's number and sums over replicas are operations of XLA. So does this stand-in, by the hooks
through which Keras and this library ask any strategy.
"""

from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops


def strategy_of(replicas: int) -> tf.distribute.Strategy:
    """A strategy whose programs are one replica's: make model and optimizer in its scope."""
    base: Any = type(tf.distribute.OneDeviceStrategy("CPU:0").extended)

    class Extended(base):  # type: ignore[misc]
        """Variables on one device, sums over many."""

        @property
        def _num_replicas_in_sync(self) -> int:
            return replicas

        def _use_merge_call(self) -> bool:
            return False

        def _replica_ctx_all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
            divisor = replicas if reduce_op == tf.distribute.ReduceOp.MEAN else 1
            return tf.nest.map_structure(lambda one: all_reduced(one, replicas) / divisor, value)

    class Replicas(tf.distribute.Strategy):
        def __init__(self) -> None:
            super().__init__(Extended(self, "CPU:0"))

    return Replicas()


def all_reduced(value: tf.Tensor, replicas: int) -> tf.Tensor:
    """The sum over all replicas, on each."""
    group = [list(range(replicas))]
    return gen_xla_ops.xla_all_reduce(value, group, "Add", "CrossReplica")


def in_replica(strategy: tf.distribute.Strategy, step: Any) -> Any:
    """`step` in the replica context of whichever replica runs the program."""

    def on_replica(*arguments: Any) -> Any:
        with tf.distribute.ReplicaContext(strategy, gen_xla_ops.xla_replica_id()):
            return step(*arguments)

    return on_replica
