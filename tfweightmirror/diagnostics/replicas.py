"""A batch and its gradients on the replicas of a model, and the model as it was before."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


def replica_index() -> Any:
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group


def summed(gradient: tf.Tensor) -> tf.Tensor:
    """Of all replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradient
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)


def on_replicas(model: keras.Model, batch: tuple[Any, Any, Any]) -> Any:
    """The batch as tensors, cut into equal parts if there are several replicas."""
    batch = keras.tree.map_structure(
        lambda part: None if part is None else tf.convert_to_tensor(part), batch
    )
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batch
    rows = [int(part.shape[0]) for part in keras.tree.flatten(batch) if part is not None]
    if any(count % replicas for count in rows):
        raise ValueError(
            f"A probe of {rows[0]} samples cannot be cut into equal parts for {replicas} replicas: "
            f"give a multiple of {replicas}."
        )

    def part_of(context: Any) -> Any:
        index = context.replica_id_in_sync_group

        def cut(part: Any) -> Any:
            if part is None:
                return None
            size = int(part.shape[0]) // replicas
            return part[index * size : (index + 1) * size]

        return keras.tree.map_structure(cut, batch)

    return strategy.experimental_distribute_values_from_function(part_of)


@contextlib.contextmanager
def as_before(model: keras.Model) -> Iterator[None]:
    """Puts all that a forward pass may move back, each replica's own value."""
    moving = [*model.non_trainable_variables, *model.metrics_variables]
    values = [value for v in moving for value in getattr(v.value, "values", [v.value])]
    before = [tf.identity(value) for value in values]
    try:
        yield
    finally:
        for value, old in zip(values, before, strict=True):
            value.assign(old)
