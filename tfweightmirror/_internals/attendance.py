"""Tells a user who trains a model that nothing teaches its feedback weights."""

import contextlib
import contextvars
import dataclasses
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks, tensorflow_hooks
from tfweightmirror._internals.optimizer_hooks import any_decay_of, inner_of, optimizers_knowing


@dataclasses.dataclass
class Attended:
    """What a training step that mirror mode follows has shown of its errors while being traced.

    Attributes:
        graph: Of the step; None where it runs eagerly.
        frozen: ids of the handles of variables that do not learn.
        passed: ids of the feedback kernels whose pathways signals have passed.
        errors: Those of them on which an error travels, or may: behind a call in a graph of its own
            (a loop, a `tf.function`) this cannot be seen.
    """

    graph: Any
    frozen: set[int]
    passed: set[int] = dataclasses.field(default_factory=set)
    errors: set[int] = dataclasses.field(default_factory=set)

    def is_idle(self, feedback: keras.Variable) -> bool:
        """Whether no error travels on `feedback` in this step: nobody asks for the gradient of what
        comes into its layer, wherever it is called.
        """
        seen = id(feedback) in self.passed - self.errors
        return seen and not tensorflow_hooks.in_a_function(feedback, self.graph)


_attended: contextvars.ContextVar[Attended | None] = contextvars.ContextVar(
    "tfweightmirror_attended", default=None
)
_warned: "weakref.WeakSet[keras.layers.Layer]" = weakref.WeakSet()
# By model: the id of its optimizer, all optimizers that may train it, and the ids of kernels whose
# decay they have been asked for.
_asked: "weakref.WeakKeyDictionary[keras.layers.Layer, tuple[int, list[Any], set[int]]]"
_asked = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def mirror_attends(frozen: Sequence[keras.Variable] = ()) -> Iterator[Attended]:
    """A context in which a training step, in which `frozen` do not learn, is followed by mirror
    mode.
    """
    attended = Attended(_graph(), {id(handle) for handle in tensorflow_hooks.handles(frozen)})
    token = _attended.set(attended)
    try:
        yield attended
    finally:
        _attended.reset(token)


def signals_pass(feedback: keras.Variable | None, inputs: tf.Tensor) -> None:
    """Called by feedback layers: shows mirror mode whether the error at `inputs` is wanted."""
    attended = _attended.get()
    if attended is not None and feedback is not None:
        attended.passed.add(id(feedback))
        graph, frozen = attended.graph, attended.frozen
        here = graph is not None and graph is _graph()
        if not here or tensorflow_hooks.gradient_is_wanted(inputs, frozen):
            attended.errors.add(id(feedback))


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def warn_if_unattended(layer: keras.layers.Layer) -> None:
    """Warn once per model that is called in training mode with nobody to teach B."""
    model = keras_hooks.outermost_layer(layer)
    if _attended.get() is not None or model in _warned:
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


def warn_if_not_decayed(layer: keras.layers.Layer, kernel: keras.Variable) -> None:
    """Warn once per model that trains with no weight decay to draw B to `kernel`."""
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
    if any(any_decay_of(optimizer, kernel) > 0 for optimizer in living):
        return
    _warned.add(model)
    warnings.warn(
        f"'{model.name}' trains with the rule 'kolen_pollack', but no optimizer that it is known "
        f"to have decays the weights of layer '{layer.name}': the gap between W and B stays what "
        "it is, which is 'updated_random_feedback'. Give the optimizer weight_decay, and pass "
        "tfweightmirror.callbacks.KolenPollack() to fit, which checks it. In a training loop of "
        "your own, the optimizer is known if it is an attribute of the model (as after compile), "
        "or built with the model's variables before the first step.",
        UserWarning,
        stacklevel=2,
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
