"""The private hooks of Keras and of `tf.function` that a look at a model needs.

`tests/_internals/test_look_hooks.py` is their canary.
"""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from tfweightmirror._internals.tensorflow_hooks import TracedFunction

# --- calls that leave nothing behind -----------------------------------------------------------

_call_traced = TracedFunction.__call__
_inlined: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar(
    "tfweightmirror_inlined_functions", default=None
)
_inliners: list[object] = []
_lock = threading.Lock()
# Their functions are made anew for every call, and some operations run compiled only.
_LEFT_ALONE = ("keras.", "tfweightmirror.")


@contextlib.contextmanager
def inlining_functions() -> Iterator[list[Any]]:
    """A context in which this thread calls every `tf.function` as the Python function behind it.

    A function inside a model would keep what it is traced with, and use it in training, too. The
    context lists the functions that were called, also those of contexts inside it.
    """
    outer = _inlined.get()
    inlined: list[Any] = [] if outer is None else outer
    me = object()
    with _lock:
        _inliners.append(me)
        TracedFunction.__call__ = _call_or_inline
    token = _inlined.set(inlined)
    try:
        yield inlined
    finally:
        _inlined.reset(token)
        with _lock:
            _inliners.remove(me)
            if not _inliners:
                TracedFunction.__call__ = _call_traced


@functools.wraps(_call_traced)
def _call_or_inline(function: Any, *args: Any, **kwargs: Any) -> Any:
    inner, inlined = function.python_function, _inlined.get()
    module = getattr(inner, "__module__", None) or ""
    # A function that was read from a file is of a class of its own, and has no Python behind it.
    if inlined is None or type(function) is not TracedFunction or module.startswith(_LEFT_ALONE):
        return _call_traced(function, *args, **kwargs)
    inlined.append(function)
    if not function._autograph:
        return tf.autograph.experimental.do_not_convert(inner)(*args, **kwargs)
    context = tf.__internal__.autograph.control_status_ctx()
    enabled = type(context)(type(context.status).ENABLED)
    converted = tf.__internal__.autograph.tf_convert(inner, enabled, user_requested=True)
    return converted(*args, **kwargs)


@contextlib.contextmanager
def building_nothing(layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """A context in which those of `layers` that a call would have to build raise a RuntimeError."""

    def refuse(layer: keras.layers.Layer) -> Callable[..., None]:
        def build(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f"Layer '{layer.name}' is not built.")

        return build

    builds = {layer: layer.__dict__["build"] for layer in layers if not layer.built}
    for layer, build in builds.items():
        if not getattr(build, "_is_default", False):  # that of `Layer`, which makes no weight
            layer.__dict__["build"] = refuse(layer)
    try:
        yield
    finally:
        for layer, build in builds.items():
            layer.__dict__["build"] = build


@contextlib.contextmanager
def keeping_what_calls_leave(layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """A context after which the layers' `add_loss` losses and dropout masks are what they were.

    A recurrent cell that is called by itself keeps its masks: those of a look's graph would fail
    the training.
    """
    layers = list(layers)
    losses = [(layer, list(layer._losses)) for layer in layers]
    masks = [
        (cell, name, getattr(cell, name, None))
        for cell in layers
        if isinstance(cell, DropoutRNNCell)
        for name in ("_dropout_mask", "_recurrent_dropout_mask")
    ]
    try:
        yield
    finally:
        for layer, before in losses:
            layer._losses[:] = before
        for cell, name, mask in masks:
            setattr(cell, name, mask)


# --- training ----------------------------------------------------------------------------------


def training_loss(model: keras.Model, x: Any, y: Any, sample_weight: Any) -> tf.Tensor:
    """The loss of a batch, as Keras' own `train_step` asks the model for it."""
    with tf.GradientTape():  # by which layers know that they train, if nobody tells them
        # Either method may be a user's own without a `training` argument.
        y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
        data = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
        return model._compute_loss(**data, training=True)


# --- operations --------------------------------------------------------------------------------

_ACTIVATIONS = (
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Exp"),
    *("Sigmoid", "SparseSigmoid", "HardSigmoid", "LogSigmoid", "HardSilu"),
    *("Tanh", "TanhShrink", "HardTanh", "HardShrink", "SoftShrink", "Threshold"),
    *("Softplus", "Softsign", "Squareplus", "SparsePlus", "ReLU"),
)


def is_activation(operation: keras.Operation) -> bool:
    """Whether `operation` is what an elementwise `keras.activations` function is in a graph."""
    cls = type(operation)
    by_keras = cls.__module__.startswith(("keras.src.ops.", "keras.src.activations."))
    return by_keras and cls.__name__ in _ACTIVATIONS


def options_of(operation: keras.Operation) -> str:
    """The arguments that an operation of Keras was made with, but for its name."""
    config = operation._auto_config.config if operation._auto_config else {}
    return repr({name: value for name, value in config.items() if name != "name"})
