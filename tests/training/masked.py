"""A small model with masks of W and B, and what must be 0 in it."""

from typing import Any

import keras
import numpy as np

from tests.callbacks.training import compiled, dense, feedback, kernels
from tfweightmirror.training import Sparse, constrain


def sparse(rule: Any, optimizer: Any = None, share: float = 0.5, **options: Any) -> keras.Model:
    """`dense` with masks in the hidden layer."""
    model = compiled(dense(rule), optimizer, **options)
    return constrain(model, Sparse(share, seed=1), layers=["hidden"])


def masks(model: keras.Model, name: str = "hidden") -> tuple[np.ndarray, np.ndarray]:
    """Where W and B of a layer have entries."""
    held = model.get_layer(name).kernel_constraint
    return held.mask.numpy() == 1, held.feedback_mask.numpy() == 1


def assert_held(model: keras.Model, *, taught: bool = False) -> None:
    """Entries are 0 where there is none, and nearly nowhere else.

    A B that balanced noise has `taught` is 0 also where W has none.
    """
    w, b = masks(model)
    for found, exists in ((kernels(model), w), (feedback(model), b)):
        assert (found["hidden"][~exists] == 0).all()
        assert (found["hidden"][w & b if taught else exists] != 0).mean() > 0.99
