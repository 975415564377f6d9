"""Follows what optimizers do with pairs of W and B: the gaps that the law predicts."""

import weakref
from collections.abc import Callable, Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from tfweightmirror._internals import optimizer_hooks, twin_hooks
from tfweightmirror.callbacks import gap_checks
from tfweightmirror.callbacks.gap_law import GapLaw
from tfweightmirror.mirror.step import assign_on_replicas
from tfweightmirror.pathway import Pathway


class GapFollower:
    """Has optimizers move B with W, and predicts the gaps from their updates.

    Which optimizer moves a pair is known when an update of it is traced: a model may have several,
    of which one may be built for all weights and never be used.

    Args:
        pairs: The pathways whose W and B are to stay together.
        predicted: float32 variable (pairs,): the predicted gaps over the first ones.
        velocity: float32 variable (pairs,): the gaps of momenta over the first gaps.

    Attributes:
        followed: Places of the pairs that an optimizer has been seen to update.
    """

    # Who follows an optimizer now: one whose training has failed may do so still.
    _of: ClassVar["weakref.WeakKeyDictionary[keras.optimizers.Optimizer, GapFollower]"] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(
        self, pairs: Sequence[Pathway], predicted: tf.Variable, velocity: tf.Variable
    ) -> None:
        self.pairs = pairs
        self.predicted = predicted
        self.velocity = velocity
        self.followed: set[int] = set()
        self._undo: dict[keras.optimizers.Optimizer, list[Callable[[], None]]] = {}

    def attend(self, optimizers: Sequence[keras.optimizers.Optimizer]) -> None:
        """Follow these optimizers (the outer ones under loss scaling), until `leave`.

        An update raises a ValueError, before anything moves, if the law cannot hold in it.
        """
        for optimizer in optimizers:
            if optimizer not in self._undo:
                if other := self._of.get(optimizer):
                    other._let_go(optimizer)
                self._of[optimizer] = self
                self._attend(optimizer)

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """Those that it follows."""
        return list(self._undo)

    def leave(self) -> None:
        """Give the optimizers their own methods back."""
        for optimizer in list(self._undo):
            self._let_go(optimizer)

    def _let_go(self, optimizer: keras.optimizers.Optimizer) -> None:
        for undo in reversed(self._undo.pop(optimizer, [])):
            undo()
        if self._of.get(optimizer) is self:
            del self._of[optimizer]

    def _attend(self, optimizer: keras.optimizers.Optimizer) -> None:
        inner = optimizer_hooks.inner_of(optimizer)
        checked: set[int] = set()

        def places(moved: set[int]) -> list[int]:
            return [i for i, p in enumerate(self.pairs) if id(p.kernel.value) in moved]

        def before(moved: set[int]) -> None:
            gap_checks.check_update(inner, self.pairs, moved)
            if new := [i for i in places(moved) if i not in checked]:
                gap_checks.check_optimizer(inner, [self.pairs[i] for i in new])
            checked.update(new)

        def after(moved: set[int], rate: tf.Tensor, done: tf.Tensor, now: tf.Tensor) -> None:
            if updated := places(moved):
                self.followed.update(updated)
                law = GapLaw.of(inner, [self.pairs[i] for i in updated])
                self._predict(law, updated, rate, done, now)

        twins = [(p.kernel, p.feedback_kernel) for p in self.pairs]
        self._undo[optimizer] = [
            twin_hooks.update_as_one(optimizer, twins),
            twin_hooks.watch_updates(optimizer, before, after),
        ]

    def _predict(
        self, law: GapLaw, places: list[int], rate: tf.Tensor, done: tf.Tensor, now: tf.Tensor
    ) -> None:
        """The gaps at `places` after an update: traced, in replica context."""
        variables = [self.predicted, self.velocity]
        gaps, velocities = (tf.convert_to_tensor(variable) for variable in variables)
        # An optimizer that has done nothing yet has no momentum, whatever the one before it had.
        before = tf.where(done > 0, _at(places, velocities), 0.0)
        after = law.after_update(_at(places, gaps), before, rate)
        values = [
            tf.where(now > done, _put(places, old, new), old)
            for old, new in zip((gaps, velocities), after, strict=True)
        ]
        assign_on_replicas(variables, values)


# Places are known while tracing, and mostly all: a gather or a scatter would be work for a TPU.
def _at(places: list[int], vector: tf.Tensor) -> tf.Tensor:
    """The entries of `vector` at sorted `places`."""
    if len(places) == vector.shape[0]:
        return vector
    return tf.stack([vector[place] for place in places])


def _put(places: list[int], vector: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
    """`vector` with `entries` at sorted `places`."""
    if len(places) == vector.shape[0]:
        return entries
    parts = tf.unstack(vector)
    for index, place in enumerate(places):
        parts[place] = entries[index]
    return tf.stack(parts)
