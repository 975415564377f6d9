"""Every private hook of Keras' optimizers that this library uses, in one file.

`tests/test_optimizer_internals.py` is their canary; pyproject.toml pins the range of Keras.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras


def decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The decoupled weight decay that `optimizer` gives to `variable`; 0.0 for none."""
    # Names are matched against those of TensorFlow's variables, which are paths; in Muon against
    # Keras' own, which are not. The first answer is kept, so to ask otherwise would change it.
    muon = isinstance(optimizer, keras.optimizers.Muon)
    if not optimizer._use_weight_decay(variable if muon else variable.value):
        return 0.0
    if muon and optimizer._should_use_adamw(variable):
        return float(optimizer.adam_weight_decay or 0.0)
    return float(optimizer.weight_decay or 0.0)


def coupled_decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The weight decay that `optimizer` adds to the gradient of `variable`; 0.0 for none.

    No Keras optimizer has one. A subclass whose `update_step` adds `coupled_weight_decay * weight`
    to the gradient (behind clipping, before momentum), but for what `exclude_from_weight_decay`
    names, says so by an attribute of that name.
    """
    decay = getattr(optimizer, "coupled_weight_decay", None)
    return float(decay) if decay and optimizer._use_weight_decay(variable.value) else 0.0


def per_step_decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The share of `variable` that every update takes, whatever the learning rate; 0.0 for none.

    No Keras optimizer has one. A subclass whose `update_step` first takes
    `per_step_weight_decay * weight` of each weight, but for what `exclude_from_weight_decay` names,
    says so by an attribute of that name.
    """
    decay = getattr(optimizer, "per_step_weight_decay", None)
    return float(decay) if decay and optimizer._use_weight_decay(variable.value) else 0.0


def velocity_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.Variable | None:
    """The momentum that an SGD optimizer keeps for `variable`; None before the first step."""
    velocities = getattr(optimizer, "momentums", None)
    return velocities[optimizer._get_variable_index(variable)] if velocities else None


def same_update(
    optimizer: keras.optimizers.Optimizer, one: keras.Variable, other: keras.Variable
) -> bool:
    """Whether `optimizer` treats two variables of one shape by the same formula."""
    if isinstance(optimizer, keras.optimizers.Muon):
        return bool(optimizer._should_use_adamw(one) == optimizer._should_use_adamw(other))
    return True


def share_gradients(
    optimizer: keras.optimizers.Optimizer, twins: Sequence[tuple[keras.Variable, keras.Variable]]
) -> Callable[[], None]:
    """Make `optimizer` take the gradient of each pair's second variable from the first's.

    The two are the same tensor. Sent once, it crosses the network once; counted once, a global
    norm is what it would be without the second variable.

    Args:
        optimizer: A Keras optimizer (the inner one under loss scaling).
        twins: Pairs (variable, its twin).

    Returns:
        A function that undoes it.
    """
    original_of = {id(twin.value): variable.value for variable, twin in twins}
    reduce, apply = optimizer._all_reduce_sum_gradients, optimizer._backend_apply_gradients
    clip = optimizer._clip_gradients
    present = threading.local()  # MirroredStrategy traces each replica in a thread of its own.

    def once(
        transform: Callable[[list[Any], list[Any]], list[Any]], grads: Any, variables: Any
    ) -> list[Any]:
        """`transform` of the gradients that are not a twin's, dealt to all."""
        values = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        kept = [i for i, value in enumerate(values) if id(value) not in original_of]
        changed = transform([grads[i] for i in kept], [variables[i] for i in kept])
        by_value = {id(values[i]): gradient for i, gradient in zip(kept, changed, strict=True)}
        return [by_value[id(original_of.get(id(value), value))] for value in values]

    def reduce_once(grads_and_vars: Any) -> list[Any]:
        grads, variables = zip(*grads_and_vars, strict=True)

        def transform(grads: list[Any], variables: list[Any]) -> list[Any]:
            return [gradient for gradient, _ in reduce(list(zip(grads, variables, strict=True)))]

        return list(zip(once(transform, grads, variables), variables, strict=True))

    def apply_remembering(grads: Any, variables: Any) -> None:
        present.variables = variables
        apply(grads, variables)

    def clip_once(grads: Any) -> list[Any]:
        return once(lambda kept, _: list(clip(kept)), grads, present.variables)

    optimizer._all_reduce_sum_gradients = reduce_once
    optimizer._backend_apply_gradients = apply_remembering
    optimizer._clip_gradients = clip_once

    def undo() -> None:
        for name in ("_all_reduce_sum_gradients", "_backend_apply_gradients", "_clip_gradients"):
            optimizer.__dict__.pop(name, None)

    return undo
