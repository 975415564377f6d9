"""Ways to train: loops, options of `compile`, callbacks."""

import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tests.ways.entry import SGD, X, Y, compiled, fit, fit_and_prove, goes, mlp
from tests.ways.proof import Convert, Prove
from tfweightmirror.callbacks import FeedbackMonitor, KolenPollack, WeightMirror
from tfweightmirror.mirror import Schedule
from tfweightmirror.training import Sparse, constrain


def decaying() -> keras.optimizers.Optimizer:
    """What Kolen-Pollack needs."""
    return SGD(0.1, weight_decay=0.1)


def only(model: keras.Model, callback: Any) -> list[Any]:
    """`callback`, if there is something for it to do: the plain twin has no feedback layer."""
    return [callback] if tfwm.pathways(model) else []


def gaussian_mirror() -> keras.callbacks.Callback:
    """Noise that leaves B away from W, and B of the moment alone when training begins."""
    return WeightMirror("gaussian", schedule=Schedule(warm_up_steps=0))


@goes()
def fit_then_convert_then_fit(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp())
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("kp")
def kolen_pollack_in_fit(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp(), decaying()))
    fit_and_prove(model, prove, *only(model, KolenPollack()))


@goes("wm")
def weight_mirror_in_fit(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp()))
    fit_and_prove(model, prove, *only(model, gaussian_mirror()))


@goes("wm", slow=True)
def mirror_and_monitor_in_fit(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp()))
    watched = [*only(model, gaussian_mirror()), *only(model, FeedbackMonitor())]
    fit(model, callbacks=watched)
    fit_and_prove(model, prove, *watched)


@goes("urfb", slow=True)
def sparse_connectivity(convert: Convert, prove: Prove) -> None:
    model = constrain(compiled(mlp()), Sparse(0.6, seed=1))
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("wm", slow=True)
def sparse_connectivity_under_the_mirror(convert: Convert, prove: Prove) -> None:
    model = constrain(convert(compiled(mlp())), Sparse(0.6, seed=1))
    fit_and_prove(model, prove, *only(model, gaussian_mirror()))


class CompilesAgain(keras.callbacks.Callback):
    """Unfreezes the lowest layer after the first batch."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            self.model.layers[0].trainable = True
            compiled(self.model, decaying())
            self.model.make_train_function(force=True)


@goes("kp", slow=True)
def compiled_again_in_the_midst_of_a_fit(convert: Convert, prove: Prove) -> None:
    model = mlp()
    model.layers[0].trainable = False
    convert(compiled(model, decaying()))
    fit_and_prove(model, prove, *only(model, KolenPollack()), CompilesAgain())


@goes(slow=True)
def train_on_batch(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp())
    model.train_on_batch(X, Y)
    convert(model)
    prove(model, lambda: model.train_on_batch(X, Y))


@goes("brsf")
def own_loop_with_a_tape(convert: Convert, prove: Prove) -> None:
    model, optimizer = mlp(), SGD(0.1)
    optimizer.build(model.trainable_variables)
    convert(model)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    step(X, Y)
    prove(model, lambda: step(X, Y), optimizers=[optimizer])


@goes(slow=True)
def own_loop_that_evaluates_first(convert: Convert, prove: Prove) -> None:
    model, optimizer = convert(mlp()), SGD(0.1)
    optimizer.build(model.trainable_variables)
    forward = tf.function(model)  # one trace for looking and for learning
    forward(X)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(forward(X) - Y))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    prove(model, step, optimizers=[optimizer])


@goes()
def run_eagerly(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), run_eagerly=True)
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("kp")
def jit_compile(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), decaying(), jit_compile=True)
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("frsf")
def steps_per_execution(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), steps_per_execution=2)
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes(slow=True)
def gradients_accumulate(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), SGD(0.1, gradient_accumulation_steps=2))

    def two_batches() -> None:
        model.train_on_batch(X, Y)
        model.train_on_batch(X[::-1], Y)

    two_batches()
    convert(model)
    prove(model, two_batches)


@goes("urfb", slow=True)
def averaged_weights(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), SGD(0.1, use_ema=True, ema_momentum=0.9))
    fit(model)
    convert(model)
    prove(model, lambda: model.train_on_batch(X, Y))


@goes("brsf", slow=True)
def loss_scaling(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=8.0))
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("kp", tolerance=0.05)
def mixed_bfloat16(convert: Convert, prove: Prove) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(mlp(), decaying())
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("kp", eager_twin=False, slow=True)
def mirrored_strategy(convert: Convert, prove: Prove) -> None:
    devices, reduction = ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    with tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction).scope():
        model = compiled(mlp(), decaying())
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes(slow=True)
def weights_of_samples_and_classes(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp(), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels, weight = np.arange(8) % 3, {0: 1.0, 1: 2.0, 2: 0.5}
    fit(model, y=labels, class_weight=weight)
    convert(model)
    prove(model, lambda: fit(model, y=labels, class_weight=weight))


@goes("usf")
def trained_in_another_thread(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp())
    fit(model)
    convert(model)

    def elsewhere() -> None:
        thread = threading.Thread(target=fit, args=(model,))
        thread.start()
        thread.join()

    prove(model, elsewhere)


class TrainsAnother(keras.callbacks.Callback):
    """`train_on_batch` inside a callback of somebody else's fit."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.other = model

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.other.train_on_batch(X, Y)


@goes("wm", slow=True)
def callbacks_driven_by_hand(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp()))
    callbacks = keras.callbacks.CallbackList(only(model, gaussian_mirror()), model=model, epochs=1)
    callbacks.on_train_begin()
    model.train_on_batch(X, Y)
    prove(model, lambda: model.train_on_batch(X, Y))
    callbacks.on_train_end()


@goes(slow=True)
def remat_of_listed_layers(convert: Convert, prove: Prove) -> None:
    with keras.RematScope(mode="list_of_layers", layer_names=["low", "middle"]):
        model = compiled(mlp())
    convert(model)
    fit(model)
    prove(model, lambda: fit(model))


@goes("wm", slow=True)
def train_on_batch_inside_a_callback(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp()))
    fit_and_prove(model, prove, *only(model, gaussian_mirror()), TrainsAnother(model))
