"""What a change of layers owes to compiled models: fresh traces, an optimizer that knows B.

Without it a traced model goes on, in silence, with the backward pass it was traced with.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror import keras_internals
from tfweightmirror.walk import walk


@dataclasses.dataclass(frozen=True, eq=False)
class Companion:
    """A trainable feedback kernel and the kernel whose optimizers it joins.

    Attributes:
        feedback_kernel: B.
        kernel: W.
        same_gradient: Whether B always got the very gradient of W, so that B's optimizer state
            would be W's, had B been there from the beginning.
    """

    feedback_kernel: keras.Variable
    kernel: keras.Variable
    same_gradient: bool


def holders_of(layers: Iterable[keras.layers.Layer], *, carry_over: bool) -> list[keras.Model]:
    """Living models with one of `layers` in them.

    Args:
        layers: The layers that are to change.
        carry_over: Whether their optimizers will have to be carried over to other variables.

    Raises:
        ValueError: An optimizer keeps its state in a form that cannot be carried over.
    """
    holders = keras_internals.models_holding(layers)
    for model in holders if carry_over else ():
        for optimizer in _built_optimizers(model):
            keras_internals.optimizer_state(optimizer)
    return holders


def renew(
    holders: Iterable[keras.Model],
    *,
    joining: Iterable[Companion] = (),
    leaving: Iterable[keras.Variable] = (),
) -> None:
    """Make compiled models train with their layers as they are now.

    Optimizers keep their identity, iterations, learning rate and the state of every variable that
    stays. Losses, metrics and settings of `compile` are untouched.

    Args:
        holders: Models whose layers have changed.
        joining: Trainable feedback kernels that are new.
        leaving: Variables that no layer has any more.
    """
    joining, gone = list(joining), {id(variable) for variable in leaving}
    done: set[int] = set()
    for model in holders:
        for _, layer in walk(model):
            keras_internals.forget_traces(layer)
        optimizers = _built_optimizers(model)
        if optimizers and id(optimizers[0]) not in done:
            done.add(id(optimizers[0]))
            with model.distribute_strategy.scope():
                _carry_over(optimizers, model, joining, gone)
        for name in ("train", "test", "predict"):
            if getattr(model, f"{name}_function", None) is not None:
                getattr(model, f"make_{name}_function")(force=True)


def _built_optimizers(model: keras.Model) -> list[Any]:
    """The model's optimizer, if built, and those inside it (loss scaling, several in one)."""

    def with_inner(optimizer: Any) -> list[Any]:
        inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())]
        parts = [part for child in inner if child is not None for part in with_inner(child)]
        return [optimizer, *parts] if optimizer.built else []

    optimizer = getattr(model, "optimizer", None)
    return [] if optimizer is None else with_inner(optimizer)


def _carry_over(
    optimizers: list[Any], model: keras.Model, joining: list[Companion], gone: set[int]
) -> None:
    """Rebuild an optimizer with those inside it for another set of variables, state copied."""
    known = keras_internals.known_variables(optimizers[0])
    known_ids = {id(variable) for variable in known}
    new = [c.feedback_kernel for c in joining if id(c.kernel) in known_ids]
    if not new and known_ids.isdisjoint(gone):
        return
    # The order of `model.trainable_variables`, in which a reloaded model builds its optimizer.
    rank = {id(variable): i for i, variable in enumerate(model.variables)}
    stay = [variable for variable in known if id(variable) not in gone]
    variables = sorted(stay + new, key=lambda variable: rank.get(id(variable), len(rank)))
    before = [
        (keras_internals.known_variables(optimizer), keras_internals.optimizer_state(optimizer))
        for optimizer in optimizers
    ]
    keras_internals.build_again(optimizers, variables)
    for optimizer, (old_variables, old_state) in zip(optimizers, before, strict=True):
        if optimizer.built:
            _copy_state(optimizer, old_variables, old_state, joining)


def _copy_state(
    optimizer: Any,
    old_variables: list[keras.Variable],
    old_state: dict[str, Any],
    joining: list[Companion],
) -> None:
    companion_of = {id(c.feedback_kernel): c for c in joining}
    old_index = {id(variable): i for i, variable in enumerate(old_variables)}
    variables = keras_internals.known_variables(optimizer)
    for name, new in keras_internals.optimizer_state(optimizer).items():
        old = old_state.get(name)
        if not isinstance(new, list):
            if old is not None and old is not new:
                new.assign(old)
            continue
        for variable, slot in zip(variables, new, strict=True):
            companion = companion_of.get(id(variable))
            if slot is None or old is None:
                continue
            if companion is None:
                slot.assign(old[old_index[id(variable)]])
            elif name == "_model_variables_moving_average":
                slot.assign(variable)
            elif companion.same_gradient and not _starts_as(slot, variable):
                slot.assign(old[old_index[id(companion.kernel)]])


def _starts_as(slot: keras.Variable, variable: keras.Variable) -> bool:
    """Whether an optimizer's fresh `slot` is a copy of its variable, not a sum of gradients."""
    if tuple(slot.shape) != tuple(variable.shape):
        return False
    return bool(np.array_equal(tf.convert_to_tensor(slot), tf.convert_to_tensor(variable)))
