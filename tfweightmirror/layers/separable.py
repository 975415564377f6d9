"""Separable convolutions: two kernels, two feedback kernels, two pathways."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.layers.conv import add_channel_bias
from tfweightmirror.layers.depthwise import depthwise_map
from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import conv_view, depthwise_view
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView

DEPTHWISE = Site("depthwise_kernel", "depthwise_initializer", "depthwise", responds=False)
POINTWISE = Site("pointwise_kernel", "pointwise_initializer", "pointwise")


class FeedbackSeparableConv(FeedbackLayer):
    """What the two ranks share."""

    sites = (DEPTHWISE, POINTWISE)

    def kernel_view(self, site: Site) -> KernelView:
        shape = tuple(getattr(self, site.kernel).shape)
        return depthwise_view(shape) if site is DEPTHWISE else conv_view(shape)

    def site_shape(self, site: Site, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        if site is DEPTHWISE:
            return input_shape
        middle = list(self.compute_output_shape(input_shape))
        middle[-1 if self.data_format == "channels_last" else 1] = self.pointwise_kernel.shape[-2]
        return tuple(middle)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        middle = self.carry(self._depthwise, inputs, site=DEPTHWISE, linear_in_kernel=True)
        outputs = self.carry(self._pointwise, middle, site=POINTWISE, linear_in_kernel=True)
        return add_channel_bias(self, outputs, self.filters)

    def _depthwise(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return depthwise_map(self, inputs, kernel)

    def _pointwise(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if self.data_format == "channels_last":
            return keras.ops.conv(inputs, kernel, data_format="channels_last")
        # As Keras does: a channels-first convolution does not exist on a CPU.
        to_last = [0, *range(2, self.rank + 2), 1]
        to_first = [0, self.rank + 1, *range(1, self.rank + 1)]
        outputs = keras.ops.conv(
            keras.ops.transpose(inputs, to_last), kernel, data_format="channels_last"
        )
        return keras.ops.transpose(outputs, to_first)


@register
class FeedbackSeparableConv1D(FeedbackSeparableConv, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` whose error travels back on two feedback kernels.

    A depthwise and a pointwise convolution, each with its W and its B. The error passes the
    pointwise B first, then the depthwise one.

    Args:
        filters, kernel_size, ...: As `keras.layers.SeparableConv1D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both feedback kernels start from. Default: the initializer of
            each kernel with a seed of its own.

    Input shape, output shape: as `keras.layers.SeparableConv1D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackSeparableConv1D(6, 3, rule="fa", name="conv")
        >>> layer(tf.ones((1, 8, 4))).shape
        TensorShape([1, 6, 6])
        >>> [(p.name, p.view.matrices) for p in layer.pathways]
        [('conv/depthwise', (4, 3, 1)), ('conv/pointwise', (1, 4, 6))]
    """


@register
class FeedbackSeparableConv2D(FeedbackSeparableConv, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` whose error travels back on two feedback kernels.

    A depthwise and a pointwise convolution, each with its W and its B. The error passes the
    pointwise B first, then the depthwise one.

    Args:
        filters, kernel_size, ...: As `keras.layers.SeparableConv2D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What both feedback kernels start from. Default: the initializer of
            each kernel with a seed of its own.

    Input shape, output shape: as `keras.layers.SeparableConv2D`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackSeparableConv2D(6, 3, rule="fa", name="conv")
        >>> layer(tf.ones((1, 8, 8, 4))).shape
        TensorShape([1, 6, 6, 6])
        >>> layer.feedback_depthwise_kernel.shape, layer.feedback_pointwise_kernel.shape
        (TensorShape([3, 3, 4, 1]), TensorShape([1, 1, 4, 6]))
        >>> [(p.name, p.view.matrices) for p in layer.pathways]
        [('conv/depthwise', (4, 9, 1)), ('conv/pointwise', (1, 4, 6))]
    """
