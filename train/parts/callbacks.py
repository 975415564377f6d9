"""Keras callbacks of a user's own, and the library's that no rule needs."""

from __future__ import annotations

from typing import Any

import keras

from tfweightmirror.callbacks import SignFlips
from train.config import Part
from train.parts.named import classes_of, instance

# What the run does itself (checkpoints, history, a line an epoch), or takes functions.
_NOT_HERE = (
    *("BackupAndRestore", "CallbackList", "History", "OrbaxCheckpoint", "ProgbarLogger"),
    *("LambdaCallback", "LearningRateScheduler"),
)


def known_callbacks() -> dict[str, Any]:
    """The callbacks of Keras by name, and the one of the library that goes with any rule."""
    found = classes_of(keras.callbacks, keras.callbacks.Callback)
    of_keras = {name: member for name, member in found.items() if name not in _NOT_HERE}
    return {"SignFlips": SignFlips} | of_keras


def build_callbacks(parts: tuple[Part, ...]) -> list[Any]:
    """The callbacks, in their order."""
    known, base = known_callbacks(), keras.callbacks.Callback
    return [
        instance(f"callbacks[{place}]", part, known, base, "a Keras callback")
        for place, part in enumerate(parts)
    ]


def forgetful(callbacks: list[Any]) -> list[str]:
    """Names of callbacks that have no `state()` for a checkpoint."""
    return [type(callback).__name__ for callback in callbacks if not hasattr(callback, "state")]
