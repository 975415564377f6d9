"""A kind of layer that this package does not know, defined outside it, works everywhere."""

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.pathway import KernelView
from tfweightmirror.rules import Fans


@keras.saving.register_keras_serializable(package="tests")
class PerChannelDense(keras.layers.Layer):
    """Each channel has a matrix of its own: (batch, n_in, channels) to (batch, n_out, channels)."""

    def __init__(self, n_out, **kwargs):
        super().__init__(**kwargs)
        self.n_out = n_out
        self.kernel_initializer = keras.initializers.GlorotUniform()

    def build(self, input_shape):
        shape = (input_shape[2], input_shape[1], self.n_out)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer)

    def call(self, inputs):
        return keras.ops.einsum("bic,cio->boc", inputs, self.kernel)

    def get_config(self):
        return {**super().get_config(), "n_out": self.n_out}


@keras.saving.register_keras_serializable(package="tests")
class FeedbackPerChannelDense(tfwm.layers.FeedbackLayer, PerChannelDense):
    """The same with a feedback kernel."""

    def call(self, inputs):
        return self.carry(lambda x, k: keras.ops.einsum("bic,cio->boc", x, k), inputs)

    def kernel_view(self, site):
        shape = tuple(self.kernel.shape)
        fans = Fans(shape[1], shape[2], convolutional=False)
        return KernelView(split=shape, order=(0, 1, 2), matrices=shape, fans=fans)


def model_with(rule):
    inputs = keras.Input((6, 3))
    x = keras.layers.Dense(3, name="below")(inputs)
    x = FeedbackPerChannelDense(4, rule=rule, name="own")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def test_errors_travel_on_its_feedback_kernel():
    layer = FeedbackPerChannelDense(4, rule="fa")
    x, dy = tf.random.normal((5, 6, 3), seed=1), tf.random.normal((5, 4, 3), seed=2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    dx = tape.gradient(y, x, dy)
    expected = np.einsum("boc,cio->bic", dy, layer.feedback_kernel.numpy())
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5)


def test_the_mirror_teaches_it():
    model = model_with("wm")
    assert tfwm.weight_angles(model)["own"] > 60
    assert tfwm.mirror_model(model)["own"] < 0.01


def test_it_trains_with_its_callback_and_is_saved(tmp_path):
    model = model_with("kp")
    model.compile(keras.optimizers.SGD(0.01, weight_decay=0.1), "mse")
    images, targets = np.ones((8, 6, 3), "float32"), np.zeros((8, 2), "float32")
    history = model.fit(
        images, targets, verbose=0, callbacks=[tfwm.callbacks.KolenPollack()], epochs=3
    ).history
    np.testing.assert_allclose(
        history["feedback_gap"], history["feedback_gap_predicted"], rtol=2e-4
    )
    model.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    before, after = model.get_layer("own"), again.get_layer("own")
    assert after.rule == before.rule
    np.testing.assert_array_equal(after.feedback_kernel, before.feedback_kernel)
