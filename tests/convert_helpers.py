"""The proof that B, and B alone, carries the error, through `fit` for real.

A model that trains by plain backprop in silence (a stale trace, a twin that was never built) is
the worst fault this library can have, so every conversion path ends in `assert_b_carries`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import tfweightmirror as tfwm
from tests.batches import in_batches
from tfweightmirror._internals.attendance import mirror_attends

Step = Callable[[keras.Model, Any, Any], None]


def chain(*, with_input: bool = True) -> keras.Sequential:
    """Four layers with kernels, of three kinds, in one line: conv, depth, hidden, head."""
    layers = [
        keras.layers.Conv2D(3, 3, strides=2, activation="tanh", name="conv"),
        keras.layers.DepthwiseConv2D(2, activation="tanh", name="depth"),
        keras.layers.Flatten(),
        keras.layers.Dense(5, activation="tanh", name="hidden"),
        keras.layers.Dense(3, name="head"),
    ]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers] if with_input else layers)


def images(samples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets for `chain`."""
    random = np.random.default_rng(3)
    return (
        random.normal(size=(samples, 6, 6, 2)).astype("float32"),
        random.normal(size=(samples, 3)).astype("float32"),
    )


def vectors(samples: int = 8, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of `width` and targets of three numbers."""
    random = np.random.default_rng(3)
    return (
        random.normal(size=(samples, width)).astype("float32"),
        random.normal(size=(samples, 3)).astype("float32"),
    )


def compiled(model: keras.Model, **options: Any) -> keras.Model:
    """`model`, compiled with plain SGD, whose change of a weight is its gradient."""
    model.compile(keras.optimizers.SGD(0.1), "mse", **{"jit_compile": False, **options})
    return model


def fit(model: keras.Model, x: Any, y: Any) -> None:
    """One batch of `fit`."""
    with mirror_attends():
        model.fit(in_batches(x, y), shuffle=False, verbose=0)


@contextlib.contextmanager
def put_back(model: keras.Model) -> Iterator[None]:
    """A context after which the model and its optimizer are what they were."""
    variables = [*model.variables, *model.optimizer.variables]
    values = [variable.numpy() for variable in variables]
    yield
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def changes(model: keras.Model, x: Any, y: Any, step: Step = fit) -> dict[str, np.ndarray]:
    """What one training step does to the forward kernels, by pathway name."""
    kernels = {pathway.name: pathway.kernel for pathway in tfwm.pathways(model)}
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    with put_back(model):
        before = {name: kernel.numpy() for name, kernel in kernels.items()}
        step(model, x, y)
        return {name: kernel.numpy() - before[name] for name, kernel in kernels.items()}


def assert_b_carries(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    below: dict[str, list[str]] | None = None,
    step: Step = fit,
) -> None:
    """Fail unless the errors of a training step travel on the feedback kernels and nothing else.

    For every pathway: another B changes the step of every kernel below it (and, in a chain, of no
    other), and B = 0 stops every kernel below it exactly, which no trace of W in the backward pass
    would allow.

    Args:
        model: A compiled model, converted with a rule that carries errors on B alone.
        x: Inputs.
        y: Targets.
        below: The kernels whose only way to the loss is through a pathway, by pathway name.
            Default: all before it in execution order, as in a chain.
        step: Trains on one batch.
    """
    pathways = {pathway.name: pathway for pathway in tfwm.pathways(model)}
    names, in_line = list(pathways), below is None
    if below is None:
        below = {name: names[:index] for index, name in enumerate(names) if index}
    start = changes(model, x, y, step)
    for name, change in start.items():
        assert np.abs(change).max() > 0, f"{name} does not learn at all"
    random = np.random.default_rng(11)
    for name, below_it in below.items():
        b = pathways[name].feedback_kernel
        assert b is not None, f"{name} has no feedback kernel"
        value = b.numpy()
        b.assign(value + random.normal(size=value.shape))
        other = changes(model, x, y, step)
        b.assign(np.zeros_like(value))
        nothing = changes(model, x, y, step)
        b.assign(value)
        for kernel in below_it:
            assert not np.array_equal(other[kernel], start[kernel]), f"{kernel} ignores {name}'s B"
            assert np.abs(nothing[kernel]).max() == 0, f"{kernel} learns without {name}'s B"
        for kernel in set(names) - set(below_it) if in_line else ():
            assert np.array_equal(other[kernel], start[kernel]), f"{name}'s B moves {kernel}"
