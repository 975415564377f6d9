"""The network of the study and its data."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from train.config import DataConfig
from train.data import datasets
from train.errors import UserError
from train.parts.models.mlp import mlp

BATCH = 64
HELD_OUT = 5
"""One in so many training images is kept to choose settings by."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Pixels of mean 0 and standard deviation 1 with their labels: to train on, and to judge by."""

    train: tuple[Any, Any]
    judge: tuple[Any, Any]
    shape: tuple[int, ...]


@functools.cache
def images(name: str, *, validate: bool) -> Images:
    """A data set of the launcher; with `validate`, its test images are never looked at.

    Raises:
        UserError: The data are not there, or not in memory.
    """
    data = datasets.load(DataConfig(name=name))
    if data.train.arrays is None or data.test.arrays is None:
        raise UserError(
            f"data {name} do not fit into memory. Expected a smaller set, such as mnist."
        )
    (x, y), test = data.train.arrays, data.test.arrays
    kept = len(x) - len(x) // HELD_OUT
    train, judge = ((x[:kept], y[:kept]), (x[kept:], y[kept:])) if validate else ((x, y), test)
    offset, width = train[0].mean(), train[0].std()
    train, judge = (((x - offset) / width, y) for x, y in (train, judge))
    return Images(train, judge, data.input_shape)


def network(shape: tuple[int, ...], rule: str, *, width: int, seed: int) -> keras.Model:
    """Four hidden layers of `width` ReLU cells. The first sends no error back, so it has no B."""
    keras.utils.set_random_seed(seed)
    model = mlp(shape, (10,), units=(width,) * 4, initializer="he_normal")
    if rule != "backprop":
        tfwm.convert_model(model, {"hidden_1": "backprop", "*": rule}, seed=seed)
    return model


def copy(source: keras.Model, target: keras.Model) -> None:
    """Gives `target` the W and biases of `source`."""
    for new, old in zip(source.layers, target.layers, strict=True):
        if new.weights:
            old.kernel.assign(new.kernel)
            old.bias.assign(new.bias)


class Bench:
    """A network and its compiled training step, which serve one seed after another.

    Args:
        batches_per_call: Batches that one compiled call trains on.
    """

    def __init__(
        self, shape: tuple[int, ...], rule: str, width: int, batches_per_call: int
    ) -> None:
        self.model = network(shape, rule, width=width, seed=0)
        self.model.compile(
            keras.optimizers.SGD(0.0, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=batches_per_call,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._plain = (shape, width)

    def begin(self, seed: int, learning_rate: float) -> None:
        """All weights, W and B, as `network` gives them for the seed; an optimizer at rest."""
        shape, width = self._plain
        copy(network(shape, "backprop", width=width, seed=seed), self.model)
        if any(p.feedback_kernel is not None for p in tfwm.pathways(self.model)):
            tfwm.reset_feedback(self.model, seed=seed)
        for variable in self.model.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.model.optimizer.learning_rate.assign(learning_rate)

    def train(
        self, data: Images, *, epochs: int, seed: int, after_call: Callable[[], None] | None = None
    ) -> float:
        """The accuracy at the end, a share of the images to judge by."""
        examples = tf.data.Dataset.from_tensor_slices(data.train).cache()
        examples = examples.shuffle(len(data.train[0]), seed=seed).batch(BATCH, drop_remainder=True)
        callbacks = []
        if after_call is not None:
            callbacks.append(
                keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: after_call())
            )
        with warnings.catch_warnings():
            if after_call is not None:  # by which mirror mode runs
                warnings.filterwarnings("ignore", message=".*nothing teaches its feedback weights")
            self.model.fit(examples.repeat(epochs), shuffle=False, verbose=0, callbacks=callbacks)
        x, y = data.judge
        return float(self.model.evaluate(x, y, batch_size=len(x), verbose=0)[1])


@functools.lru_cache(maxsize=4)
def bench(shape: tuple[int, ...], rule: str, width: int, batches_per_call: int) -> Bench:
    """The bench for these; the last ones are kept."""
    return Bench(shape, rule, width, batches_per_call)
