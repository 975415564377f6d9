"""Whose fault an error is: what a user can mend becomes a sentence."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.errors import UserError, see
from train.parsing.phases import paths_of

# What a refusal of the library says, to the key that it is about; the first that fits.
_KEYS = {
    "Pattern ": "feedback.layers",
    "activations=": "mirror.options.activations",
    "coupled weight decay": "optimizer.decay",
    "use_ema": "optimizer.options.use_ema",
    "needs weight decay": "optimizer.weight_decay",
    "weights in float32": "training.precision",
    "has a kernel constraint": "constraints",
    "(Sparse)": "constraints",
    "cannot hold under": "optimizer.name",
}
_CALLBACKS = "keras.src.callbacks."
_LOSSES = {"CompileLoss": "loss", "CompileMetrics": "metrics"}
_MENDABLE = (TypeError, ValueError, LookupError, OSError, tf.errors.InvalidArgumentError)
# Told elsewhere.
_NOT_HERE = (UserError, MemoryError, tf.errors.ResourceExhaustedError)


@contextlib.contextmanager
def faults_as_user_errors(config: FitConfig) -> Iterator[None]:
    """A context in which what others raise becomes a UserError that says where it is from.

    The library refuses (no weight decay under Kolen-Pollack, ...), so do callbacks, losses and
    metrics of Keras, and modules that `config` names raise whatever they like.
    """
    try:
        yield
    except _NOT_HERE:
        raise
    except Exception as error:
        if sentence := _told(error, config):
            raise UserError(sentence) from error
        raise


def _told(error: Exception, config: FitConfig) -> str:
    """The sentence; empty if the fault is this code's own."""
    said = f"{type(error).__name__}: {error}"
    own = {path.partition(":")[0] for path in paths_of(config)}
    modules = []
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module, code = frame.f_globals.get("__name__", ""), frame.f_code
        if module in own:
            return (
                f"{module}.{code.co_name} fails: {said} ({code.co_filename}, line {line}). "
                f"--debug shows how it was called." + see("parts-of-your-own", "own_parts")
            )
        modules.append((module, type(frame.f_locals.get("self")).__name__))
    if not isinstance(error, _MENDABLE) or not modules:
        return ""
    inmost, _ = modules[0]
    if inmost.partition(".")[0] == tfwm.__name__ and isinstance(error, (TypeError, ValueError)):
        default = "mirror" if inmost.startswith(f"{tfwm.__name__}.mirror") else "feedback.rule"
        key = next((key for words, key in _KEYS.items() if words in str(error)), default)
        return f"{key}: {error}"
    for module, owner in modules:
        if module.startswith(_CALLBACKS) and owner != "CallbackList":
            return f"callbacks: {owner} fails: {error}"
        if owner in _LOSSES:
            return f"{_LOSSES[owner]} does not fit outputs or targets: {said}"
    return ""
