"""Keras callbacks of a user's own."""

from __future__ import annotations

from typing import Any

import keras

from train.config import Part
from train.errors import UserError
from train.parts.named import classes_of, find, made


def known_callbacks() -> dict[str, Any]:
    """The callbacks of Keras by name."""
    return classes_of(keras.callbacks, keras.callbacks.Callback)


def build_callbacks(parts: tuple[Part, ...]) -> list[Any]:
    """The callbacks, in their order.

    Raises:
        UserError: If one or an option of it is not known or refused, or is no callback.
    """
    base: Any = keras.callbacks.Callback
    known = known_callbacks()
    built: list[Any] = []
    for place, part in enumerate(parts):
        key = f"callbacks[{place}]"
        callback = made(key, part, find(key, part.name, known))
        if not isinstance(callback, base):
            raise UserError(f"{key}={part.name} gave {callback!r}. Expected a Keras callback.")
        built.append(callback)
    return built


def forgetful(callbacks: list[Any]) -> list[str]:
    """Names of callbacks that have no `state()` for a checkpoint."""
    return [type(callback).__name__ for callback in callbacks if not hasattr(callback, "state")]
