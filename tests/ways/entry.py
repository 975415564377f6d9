"""The table of ways, and what they share: small data, layers, one step of `fit`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.batches import in_batches
from tests.ways.proof import Way

SGD = keras.optimizers.SGD
k = keras.layers


@dataclasses.dataclass(frozen=True)
class Entry:
    """One way, the rule it is tried with, and what its proof needs."""

    way: Way
    rule: str
    slow: bool
    options: dict[str, Any]


WAYS: dict[str, Entry] = {}


def goes(rule: str = "fa", *, slow: bool = False, **options: Any) -> Callable[[Way], Way]:
    """Enter a way into the table."""

    def enter(way: Way) -> Way:
        WAYS[way.__name__] = Entry(way, rule, slow, options)
        return way

    return enter


def normal(*shape: int, seed: int = 3) -> np.ndarray:
    """A normal array."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


X, Y = normal(8, 4), normal(8, 3, seed=4)


def dense(units: int = 4, name: str | None = None, **options: Any) -> keras.layers.Dense:
    """A smooth hidden layer."""
    return k.Dense(units, **{"activation": "tanh", "name": name, **options})


def mlp(name: str | None = None) -> keras.Sequential:
    """4 inputs, two hidden layers, three outputs."""
    layers = [keras.Input((4,)), dense(4, "low"), dense(5, "middle"), k.Dense(3, name="head")]
    return keras.Sequential(layers, name=name)


def compiled(model: keras.Model, optimizer: Any = None, **options: Any) -> keras.Model:
    """`model`, compiled with plain SGD and without XLA unless asked for."""
    options = {"loss": "mse", "jit_compile": False, **options}
    model.compile(SGD(0.1) if optimizer is None else optimizer, **options)
    return model


def fit(model: keras.Model, x: Any = X, y: Any = Y, **options: Any) -> None:
    """One batch of `fit`."""
    model.fit(in_batches(x, y), **{"shuffle": False, "verbose": 0, **options})


class Within(keras.callbacks.Callback):
    """Calls `then(step)` in the midst of a `fit`; `step` is the function that this fit runs."""

    def __init__(self, then: Callable[[Callable[[], Any]], None], data: tf.data.Dataset) -> None:
        super().__init__()
        self.then, self.data, self.batches = then, data, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        if self.batches == 2:
            self.then(lambda: self.model.train_function(iter(self.data)))


def fit_and_prove(
    model: keras.Model,
    prove: Any,
    *callbacks: Any,
    data: Any = (X, Y),
    epochs: int = 1,
    **proof: Any,
) -> None:
    """A `fit` of two batches an epoch with callbacks, and the proof in the midst of it."""
    told = [callback for callback in callbacks if hasattr(callback, "state")]
    batches = in_batches(*data, drop_remainder=True).repeat()  # one batch, again and again
    within = Within(lambda step: prove(model, step, callbacks=told, **proof), batches)
    options = {"steps_per_epoch": 2, "epochs": epochs, "shuffle": False, "verbose": 0}
    model.fit(batches, callbacks=[*callbacks, within], **options)
