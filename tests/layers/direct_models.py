"""A small network under direct feedback alignment, and its gradients."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import keep_synapses

k = keras.layers


def randomized(model: keras.Model, seed: int = 1) -> keras.Model:
    """`model` with normal weights and feedback kernels."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) / 2)
    for layer in model.layers:
        keep_synapses(layer)
    return model


def gradients(
    model: keras.Model, x: Any, y: Any, mode: str = "eager"
) -> tuple[Any, dict[str, Any]]:
    """Of softmax and cross-entropy, in x and, by path, in the weights."""
    weights = model.trainable_variables

    def run(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = tf.cast(model(x, training=True), "float32")
            loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, [x, [weight.value for weight in weights]])

    step = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    dx, found = step(tf.convert_to_tensor(x))
    names = ["/".join(weight.path.split("/")[-2:]) for weight in weights]
    return dx.numpy(), {name: g.numpy() for name, g in zip(names, found, strict=True)}


def error_of(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def plain_layers(*, norm: bool = True) -> list[k.Layer]:
    """Of a convolutional network of four kernels."""
    return [
        k.Conv2D(3, 3, activation="tanh", name="low"),
        *[k.BatchNormalization(name="norm")] * norm,
        k.DepthwiseConv2D(2, activation="tanh", name="depth"),
        k.Flatten(name="flat"),
        k.Dense(5, "tanh", name="hidden"),
        k.Dense(3, name="head"),
    ]


def small() -> tuple[keras.Sequential, Any, Any]:
    """Such a network under the rule, images and classes."""
    model = keras.Sequential([keras.Input((6, 6, 2)), *plain_layers()])
    random = np.random.default_rng(3)
    images = random.normal(size=(8, 6, 6, 2)).astype("float32")
    return randomized(tfwm.convert_model(model, "dfa")), images, np.arange(8) % 3
