"""What a model remembers of mirror mode: compiled functions, and how far each seed has fired."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import keras
import tensorflow as tf

# The mode that trains, and one for looks in between.
_KEPT = 2
_ATTRIBUTE = "_mirror_memory"


@dataclasses.dataclass(eq=False)
class MirrorMemory:
    """Kept on the model itself: what it holds holds the model, so no registry would let go of it.

    Attributes:
        functions: The compiled mirrors used last, by mode and pathways.
        steps: By seed, the number of its next mirror step, an int64 variable.
        changes: How often layers of the model were converted or stripped.
    """

    functions: dict[tuple[Hashable, Hashable], Any] = dataclasses.field(default_factory=dict)
    steps: dict[int, tf.Variable] = dataclasses.field(default_factory=dict)
    changes: int = 0

    @classmethod
    def of(cls, model: keras.Model) -> "MirrorMemory":
        """The memory of `model`, made if there is none."""
        # Past `__setattr__`, by which Keras would track it.
        memory: MirrorMemory = model.__dict__.setdefault(_ATTRIBUTE, cls())
        return memory

    def function(self, mode: Hashable, mirrored: Hashable, make: Callable[[], Any]) -> Any:
        """The function of a mode for some pathways, made by `make` if it is not remembered.

        Functions of other pathways are forgotten: their kernels may be of the past.
        """
        key = (mode, mirrored)
        function = self.functions.pop(key, None) or make()
        last = [(k, f) for k, f in self.functions.items() if k[1] == mirrored][1 - _KEPT :]
        self.functions = {**dict(last), key: function}
        return function

    def counter(self, model: keras.Model, seed: int) -> tf.Variable:
        """The number of the next mirror step of `seed` on `model`, a variable to count on."""
        if seed not in self.steps:
            with model.distribute_strategy.scope():
                self.steps[seed] = counter("mirror_steps")
        return self.steps[seed]


def counter(name: str) -> tf.Variable:
    """An int64 variable that all replicas count alike."""
    return tf.Variable(
        0,
        trainable=False,
        dtype=tf.int64,
        name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def layers_have_changed(model: keras.Model) -> None:
    """Let go of compiled mirrors, and of the kernels they hold: layers of `model` have changed."""
    memory: MirrorMemory | None = model.__dict__.get(_ATTRIBUTE)
    if memory is not None:
        memory.functions.clear()
        memory.changes += 1
