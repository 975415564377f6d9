"""Small models, data and recorders that the callback tests train with."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tests.batches import in_batches

SGD = keras.optimizers.SGD


def images(batches: int = 8, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """8x8 images of four classes, each a fixed pattern in noise; `batches` times `size` of them."""
    random = np.random.default_rng(5)
    patterns = random.normal(size=(4, 8, 8, 1))
    labels = random.integers(0, 4, batches * size)
    noise = random.normal(size=(batches * size, 8, 8, 1))
    return (patterns[labels] + noise).astype("float32"), labels


def convolutional(rule: str | None) -> keras.Model:
    """Two convolutions with BatchNorm, dropout and a dense head; plain Keras for `rule=None`."""
    keras.utils.set_random_seed(3)
    k, options = keras.layers, {} if rule is None else {"rule": rule}
    conv = k.Conv2D if rule is None else tfwm.layers.FeedbackConv2D
    dense = k.Dense if rule is None else tfwm.layers.FeedbackDense
    x = inputs = keras.Input((8, 8, 1))
    x = conv(4, 3, strides=2, name="first", **options)(x)
    x = k.ReLU()(k.BatchNormalization(name="first_norm")(x))
    x = conv(6, 2, padding="same", name="second", **options)(x)
    x = k.ReLU()(k.BatchNormalization(name="second_norm")(x))
    x = k.Dropout(0.3, seed=1)(k.Flatten()(x))
    return keras.Model(inputs, dense(4, name="head", **options)(x), name="convolutional")


def dense(rule: str | None, **options: Any) -> keras.Model:
    """64 pixels to 6 tanh cells to 4 logits; plain Keras for `rule=None`."""
    keras.utils.set_random_seed(3)
    make = keras.layers.Dense
    if rule is not None:
        make, options = tfwm.layers.FeedbackDense, {"rule": rule, **options}
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Flatten(),
        make(6, activation="tanh", name="hidden", **options),
        make(4, name="head", **options),
    ]
    return keras.Sequential(layers, name="dense")


def compiled(model: keras.Model, optimizer: Any = None, **options: Any) -> keras.Model:
    """`model`, compiled on logits, without XLA unless asked for."""
    model.compile(
        SGD(0.05, momentum=0.9) if optimizer is None else optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{"jit_compile": False, **options},
    )
    return model


def eager(rule: str = "weight_mirror") -> keras.Model:
    """`dense`, compiled so that its steps need no trace."""
    return compiled(dense(rule), run_eagerly=True)


def fit(
    model: keras.Model,
    *callbacks: keras.callbacks.Callback,
    batches: int = 8,
    size: int = 8,
    epochs: int = 1,
    **options: Any,
) -> dict[str, list[float]]:
    """Train on `images` in their order; gives the history."""
    data = in_batches(*images(batches, size), size)
    options = {"epochs": epochs, "shuffle": False, "verbose": 0, **options}
    return model.fit(data, callbacks=list(callbacks), **options).history


def feedback(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of B of every pathway."""
    return {p.name: np.array(p.feedback_kernel.numpy()) for p in tfwm.pathways(model)}


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of W of every pathway."""
    return {p.name: np.array(p.kernel.numpy()) for p in tfwm.pathways(model)}


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of everything but B and the seeds."""
    return {
        v.path: np.array(v.numpy())
        for v in model.weights
        if "feedback" not in v.path and "seed" not in v.path
    }


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two such dicts are equal to the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def assert_same_on_replicas(variable: keras.Variable) -> None:
    """Each replica's copy holds the same bits."""
    copies = variable.value.values
    assert len(copies) == 2
    np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy(), err_msg=variable.path)


class KernelsAfterBatches(keras.callbacks.Callback):
    """`self.kernels[t]`: W of every pathway after t batches."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.kernels = [kernels(self.model)]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.kernels.append(kernels(self.model))


class Fails(keras.callbacks.Callback):
    """Stops training by an exception after the third batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 2:
            raise KeyboardInterrupt("stopped by a test")


def own_train_step(model: keras.Model) -> bool:
    """Whether `model` has its class's methods again, none on the instance."""
    step = model.train_step
    return getattr(step, "__func__", None) is type(model).train_step and not {
        "make_train_function",
        "fit",
    } & set(vars(model))


def distributed(strategy: tf.distribute.Strategy, batches: int = 8, size: int = 8) -> Any:
    """`images` as a distributed dataset of global batches."""
    dataset = tf.data.Dataset.from_tensor_slices(images(batches, size))
    return strategy.experimental_distribute_dataset(dataset.batch(size, drop_remainder=True))
