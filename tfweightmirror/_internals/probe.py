"""What a probe of the backward pass needs from the layers: their outputs, and errors on W itself.

The layers and the custom gradient ask here; `diagnostics/deltas.py` is the one that probes.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

Outputs = list[tuple[Any, str, tf.Tensor]]

_probe: contextvars.ContextVar[Outputs | None] = contextvars.ContextVar(
    "tfweightmirror_probe", default=None
)
_on_w: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "tfweightmirror_errors_on_w", default=False
)


@contextlib.contextmanager
def recording_outputs() -> Iterator[Outputs]:
    """A context that lists (layer, name of the kernel, `op(x, W)`) of every pathway's call."""
    outputs: Outputs = []
    token = _probe.set(outputs)
    try:
        yield outputs
    finally:
        _probe.reset(token)


def record_output(layer: Any, kernel: str, output: tf.Tensor) -> None:
    """Called by feedback layers with `op(x, W)`, before bias and activation."""
    outputs = _probe.get()
    if outputs is not None:
        outputs.append((layer, kernel, output))


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
