"""The steps that are compiled: this library's own, of networks as `fit` would train them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import RULES
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.activation import activations_of
from tfweightmirror.mirror.step import mirror_pathways, mirror_step
from train.parts.models.resnet import resnet18
from train.parts.models.small_conv import small_conv

Step = tuple[Callable[..., Any], Sequence[tf.TensorSpec]]
BATCH = 128


def small() -> keras.Model:
    """The quickstart's network: three convolutions, each with BatchNorm and ReLU, and a head."""
    return small_conv((8, 8, 1), (10,))


def resnet() -> keras.Model:
    """ResNet-18 with 16 filters in its first stage.

    Images of 16x16: the same operations as of CIFAR's 32x32, compiled in a quarter of the time.
    """
    return resnet18((16, 16, 3), (10,), width=16)


def recurrent() -> keras.Model:
    """An LSTM that reads eight rows of eight pixels, one after the other, and a head."""
    rows, lstm = keras.layers.Reshape((8, 8)), keras.layers.LSTM(16, use_cudnn=False)
    return keras.Sequential([keras.Input((8, 8, 1)), rows, lstm, keras.layers.Dense(10)])


def trainable(
    make: Callable[[], keras.Model], rule: str | None, dtype: str = "float32"
) -> keras.Model:
    """A network that is ready for a step: every variable exists, the metrics' too.

    Args:
        make: `small`, `resnet` or `recurrent`.
        rule: What it is converted to; None leaves plain Keras.
        dtype: Policy.
    """
    keras.config.set_dtype_policy(dtype)
    model = make()
    if rule is not None:
        tfwm.convert_model(model, RULES.get(rule, rule))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)
    labels, logits = tf.zeros((1,), tf.int32), tf.zeros((1, *model.output_shape[1:]))
    model.compute_loss(y=labels, y_pred=logits)
    model.compute_metrics(None, labels, logits)
    return model


def train_step(
    model: keras.Model, *callbacks: keras.callbacks.Callback, batch: int = BATCH
) -> Step:
    """Keras' own `train_step` with what callbacks have put around it, as `fit` would."""
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()
    specs = (
        tf.TensorSpec((batch, *model.input_shape[1:])),
        tf.TensorSpec((batch,), tf.int32),
    )
    return lambda x, y: model.train_step((x, y)), specs


def mirror_alone(model: keras.Model, **options: Any) -> Step:
    """One mirror step of all pathways, a function of its number."""
    mirrored, mode = mirror_pathways(model), MirrorMode(**options)
    activations = activations_of(mirrored, mode)
    spec = tf.TensorSpec((), tf.int32)
    return lambda number: mirror_step(mirrored, mode, activations, number), (spec,)
