"""What code that takes gradients sees of B's while a callback has the optimizer move B with W.

B's gradient is dW, so whoever sums over all gradients (a clip by the global norm in a train step
of the user's own) would count dW twice, and W would train otherwise than without B.
"""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.tensorflow_hooks import custom_gradient

_hidden: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar(
    "tfweightmirror_hidden_gradients", default=frozenset()
)


@contextlib.contextmanager
def hiding_gradients(kernels: Iterable[keras.Variable]) -> Iterator[None]:
    """A context in which the gradients of these feedback kernels are zeros.

    To be entered by the thread that runs the step: each replica has one of its own.
    """
    token = _hidden.set(frozenset(id(kernel) for kernel in kernels))
    try:
        yield
    finally:
        _hidden.reset(token)


def is_kernels(rule: Any) -> bool:
    """Whether `rule` makes the very gradient of W that of B."""
    probe = tf.zeros(())
    alone = not rule.has_local_loss and rule.factors((1, 1, 1)) is None
    return alone and rule.feedback_gradient(probe) is probe


def is_hidden(kernel: keras.Variable) -> bool:
    """Whether a callback sees to the gradient of this feedback kernel in the present step."""
    return id(kernel) in _hidden.get()


def read(kernel: keras.Variable) -> tf.Tensor:
    """The value of a feedback kernel, whose gradient is zeros if it is hidden."""
    value = tf.convert_to_tensor(kernel)
    return _without_gradient(value) if is_hidden(kernel) else value


# Not None, as `tf.stop_gradient` has it: zeros can be scaled, clipped and summed, and they are
# constants, for which nothing is computed.
_without_gradient = custom_gradient(tf.identity, lambda tensors, error: [tf.zeros_like(error)])
