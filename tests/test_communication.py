"""No rule sends more between replicas than backprop: sums over replicas, counted in traced steps.

The step is Keras' own under `MirroredStrategy`, with the rule's callback in it. What the TPU
compiler is given is counted in `tests/tpu/test_tpu.py`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import SGD, compiled, convolutional, dense
from tests.communication import WAYS, Way
from tests.layers.kinds import RULES
from tests.slow import slow_but

Make = Callable[[str | None], keras.Model]


class Sent(NamedTuple):
    """What two replicas send in one step.

    Attributes:
        collectives: Collective operations of each, for gradients and whatever is averaged.
        collective_bytes: What each gives to them.
        sums: Other sums over copies: those of BatchNorm's statistics.
        sum_bytes: Of their results.
    """

    collectives: int
    collective_bytes: int
    sums: int
    sum_bytes: int


def sent(make: Make, way: Way | None) -> tuple[Sent, keras.Model]:
    """What crosses between two replicas in a training step, and the model."""
    # Its own sums over replicas, not the fixture's, which are all `AddN`.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = compiled(make(RULES[way.rule] if way else None), SGD(0.1, weight_decay=0.1))
        model.optimizer.build(model.trainable_variables)
    if way and way.callback:
        callback = way.callback()
        callback.set_model(model)
        callback.on_train_begin()

    @tf.function(autograph=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> Any:
        return strategy.run(model.train_step, args=((x, y),))

    specs = tf.TensorSpec((8, *model.input_shape[1:])), tf.TensorSpec((8,), tf.int32)
    graph = step.get_concrete_function(*specs).graph
    # In a condition or a loop, that is in a function, they would not be counted.
    functions = graph.as_graph_def().library.function
    assert not [n.op for f in functions for n in f.node_def if "Collective" in n.op]
    operations = graph.get_operations()
    collectives = [o for o in operations if "Collective" in o.type]
    assert {o.type for o in collectives} == {"CollectiveReduceV2"}
    sums = [o for o in operations if o.type == "AddN"]
    replicas = strategy.num_replicas_in_sync
    found = Sent(
        len(collectives) // replicas,
        sum(_bytes(o.inputs[0]) for o in collectives) // replicas,
        len(sums),
        sum(_bytes(o.inputs[0]) for o in sums),
    )
    return found, model


def _bytes(tensor: tf.Tensor) -> int:
    return tensor.shape.num_elements() * tensor.dtype.size


@functools.cache
def by_backprop(make: Make) -> Sent:
    """What the plain Keras model sends: every gradient, once."""
    found, model = sent(make, None)
    assert found.collective_bytes == sum(
        4 * v.shape.num_elements() for v in model.trainable_variables
    )
    return found


def test_every_rule_is_counted() -> None:
    assert {way.rule for way in WAYS.values()} == RULES.keys()


@pytest.mark.parametrize(
    ("make", "name"),
    slow_but(
        [(dense, name) for name in (*RULES, "wm, gaussian")],
        itertools.product((dense, convolutional), WAYS),
        unpack=True,
    ),
)
def test_a_step_sends_what_backprop_sends_and_b_where_it_must(make: Make, name: str) -> None:
    way, expected = WAYS[name], by_backprop(make)
    found, model = sent(make, way)
    of_b = sum(4 * p.kernel.shape.num_elements() for p in tfwm.pathways(model))
    assert found.collective_bytes - expected.collective_bytes == way.times_b * of_b
    # Gradients share one collective; B that replicas average have one of their own.
    averaged = way.times_b if way.rule == "wm" else 0
    assert found.collectives - expected.collectives == averaged
    assert (found.sums, found.sum_bytes) == (expected.sums, expected.sum_bytes)
