"""Depthwise convolutions with a feedback kernel."""

import keras
import tensorflow as tf

from tfweightmirror.layers.feedback_layer import FeedbackLayer, Site, add_channel_bias, register
from tfweightmirror.pathway import KernelView, depthwise_view


class FeedbackDepthwiseConv(FeedbackLayer):
    """What the two ranks share."""

    sites = (Site(initializer="depthwise_initializer"),)

    def _view(self, site: Site) -> KernelView:
        return depthwise_view(tuple(self.kernel.shape))

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Apply the layer."""
        outputs = self.carry(self._linear_map, inputs, training)
        *_, channels, multiplier = self.kernel.shape
        return add_channel_bias(self, outputs, channels * multiplier)

    def _linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register
class FeedbackDepthwiseConv1D(FeedbackDepthwiseConv, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` whose error travels back on a feedback kernel.

    Args:
        kernel_size, ...: As `keras.layers.DepthwiseConv1D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.
    """


@register
class FeedbackDepthwiseConv2D(FeedbackDepthwiseConv, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose error travels back on a feedback kernel.

    Args:
        kernel_size, ...: As `keras.layers.DepthwiseConv2D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.
    """
