"""Locally connected layers with a feedback kernel, untied as W is."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.layers.direct import is_direct
from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import local_view
from tfweightmirror.layers.locally_connected import (
    LocallyConnected1D,
    LocallyConnected2D,
    of_one_field,
)
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView


class FeedbackLocallyConnected(FeedbackLayer):
    """What the two ranks share."""

    def kernel_view(self, site: Site) -> KernelView:
        return local_view(tuple(self.kernel.shape), self.synapses)

    def initial_feedback(self, site: Site) -> keras.initializers.Initializer:
        """As for every layer, with the fans of one receptive field."""
        initializer = super().initial_feedback(site)
        if is_direct(self) or self.rule.factors((1, 1, 1)) is not None:
            return initializer
        return of_one_field(initializer, self.rank)

    def call(self, inputs: tf.Tensor) -> Any:
        """Apply the layer."""
        return self.finish(self.carry(self.local_map, inputs, linear_in_kernel=True))


@register
class FeedbackLocallyConnected1D(FeedbackLocallyConnected, LocallyConnected1D):
    """`LocallyConnected1D` whose error travels back on a feedback kernel for every position.

    At every position p: `y[p] = activation(patch[p] W[p] + b[p])`, and backward `dy[p] B[p]^T` is
    added to the errors of patch p.

    Args:
        filters, kernel_size, ...: As `tfweightmirror.layers.LocallyConnected1D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `tfweightmirror.layers.LocallyConnected1D`.

    Raises:
        ValueError: The rule is not known; what `LocallyConnected1D` refuses.

    Examples:
        >>> layer = tfwm.layers.FeedbackLocallyConnected1D(2, 3, rule="fa")
        >>> layer(tf.ones((1, 8, 1))).shape
        TensorShape([1, 6, 2])
        >>> layer.feedback_kernel.shape  # (positions, taps, c_in, filters)
        TensorShape([6, 3, 1, 2])
        >>> layer.pathways[0].view.matrices  # each position is a group
        (6, 3, 2)
    """


@register
class FeedbackLocallyConnected2D(FeedbackLocallyConnected, LocallyConnected2D):
    """`LocallyConnected2D` whose error travels back on a feedback kernel for every position.

    At every position p: `y[p] = activation(patch[p] W[p] + b[p])`, and backward `dy[p] B[p]^T` is
    added to the errors of patch p.

    Args:
        filters, kernel_size, ...: As `tfweightmirror.layers.LocallyConnected2D`.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape, output shape: as `tfweightmirror.layers.LocallyConnected2D`.

    Raises:
        ValueError: The rule is not known; what `LocallyConnected2D` refuses.

    Examples:
        >>> model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3)])
        >>> model = tfwm.conversion.untie(tfwm.convert_model(model, "feedback_alignment"))
        >>> type(model.layers[0]).__name__
        'FeedbackLocallyConnected2D'
        >>> model.layers[0].feedback_kernel.shape  # (..positions, ..taps, c_in, filters)
        TensorShape([4, 4, 3, 3, 1, 2])
    """
