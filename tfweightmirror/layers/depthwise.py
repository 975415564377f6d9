"""Depthwise convolutions with a feedback kernel."""

import keras
import tensorflow as tf

from tfweightmirror.layers.conv import add_channel_bias
from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import depthwise_view
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView


def depthwise_map(layer: keras.layers.Layer, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The depthwise convolution that `layer`'s options describe."""
    return keras.ops.depthwise_conv(
        inputs,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


class FeedbackDepthwiseConv(FeedbackLayer):
    """What the two ranks share."""

    sites = (Site(initializer="depthwise_initializer"),)

    def kernel_view(self, site: Site) -> KernelView:
        return depthwise_view(tuple(self.kernel.shape))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        outputs = self.carry(self._linear_map, inputs, linear_in_kernel=True)
        *_, channels, multiplier = self.kernel.shape
        return add_channel_bias(self, outputs, channels * multiplier)

    def _linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return depthwise_map(self, inputs, kernel)


@register
class FeedbackDepthwiseConv1D(FeedbackDepthwiseConv, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` whose error travels back on a feedback kernel.

    Each channel has its own kernel, and its own B: both of shape (taps, c_in, depth_multiplier).
    Backward `dx` is, channel by channel, the transposed convolution of `dy` with B.

    Args:
        kernel_size, ...: As `keras.layers.DepthwiseConv1D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.DepthwiseConv1D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackDepthwiseConv1D(3, depth_multiplier=2, rule="fa")
        >>> layer(tf.ones((1, 8, 4))).shape
        TensorShape([1, 6, 8])
        >>> layer.pathways[0].view.matrices  # each of 4 channels: 3 taps to 2 cells
        (4, 3, 2)
    """


@register
class FeedbackDepthwiseConv2D(FeedbackDepthwiseConv, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose error travels back on a feedback kernel.

    Each channel has its own kernel, and its own B: both of shape (..taps, c_in, depth_multiplier).
    Backward `dx` is, channel by channel, the transposed convolution of `dy` with B.

    Args:
        kernel_size, ...: As `keras.layers.DepthwiseConv2D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.DepthwiseConv2D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackDepthwiseConv2D(2, rule="fa", feedback_initializer="ones")
        >>> x = tf.zeros((1, 2, 2, 3))
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     first = layer(x)[..., 0]
        >>> tape.gradient(first, x)[0, 0].numpy().tolist()  # an error stays in its channel
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
