"""Attention layers that carry the rule to their EinsumDense parts.

Only the projections become transport-free: attention scores and their softmax stay ordinary
backprop.
"""

import dataclasses
import zlib
from typing import TypeAlias

import keras

from tfweightmirror._internals import draws, keras_hooks
from tfweightmirror.layers.carries_rule import CarriesRule, refuse_unsupported
from tfweightmirror.layers.einsum_dense import FeedbackEinsumDense
from tfweightmirror.layers.feedback_layer import register
from tfweightmirror.pathway import Pathway

Shape: TypeAlias = tuple[int | None, ...]


class FeedbackAttention(CarriesRule):
    """What both kinds of attention share."""

    hears_output_error = False

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Build the projections, then their feedback kernels."""
        super().build(query_shape, value_shape, key_shape)
        self.build_feedback()

    def build_feedback(self) -> None:
        """Give every projection of a built layer its feedback kernel."""
        for part in self.projections:
            refuse_unsupported(part)
            keras_hooks.become(part, FeedbackEinsumDense)
        if self._birth_seed is None:
            seed = self.initializer_seed()
            self._birth_seed = draws.unused_seed() if seed is None else seed
        for index, part in enumerate(self.projections):
            seed = self._birth_seed + index
            part.set_rule(self.rule, self.feedback_initializer, feedback_seed=seed)
            with keras_hooks.adding_weights(part):
                part.build_feedback()

    def initializer_seed(self) -> int | None:
        """Made from the seeds of all (built) projections' initializers; None if they have none."""
        seeds = [getattr(part.kernel_initializer, "seed", None) for part in self.projections]
        if None in seeds or not seeds:
            return None
        return zlib.crc32(f"{seeds}".encode()) % 2**31

    @property
    def pathways(self) -> list[Pathway]:
        """The pathways of the (built) projections."""
        return [
            dataclasses.replace(pathway, name=f"{self.name}/{pathway.name}")
            for part in self.projections
            for pathway in part.pathways
        ]

    @property
    def projections(self) -> list[keras.layers.EinsumDense]:
        """The EinsumDense parts, built, in the order in which Keras made them."""
        children = keras_hooks.child_layers(self)
        return [part for part in children if isinstance(part, keras.layers.EinsumDense)]


@register
class FeedbackMultiHeadAttention(FeedbackAttention, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` whose projections send errors back on feedback kernels.

    Four projections (query, key, value, output), each with its W and its B. Attention scores and
    their softmax have no weights, and stay ordinary backprop.

    Args:
        num_heads, key_dim, ...: As `keras.layers.MultiHeadAttention`.
        rule: A feedback rule for every projection: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What every B starts from. Default: the kernel's initializer with a
            seed of its own.

    Input shape, output shape: as `keras.layers.MultiHeadAttention`.

    Raises:
        ValueError: The rule is not known or is `direct_feedback_alignment`, or LoRA or quantization
            is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackMultiHeadAttention(2, key_dim=4, rule="fa", name="heads")
        >>> x = tf.ones((1, 5, 8))  # 5 tokens of 8 cells
        >>> layer(x, x).shape
        TensorShape([1, 5, 8])
        >>> [pathway.name for pathway in layer.pathways]
        ['heads/query', 'heads/key', 'heads/value', 'heads/attention_output']
    """


@register
class FeedbackGroupQueryAttention(FeedbackAttention, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` whose projections send errors back on feedback kernels.

    Four projections (query, key, value, output), each with its W and its B. Attention scores and
    their softmax have no weights, and stay ordinary backprop.

    Args:
        head_dim, num_query_heads, num_key_value_heads, ...: As `keras.layers.GroupQueryAttention`.
        rule: A feedback rule for every projection: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What every B starts from. Default: the kernel's initializer with a
            seed of its own.

    Input shape, output shape: as `keras.layers.GroupQueryAttention`.

    Raises:
        ValueError: The rule is not known or is `direct_feedback_alignment`, or LoRA or quantization
            is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackGroupQueryAttention(4, 2, 1, rule="fa")
        >>> x = tf.ones((1, 5, 8))  # 5 tokens of 8 cells
        >>> layer(x, x).shape
        TensorShape([1, 5, 8])
        >>> query, key, value, output = (p.view.matrices for p in layer.pathways)
        >>> query, key  # two heads of 4 cells share the keys of one
        ((1, 8, 8), (1, 8, 4))
    """
