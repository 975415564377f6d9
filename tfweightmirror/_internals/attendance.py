"""Tells a user who trains a model that nothing teaches its feedback weights."""

import contextlib
import contextvars
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.optimizer_hooks import any_decay_of, inner_of, optimizers_knowing

_attended = contextvars.ContextVar("tfweightmirror_attended", default=False)
_warned: "weakref.WeakSet[keras.layers.Layer]" = weakref.WeakSet()
# By model: the id of its optimizer, all optimizers that may train it, and the ids of kernels whose
# decay they have been asked for.
_asked: "weakref.WeakKeyDictionary[keras.layers.Layer, tuple[int, list[Any], set[int]]]"
_asked = weakref.WeakKeyDictionary()


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
    model = keras_hooks.outermost_layer(layer)
    if _attended.get() or model in _warned:
        return
    _warned.add(model)
    warnings.warn(
        f"'{model.name}' trains with the rule 'weight_mirror', but nothing teaches its feedback "
        "weights: they stay random, which is feedback alignment. Pass "
        "tfweightmirror.callbacks.WeightMirror() to fit, or call mirror_model yourself between "
        "steps (and ignore this warning)." + see("nobody-teaches-b"),
        UserWarning,
        stacklevel=stacklevel_of_user(),
    )


def warn_if_not_decayed(
    layer: keras.layers.Layer, kernel: keras.Variable, feedback: keras.Variable
) -> None:
    """Warn once per model that trains with no equal weight decay to draw `feedback` to `kernel`."""
    model = keras_hooks.outermost_layer(layer)
    compiled_with = id(getattr(model, "optimizer", None))
    if model in _warned:
        return
    if model not in _asked or _asked[model][0] != compiled_with:
        known = [weakref.ref(optimizer) for optimizer in _optimizers(model)]
        _asked[model] = compiled_with, known, set()
    _, known, asked = _asked[model]
    if id(kernel) in asked:
        return
    asked.add(id(kernel))
    living = [inner_of(optimizer) for reference in known if (optimizer := reference())]
    decays = [tuple(any_decay_of(o, variable) for variable in (kernel, feedback)) for o in living]
    if any(of_kernel == of_feedback > 0 for of_kernel, of_feedback in decays):
        return
    _warned.add(model)
    rule = layer.rule.name
    if unequal := [pair for pair in decays if any(pair)]:
        warnings.warn(
            f"'{model.name}' trains with the rule '{rule}', but its optimizer decays W of layer "
            f"'{layer.name}' by {unequal[0][0]:g} and B by {unequal[0][1]:g}: the gap between them "
            "does not die out. Give both one weight decay: name both or none in "
            "exclude_from_weight_decay." + see("unequal-decay"),
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )
        return
    checked = ", and pass tfweightmirror.callbacks.KolenPollack() to fit, which checks it"
    stays = ", which is 'updated_random_feedback'"
    warnings.warn(
        f"'{model.name}' trains with the rule '{rule}', but no optimizer that it is known "
        f"to have decays the weights of layer '{layer.name}': the gap between W and B stays what "
        f"it is{stays if rule == 'kolen_pollack' else ''}. Give the optimizer weight_decay"
        f"{checked if rule == 'kolen_pollack' else ''}. In a training loop of "
        "your own, the optimizer is known if it is an attribute of the model (as after compile), "
        "or built with the model's variables before the first step." + see("no-weight-decay"),
        UserWarning,
        stacklevel=stacklevel_of_user(),
    )


def _optimizers(model: keras.layers.Layer) -> list[keras.optimizers.Optimizer]:
    """Those that may train `model`: its own, else those of models around it and of loops."""
    from tfweightmirror.conversion.compiled import optimizers_of  # which imports the layers

    own = optimizers_of(model)
    if own:
        return own
    around = keras_hooks.models_holding([model])
    return [
        *optimizers_knowing(model.trainable_variables),
        *(optimizer for holder in around for optimizer in optimizers_of(holder)),
    ]
