"""What a change of layers owes to compiled models: fresh traces, an optimizer that knows B.

Without it a traced model goes on, in silence, with the backward pass it was traced with.
"""

import dataclasses
import gc
import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals import keras_hooks, optimizer_hooks, tensorflow_hooks
from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import functions_inside, walk
from tfweightmirror.mirror.memory import layers_have_changed


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


@dataclasses.dataclass(frozen=True, eq=False)
class Holders:
    """What has to be told of a change of layers.

    Attributes:
        models: Living models with one of the layers in them.
        optimizers: Built optimizers whose state may have to be carried over, each with those
            inside it and with a model in whose order it is to know its variables.
    """

    models: list[keras.Model]
    optimizers: list[tuple[list[Any], keras.Model]]


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Every Keras optimizer in the attributes of `model` and of the layers below it.

    `model.optimizer` comes first. Lists, tuples and dicts are looked into. An optimizer inside
    another (loss scaling, several in one) belongs to that, and is not listed.
    """
    found: dict[int, Any] = {}
    own = getattr(model, "optimizer", None)
    held = (value for _, layer in walk(model) for value in keras_hooks.attributes_of(layer))
    for value in itertools.chain([own], held):
        if issubclass(type(value), keras.optimizers.Optimizer):
            found[id(value)] = value
    inside = {id(part) for optimizer in found.values() for part in _with_inner(optimizer)[1:]}
    return [optimizer for optimizer in found.values() if id(optimizer) not in inside]


def _with_inner(optimizer: Any) -> list[Any]:
    """An optimizer and those inside it."""
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())]
    return [optimizer, *(part for child in inner if child for part in _with_inner(child))]


def holders_of(
    model: keras.Model, layers: list[keras.layers.Layer], *, carry_over: bool
) -> Holders:
    """What has to be told when `layers` of `model` change.

    Args:
        model: The model that is converted or stripped.
        layers: The layers that are to change.
        carry_over: Whether optimizers will have to be carried over to other variables.

    Raises:
        ValueError: An optimizer keeps its state in a form that cannot be carried over.

    Warns:
        UserWarning: Models around or beside this one may be out of sight.
    """
    if gc.get_freeze_count():
        warnings.warn(
            "gc.freeze() hides what lived before it: a compiled model around or beside "
            f"'{model.name}' that shares its layers cannot be found, and would go on with the "
            "backward pass that it was traced with. If there is one, compile it again after this "
            "call." + see("models-that-were-frozen-for-the-garbage-collector"),
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )
    models = keras_hooks.models_holding(layers, [layer for _, layer in walk(model)])
    return Holders(models, _built_optimizers(models, model, layers) if carry_over else [])


def _built_optimizers(
    models: list[keras.Model], model: keras.Model, layers: list[keras.layers.Layer]
) -> list[tuple[list[Any], keras.Model]]:
    owners: dict[int, tuple[Any, keras.Model]] = {}
    for holder in models:
        for optimizer in optimizers_of(holder):
            owners.setdefault(id(optimizer), (optimizer, holder))
    # Those of a training loop of the user's own stand in no model's attributes.
    weights = [weight for layer in layers for weight in layer.weights]
    loose = [(each, model) for each in optimizer_hooks.optimizers_knowing(weights)]
    candidates = {id(optimizer): (optimizer, holder) for optimizer, holder in loose} | owners
    inside = {id(p) for optimizer, _ in candidates.values() for p in _with_inner(optimizer)[1:]}
    found = []
    for optimizer, holder in candidates.values():
        if not optimizer.built or id(optimizer) in inside:
            continue
        parts = [part for part in _with_inner(optimizer) if part.built]
        try:
            for part in parts:
                optimizer_hooks.optimizer_state(part)
        except ValueError:
            if id(optimizer) in owners:
                raise
            continue  # It may be a dead one, and Keras says which variable it does not know.
        found.append((parts, holder))
    return found


def renew(
    holders: Holders,
    *,
    joining: Iterable[Companion] = (),
    leaving: Iterable[keras.Variable] = (),
) -> None:
    """Make compiled models train with their layers as they are now.

    Optimizers keep their identity, iterations, learning rate and the state of every variable that
    stays. Losses, metrics and settings of `compile` are untouched.

    Args:
        holders: What `holders_of` has found before the layers changed.
        joining: Trainable feedback kernels that are new.
        leaving: Variables that no layer has any more.
    """
    joining, gone = list(joining), {id(variable) for variable in leaving}
    for optimizers, model in holders.optimizers:
        with model.distribute_strategy.scope():
            _carry_over(optimizers, model, joining, gone)
    tensorflow_hooks.let_go_of_graphs()
    for model in holders.models:
        layers_have_changed(model)
        for _, layer in walk(model):
            keras_hooks.forget_traces(layer)
        for function in functions_inside(model):
            tensorflow_hooks.forget_traces(function)
        for name in ("train", "test", "predict"):
            if getattr(model, f"{name}_function", None) is not None:
                getattr(model, f"make_{name}_function")(force=True)


def _carry_over(
    optimizers: list[Any], model: keras.Model, joining: list[Companion], gone: set[int]
) -> None:
    """Rebuild an optimizer with those inside it for another set of variables, state copied."""
    known = optimizer_hooks.known_variables(optimizers[0])
    known_ids = {id(variable) for variable in known}
    new = [c.feedback_kernel for c in joining if id(c.kernel) in known_ids]
    if not new and known_ids.isdisjoint(gone):
        return
    # The order of `model.trainable_variables`, in which a reloaded model builds its optimizer.
    rank = {id(variable): i for i, variable in enumerate(model.variables)}
    stay = [variable for variable in known if id(variable) not in gone]
    variables = sorted(stay + new, key=lambda variable: rank.get(id(variable), len(rank)))
    before = [
        (
            optimizer_hooks.known_variables(optimizer),
            optimizer_hooks.optimizer_state(optimizer),
        )
        for optimizer in optimizers
    ]
    optimizer_hooks.build_again(optimizers, variables)
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
    variables = optimizer_hooks.known_variables(optimizer)
    for name, new in optimizer_hooks.optimizer_state(optimizer).items():
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
