"""Every private hook of Keras' `fit` that this library uses.

`tests/_internals/test_fit_hooks.py` is their canary; pyproject.toml pins the range of Keras.
"""

import contextlib
from typing import Any

import keras

from tfweightmirror._internals.callers import selves_calling


def is_fitting(model: keras.Model) -> bool:
    """Whether this call was made, directly or not, by a `fit` of `model` in the same thread."""
    return any(caller is model for caller in selves_calling("fit"))


def was_restored(model: keras.Model) -> bool:
    """Whether `BackupAndRestore` has put an interrupted training of `model` back."""
    return model._initial_epoch is not None


def make_training_variables(model: keras.Model, batch: Any) -> None:
    """Make what Keras' own `train_step` makes in its first trace, which is therefore traced twice.

    Nothing is done where that is not known before: no batch, layers that are not built, or metrics
    that do not take symbols.

    Args:
        model: A compiled model.
        batch: The specs of a batch, (x, y) or (x, y, sample_weight); or None.
    """
    optimizer, metrics = model.optimizer, model._compile_metrics
    if batch is None or not all(layer.built for layer in model._flatten_layers()):
        return
    with model.distribute_strategy.scope():
        if metrics is not None and not metrics.built:
            with contextlib.suppress(Exception):  # what is wrong is said where it is traced
                model._symbolic_build(data_batch=batch)
        if optimizer is not None and not optimizer.built and model.trainable_weights:
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(model.trainable_weights)
