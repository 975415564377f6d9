"""Transposed convolutions with a feedback kernel."""

import keras
import tensorflow as tf

from tfweightmirror.layers.conv import add_channel_bias
from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import conv_transpose_view
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView


class FeedbackConvTranspose(FeedbackLayer):
    """What the three ranks share."""

    def kernel_view(self, site: Site) -> KernelView:
        return conv_transpose_view(tuple(self.kernel.shape))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        return add_channel_bias(
            self, self.carry(self._linear_map, inputs, linear_in_kernel=True), self.filters
        )

    def _linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register
class FeedbackConv1DTranspose(FeedbackConvTranspose, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` whose error travels back on a feedback kernel.

    `y` is the transposed convolution of x with W. Backward `dx` is the convolution of `dy` with B,
    of the shape of W: (taps, filters, c_in). dW is backprop's.

    Args:
        filters, kernel_size, ...: As `keras.layers.Conv1DTranspose`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.Conv1DTranspose`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackConv1DTranspose(2, 4, strides=2, padding="same", rule="fa")
        >>> layer(tf.ones((1, 8, 3))).shape
        TensorShape([1, 16, 2])
        >>> layer.pathways[0].view.matrices  # 3 cells of one position reach 4 taps of 2 channels
        (1, 3, 8)
    """


@register
class FeedbackConv2DTranspose(FeedbackConvTranspose, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` whose error travels back on a feedback kernel.

    `y` is the transposed convolution of x with W. Backward `dx` is the convolution of `dy` with B,
    of the shape of W: (..taps, filters, c_in). dW is backprop's.

    Args:
        filters, kernel_size, ...: As `keras.layers.Conv2DTranspose`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.Conv2DTranspose`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> conv = keras.layers.Conv2DTranspose(3, 2, strides=2)
        >>> decoder = keras.Sequential([keras.Input((4, 4, 8)), conv])
        >>> layer = tfwm.convert_model(decoder, "feedback_alignment").layers[0]
        >>> type(layer).__name__, layer.feedback_kernel.shape
        ('FeedbackConv2DTranspose', TensorShape([2, 2, 3, 8]))
        >>> layer.pathways[0].view.matrices  # 8 cells of one position reach 4 taps of 3 channels
        (1, 8, 12)
    """


@register
class FeedbackConv3DTranspose(FeedbackConvTranspose, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` whose error travels back on a feedback kernel.

    `y` is the transposed convolution of x with W. Backward `dx` is the convolution of `dy` with B,
    of the shape of W: (..taps, filters, c_in). dW is backprop's.

    Args:
        filters, kernel_size, ...: As `keras.layers.Conv3DTranspose`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `keras.layers.Conv3DTranspose`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackConv3DTranspose(1, 2, strides=2, rule="fa")
        >>> layer(tf.ones((1, 2, 2, 2, 3))).shape
        TensorShape([1, 4, 4, 4, 1])
        >>> layer.pathways[0].view.matrices  # 3 cells of one position reach 8 taps
        (1, 3, 8)
    """
