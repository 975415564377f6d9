"""The gaps B - W, the law that they follow, and optimizers that the callback tests train with."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.callbacks.training import SGD, feedback, kernels

Optimizer = keras.optimizers.Optimizer

# Relative, of |B - W|: the project's own bound for the law in float32.
LAW = 2e-4
# What the callback replaces on the optimizer while it trains.
HOOKS = ("apply", "update_step", "_apply_weight_decay", "assign_add", "assign_sub")
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=4, decay_rate=0.7)


def gaps(model: keras.Model) -> dict[str, float]:
    """|B - W| of every pathway, in double precision."""
    held, trained = feedback(model), kernels(model)
    return {
        name: float(np.linalg.norm(held[name].astype("float64") - trained[name])) for name in held
    }


def law(optimizer: Optimizer, decay: float, updates: int = 16) -> float:
    """What `updates` of `optimizer` must leave of the gap."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = inner._learning_rate
    rates = [float(rate(t) if callable(rate) else rate.numpy()) for t in range(updates)]
    return math.prod(1 - r * decay for r in rates)


def excluding(optimizer: Optimizer, name: str) -> Optimizer:
    """`optimizer` without decay for variables of that name."""
    optimizer.exclude_from_weight_decay(var_names=[name])
    return optimizer


def coupled(optimizer_class: Any) -> Any:
    """An optimizer class with PyTorch's decay, as the callback expects it of users."""

    class Coupled(optimizer_class):
        def __init__(self, *arguments: Any, coupled_weight_decay: float, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.coupled_weight_decay = coupled_weight_decay

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if self._use_weight_decay(variable):
                gradient = gradient + self.coupled_weight_decay * tf.convert_to_tensor(variable)
            super().update_step(gradient, variable, learning_rate)

    return Coupled


COUPLED_SGD = coupled(SGD)
