"""The train functions of a model, each traced for another step, so that none is traced twice."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals import fit_hooks, optimizer_hooks
from tfweightmirror._internals.walk import walk
from tfweightmirror.conversion.compiled import optimizers_of

# Under callbacks and without, say.
_KEPT = 2
_LIKE_THEMSELVES_ALONE = (keras.Variable, tf.Variable, tf.Tensor)


@dataclasses.dataclass(eq=False)
class _Traced:
    """A train function as Keras makes it.

    Attributes:
        function: Trains on the next batches of an iterator.
        reads: What its traces have read; None as long as there is none.
        notes: What callbacks have noted while it was traced, by stage.
    """

    function: Any = None
    reads: Any = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


class TrainFunctions:
    """`model.train_function` once callbacks have been in the step: one for each kind of step.

    Keras keeps one, and one traced under a callback would go on teaching without it. This chooses,
    at its first call after `choose_again`, the one that was traced for the present step: with the
    same work of callbacks around it, the same variables that train, and the same optimizer state.
    Where there is none, Keras makes one. Whatever else a trace has read stays as it was until
    `compile`, as in every `fit` of Keras.

    It holds all that it has made, and is held by nothing but the model's attribute: `compile`, a
    conversion or `make_train_function(force=True)` put another one there, and nothing is left.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._variables: dict[str, tf.Variable] = {}
        self._traced: list[_Traced] = []  # that used last first
        self._chosen: _Traced | None = None

    @classmethod
    def of(cls, model: keras.Model) -> "TrainFunctions":
        """Those of `model`; in the place of a function of another kind, which is given up."""
        if not isinstance(model.train_function, cls):
            model.train_function = cls(model)
        functions: TrainFunctions = model.train_function
        return functions

    @property
    def notes(self) -> dict[str, Any]:
        """What callbacks have noted while the function in use was traced, by stage."""
        return {} if self._chosen is None else self._chosen.notes

    def variable(self, name: str, value: Any) -> tf.Variable:
        """A variable with this value that all replicas hold alike: the same one in each training.

        (With another shape or dtype, another one.)
        """
        value = tf.convert_to_tensor(value)
        known = self._variables.get(name)
        if known is not None and (known.shape, known.dtype) == (value.shape, value.dtype):
            known.assign(value)
            return known
        with self._model.distribute_strategy.scope():
            self._variables[name] = tf.Variable(
                value,
                trainable=False,
                name=name,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        return self._variables[name]

    def choose_again(self) -> None:
        """Something has changed in the step: choose at the next call."""
        self._chosen = None

    def __call__(self, iterator: Any) -> Any:
        """Train on the next batches of `iterator`, as Keras' own train function."""
        if self._chosen is None:
            self._chosen = self._choose(iterator)
        logs = self._chosen.function(iterator)
        if self._chosen.reads is None:  # now that the optimizer has its state
            self._chosen.reads = self._reads()
        return logs

    def _choose(self, iterator: Any) -> _Traced:
        if step := _extension_of(self._model):
            step.begins()
        reads = self._reads()
        known = [traced for traced in self._traced if same(traced.reads, reads)]
        chosen = known[0] if known else self._make(iterator)
        self._traced = [chosen, *(each for each in self._traced if each is not chosen)][:_KEPT]
        return chosen

    def _reads(self) -> list[Any]:
        """What makes a trace another one."""
        model, step = self._model, _extension_of(self._model)
        return [
            {} if step is None else step.reads(),
            self._own_train_step(),
            model.distribute_strategy,
            (model.run_eagerly, model.jit_compile, model.steps_per_execution),
            model.trainable_variables,
            [layer.trainable for _, layer in walk(model)],
            [optimizer_hooks.variables_in_use(optimizer) for optimizer in optimizers_of(model)],
        ]

    def _own_train_step(self) -> Any:
        """The model's, without what callbacks have put around it."""
        step = _extension_of(self._model)
        return self._model.train_step if step is None else step.own_train_step

    def _make(self, iterator: Any) -> _Traced:
        model, traced = self._model, _Traced()
        step, own = _extension_of(model), model.__dict__.get("train_step")
        make = model.make_train_function if step is None else step.own_make_train_function
        if getattr(self._own_train_step(), "__func__", None) is keras.Model.train_step:
            fit_hooks.make_training_variables(model, getattr(iterator, "element_spec", None))

        def train_step(*args: Any) -> Any:
            # The model's step of now: what a callback put in may have left and have come again.
            return model.train_step(*args)

        model.train_step = train_step
        try:
            make(force=True)
            traced.function = model.train_function
        finally:
            del model.train_step
            if own is not None:
                model.train_step = own
            model.train_function = self
        return traced


def same(one: Any, other: Any) -> bool:
    """Whether traces that have read `one` and `other` are alike; a variable is only like itself."""
    if one is other:
        return True
    if isinstance(one, _LIKE_THEMSELVES_ALONE) or type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)


def _extension_of(model: keras.Model) -> Any:
    """The `TrainStep` of `model`, or None."""
    return getattr(model.train_step, "extension", None)
