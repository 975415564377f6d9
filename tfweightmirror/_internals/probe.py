"""What a look at a model needs from its layers: their calls, and errors on W itself.

The layers and the custom gradient ask here; `walk.py` and `diagnostics/deltas.py` look.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class Call(NamedTuple):
    """A pathway that signals have passed."""

    layer: Any
    kernel: str  # name of the attribute
    inputs: tf.Tensor
    output: tf.Tensor  # `op(x, W)`, before bias and activation


_calls: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar(
    "tfweightmirror_calls", default=None
)
_on_w: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "tfweightmirror_errors_on_w", default=False
)


@contextlib.contextmanager
def recording_calls() -> Iterator[list[Call]]:
    """A context that lists every pathway's call."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def is_looked_at() -> bool:
    """Called by feedback layers: whether somebody looks, so that nothing trains."""
    return _calls.get() is not None


def record_call(call: Call) -> None:
    """Called by feedback layers as signals have passed."""
    calls = _calls.get()
    if calls is not None:
        calls.append(call)


@contextlib.contextmanager
def errors_on_w() -> Iterator[None]:
    """A context in which gradients that are taken (or traced) are those of plain backprop."""
    token = _on_w.set(True)
    try:
        yield
    finally:
        _on_w.reset(token)


def errors_travel_on_w() -> bool:
    """Called by the custom gradient when it is taken."""
    return _on_w.get()
