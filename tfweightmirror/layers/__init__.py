"""Keras layers whose errors travel back on feedback kernels, and others that the papers have.

Examples:
    >>> inputs = keras.Input((32, 32, 3))
    >>> x = tfwm.layers.FeedbackConv2D(8, 3, strides=4, rule="kp", name="conv")(inputs)
    >>> x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    >>> outputs = tfwm.layers.FeedbackDense(10, rule="fa", name="head")(x)
    >>> model = keras.Model(inputs, outputs)
    >>> [(pathway.name, pathway.rule.name) for pathway in tfwm.pathways(model)]
    [('conv', 'kolen_pollack'), ('head', 'feedback_alignment')]
"""

from tfweightmirror.layers.activations import (
    MixedReLU,
    SaturatedLinear,
    rectified_tanh,
    saturated_linear,
)
from tfweightmirror.layers.attention import (
    FeedbackGroupQueryAttention,
    FeedbackMultiHeadAttention,
)
from tfweightmirror.layers.cells import FeedbackAddedInputCell, FeedbackSimpleRNNCell
from tfweightmirror.layers.conv import FeedbackConv1D, FeedbackConv2D, FeedbackConv3D
from tfweightmirror.layers.conv_transpose import (
    FeedbackConv1DTranspose,
    FeedbackConv2DTranspose,
    FeedbackConv3DTranspose,
)
from tfweightmirror.layers.dense import FeedbackDense
from tfweightmirror.layers.depthwise import FeedbackDepthwiseConv1D, FeedbackDepthwiseConv2D
from tfweightmirror.layers.einsum_dense import FeedbackEinsumDense
from tfweightmirror.layers.feedback_layer import FeedbackLayer
from tfweightmirror.layers.feedback_locally_connected import (
    FeedbackLocallyConnected1D,
    FeedbackLocallyConnected2D,
)
from tfweightmirror.layers.gated_cells import FeedbackGRUCell, FeedbackLSTMCell
from tfweightmirror.layers.locally_connected import LocallyConnected1D, LocallyConnected2D
from tfweightmirror.layers.normalization import RunningBatchNormalization
from tfweightmirror.layers.recurrent import FeedbackGRU, FeedbackLSTM, FeedbackSimpleRNN
from tfweightmirror.layers.separable import FeedbackSeparableConv1D, FeedbackSeparableConv2D
from tfweightmirror.layers.sites import Site

__all__ = [
    "FeedbackAddedInputCell",
    "FeedbackConv1D",
    "FeedbackConv1DTranspose",
    "FeedbackConv2D",
    "FeedbackConv2DTranspose",
    "FeedbackConv3D",
    "FeedbackConv3DTranspose",
    "FeedbackDense",
    "FeedbackDepthwiseConv1D",
    "FeedbackDepthwiseConv2D",
    "FeedbackEinsumDense",
    "FeedbackGRU",
    "FeedbackGRUCell",
    "FeedbackGroupQueryAttention",
    "FeedbackLSTM",
    "FeedbackLSTMCell",
    "FeedbackLayer",
    "FeedbackLocallyConnected1D",
    "FeedbackLocallyConnected2D",
    "FeedbackMultiHeadAttention",
    "FeedbackSeparableConv1D",
    "FeedbackSeparableConv2D",
    "FeedbackSimpleRNN",
    "FeedbackSimpleRNNCell",
    "LocallyConnected1D",
    "LocallyConnected2D",
    "MixedReLU",
    "RunningBatchNormalization",
    "SaturatedLinear",
    "Site",
    "rectified_tanh",
    "saturated_linear",
]
