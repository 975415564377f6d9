"""Tells a user who trains a `weight_mirror` model that nobody teaches its feedback weights."""

import contextlib
import contextvars
import warnings
import weakref
from collections.abc import Iterator

import keras

from tfweightmirror import keras_internals

_attended = contextvars.ContextVar("tfweightmirror_attended", default=False)
_warned: "weakref.WeakSet[keras.layers.Layer]" = weakref.WeakSet()


@contextlib.contextmanager
def mirror_attends() -> Iterator[None]:
    """A context in which training steps are followed by mirror mode."""
    token = _attended.set(True)
    try:
        yield
    finally:
        _attended.reset(token)


def warn_if_unattended(layer: keras.layers.Layer) -> None:
    """Warn once per model that is called in training mode with nobody to teach B."""
    model = keras_internals.outermost_layer(layer)
    if _attended.get() or model in _warned:
        return
    _warned.add(model)
    warnings.warn(
        f"'{model.name}' trains with the rule 'weight_mirror', but nothing teaches its feedback "
        "weights: they stay random, which is feedback alignment. Pass "
        "tfweightmirror.callbacks.WeightMirror() to fit, or call mirror_model yourself between "
        "steps (and ignore this warning).",
        UserWarning,
        stacklevel=2,
    )
