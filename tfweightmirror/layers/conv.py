"""Convolutions with a feedback kernel."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import conv_view
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView


def add_channel_bias(layer: Any, outputs: tf.Tensor, channels: int) -> tf.Tensor:
    """Bias and activation as Keras' convolutions apply them.

    The bias is added by Keras' own operation: `y + bias` sums its gradient in another order, and
    training would no longer be bit-equal to the plain layer's.
    """
    if layer.use_bias:
        shape = [1] * (layer.rank + 2)
        shape[-1 if layer.data_format == "channels_last" else 1] = channels
        outputs = keras.ops.add(outputs, keras.ops.reshape(layer.bias, shape))
    return outputs if layer.activation is None else layer.activation(outputs)


class FeedbackConv(FeedbackLayer):
    """What the three ranks share."""

    def kernel_view(self, site: Site) -> KernelView:
        return conv_view(tuple(self.kernel.shape), self.groups)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        # Keras compiles these two cases with XLA on its own.
        compiled = self.groups > 1 or (self.rank == 3 and self.data_format == "channels_first")
        op = self.convolution_op
        is_keras = getattr(op, "__func__", None) is FeedbackConv.convolution_op
        outputs = self.carry(op, inputs, jit_compile=compiled, linear_in_kernel=is_keras)
        return add_channel_bias(self, outputs, self.filters)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Keras' hook for other convolutions: W and B pass whatever overrides it alike."""
        padding = self.padding
        if padding == "causal":
            inputs = keras.ops.pad(inputs, self._compute_causal_padding())
            padding = "valid"
        return keras.ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register
class FeedbackConv1D(FeedbackConv, keras.layers.Conv1D):
    """`keras.layers.Conv1D` whose error travels back on a feedback kernel.

    `y = activation(conv(x, W) + b)`. Backward `dx` is the transposed convolution of `dy` with B, of
    the shape of W: (taps, c_in / groups, filters). dW is backprop's.

    Args:
        filters, kernel_size, ...: As `keras.layers.Conv1D`, causal padding included; `lora_rank`
            is refused.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.Conv1D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> options = {"padding": "causal", "rule": "fa", "feedback_initializer": "ones"}
        >>> layer, x = tfwm.layers.FeedbackConv1D(1, 2, **options), tf.zeros((1, 4, 1))
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = layer(x)
        >>> tape.gradient(y, x)[0, :, 0].numpy().tolist()  # from now and the next step: B is 1
        [2.0, 2.0, 2.0, 1.0]
    """


@register
class FeedbackConv2D(FeedbackConv, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose error travels back on a feedback kernel.

    `y = activation(conv(x, W) + b)`. Backward `dx` is the transposed convolution of `dy` with B, of
    the shape of W: (..taps, c_in / groups, filters). dW is backprop's.

    Args:
        filters, kernel_size, ...: As `keras.layers.Conv2D`; `lora_rank` is refused.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.Conv2D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackConv2D(1, 2, rule="fa", feedback_initializer="ones")
        >>> x = tf.zeros((1, 3, 3, 1))
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = layer(x)  # 2 x 2 positions
        >>> tape.gradient(y, x)[0, :, :, 0].numpy().tolist()  # sums of B, with no entry of W
        [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    """


@register
class FeedbackConv3D(FeedbackConv, keras.layers.Conv3D):
    """`keras.layers.Conv3D` whose error travels back on a feedback kernel.

    `y = activation(conv(x, W) + b)`. Backward `dx` is the transposed convolution of `dy` with B, of
    the shape of W: (..taps, c_in / groups, filters). dW is backprop's.

    Args:
        filters, kernel_size, ...: As `keras.layers.Conv3D`; `lora_rank` is refused.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.Conv3D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackConv3D(4, 3, groups=2, rule="fa")
        >>> layer.build((None, 8, 8, 8, 2))
        >>> layer.feedback_kernel.shape == layer.kernel.shape
        True
        >>> layer.pathways[0].view.matrices  # two groups of one channel: 27 cells to 2
        (2, 27, 2)
    """
