"""How many operations a mirror step makes of a pathway: a step of small layers is their number."""

import collections

import pytest
import tensorflow as tf

from tests.layers.kinds import BY_NAME
from tests.mirror.mirroring import random_pathways
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.step import mirror_step

FREE = ("Const", "Placeholder", "NoOp", "Identity", "Reshape", "Bitcast")  # they touch no numbers


def operations(name: str, noise: str) -> collections.Counter[str]:
    """The operations that one mirror step of one pathway is traced to, by type."""
    (pathway,) = random_pathways(BY_NAME[name])

    @tf.function(autograph=False)
    def step(number: tf.Tensor) -> None:
        mirror_step([pathway], MirrorMode(noise), {pathway.name: None}, number)

    graph = step.get_concrete_function(tf.constant(0)).graph
    kinds = (operation.type for operation in graph.get_operations())
    return collections.Counter(kind for kind in kinds if kind not in FREE)


@pytest.mark.parametrize(("noise", "most"), [("impulse", 14), ("orthogonal", 19)])
@pytest.mark.parametrize("name", ["dense_rank2", "conv2d", "depthwise2d"])
def test_a_sweep_has_few_operations(name: str, noise: str, most: int) -> None:
    found = operations(name, noise)
    assert found["ReadVariableOp"] == 1, "B, which a sweep replaces, is read as well as W"
    # Entries change places only where the kernel's own order is another.
    assert found["Transpose"] == (2 if name == "depthwise2d" else 0)
    assert sum(found.values()) <= most + found["Transpose"], found
