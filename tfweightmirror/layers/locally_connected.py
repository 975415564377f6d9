"""Locally connected layers: convolutions whose positions have a kernel each. Keras 3 has none."""

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror.layers import receptive_fields
from tfweightmirror.pathway import on_synapses

register = keras.saving.register_keras_serializable(package="tfweightmirror")


class LocallyConnected(keras.layers.Layer):
    """What the two ranks share, with the arguments of Keras 2.

    Kernel (..positions, ..taps, c_in, filters), bias (..positions, filters). Where padding stands
    for cells, no synapse is: W is born 0 there, gets the gradient 0, and changes nothing.
    """

    rank: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = self._positive("filters", filters, 1)[0]
        self.kernel_size = self._positive("kernel_size", kernel_size, self.rank)
        self.strides = self._positive("strides", strides, self.rank)
        if padding not in ("valid", "same"):
            raise ValueError(
                f"padding of {type(self).__name__} must be 'valid' or 'same'. "
                f"Received: {padding!r}."
            )
        self.padding = padding
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"data_format of {type(self).__name__} must be 'channels_last' or "
                f"'channels_first'. Received: {data_format!r}."
            )
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        for constraint in (self.kernel_constraint, self.bias_constraint):
            refuse_counting_fans(self, constraint)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)

    def _positive(self, name: str, value: Any, count: int) -> tuple[int, ...]:
        """`value` as `count` integers above 0."""
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
        if len(values) != count or not all(isinstance(v, int) and v > 0 for v in values):
            expected = f"{count} integers" if count > 1 else "an integer"
            raise ValueError(
                f"{name} of {type(self).__name__} must be {expected} above 0. Received: {value!r}."
            )
        return values

    # --- build -----------------------------------------------------------------------------

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make a kernel and a bias for every position."""
        *sizes, channels = self._channels_last(input_shape[1:])
        if None in (*sizes, channels):
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) has a kernel for every position, so "
                "the size of its input must be known when it is built. Received the input shape "
                f"{tuple(input_shape)}: give the size, as in keras.Input((32, 32, 3))."
            )
        self._sizes = tuple(sizes)
        positions = receptive_fields.positions(*self._field(sizes))
        if min(positions) < 1:
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) with kernel_size={self.kernel_size} "
                f"has no position on an input of shape {tuple(input_shape)}: expected one no "
                "smaller than the kernel, or padding='same'."
            )
        axes = dict(enumerate(input_shape))
        del axes[0]
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2, axes=axes)
        initializer, synapses = of_one_field(self.kernel_initializer, self.rank), self.synapses

        def drawn(shape: Any, dtype: Any = None) -> tf.Tensor:
            return on_synapses(tf.convert_to_tensor(initializer(shape, dtype)), synapses)

        self.kernel = self.add_weight(
            name="kernel",
            shape=(*positions, *self.kernel_size, channels, self.filters),
            initializer=initializer if synapses is None else drawn,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.kernel.synapses = synapses  # for constraints, which see no layer
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(*positions, self.filters),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _channels_last(self, shape: Any) -> tuple[Any, ...]:
        """A shape without batch, its channels at the end."""
        first = self.data_format == "channels_first"
        return (*shape[1:], shape[0]) if first else tuple(shape)

    def _field(self, sizes: Any) -> tuple[Any, ...]:
        return sizes, self.kernel_size, self.strides, self.padding

    @property
    def synapses(self) -> np.ndarray[Any, Any] | None:
        """Which taps lie on the map: bool (..positions, ..taps, 1, 1), or None where all do."""
        return receptive_fields.synapses(*self._field(self._sizes))

    # --- forward ---------------------------------------------------------------------------

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        return self.finish(self.local_map(inputs, tf.convert_to_tensor(self.kernel)))

    def local_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Patches and one batched product: `y[p] = patch[p] @ kernel[p]` at every position p.

        Beside the sparse matrix of Amit 2018 (32 filters of 5x5 on 32x32x3 maps, batch 50, one
        core) a step took 0.14 s of processor time, not 1.31, and 77 MiB, not 1,488:
        `python -m benchmarks.untied`.
        """
        rank, first = self.rank, self.data_format == "channels_first"
        axes = (*range(2, rank + 2), 0, 1) if first else (*range(1, rank + 1), 0, rank + 1)
        x = tf.transpose(inputs, axes)  # (..map, batch, c_in), so that products need no other one
        if self.padding == "same":
            pads = receptive_fields.pads(*self._field(self._sizes))
            x = tf.pad(x, (*pads, (0, 0), (0, 0)))
        positions, taps = kernel.shape[:rank], kernel.shape[rank : 2 * rank]
        patches = [
            x[
                tuple(
                    slice(t, t + (p - 1) * s + 1, s)
                    for t, p, s in zip(tap, positions, self.strides, strict=True)
                )
            ]
            for tap in np.ndindex(*taps)
        ]
        matrices = tf.reshape(kernel, (*positions, -1, self.filters))
        y = tf.matmul(tf.concat(patches, axis=-1), matrices)
        return tf.transpose(
            y, (rank, rank + 1, *range(rank)) if first else (rank, *range(rank), rank + 1)
        )

    def finish(self, outputs: tf.Tensor) -> tf.Tensor:
        """Bias and activation."""
        if self.bias is not None:
            bias = tf.convert_to_tensor(self.bias)
            if self.data_format == "channels_first":
                bias = tf.transpose(bias, (self.rank, *range(self.rank)))
            outputs = keras.ops.add(outputs, bias)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, ..positions, filters), or channels first."""
        *sizes, _ = self._channels_last(input_shape[1:])
        known = None not in sizes
        positions = (
            receptive_fields.positions(*self._field(sizes)) if known else (None,) * self.rank
        )
        if self.data_format == "channels_first":
            return (input_shape[0], self.filters, *positions)
        return (input_shape[0], *positions, self.filters)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        objects = {
            f"{of}_{kind}": module.serialize(getattr(self, f"{of}_{kind}"))
            for kind, module in (
                ("initializer", keras.initializers),
                ("regularizer", keras.regularizers),
                ("constraint", keras.constraints),
            )
            for of in ("kernel", "bias")
        }
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **objects,
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
        }


def refuse_counting_fans(layer: keras.layers.Layer, constraint: Any) -> None:
    """Raise a ValueError for a constraint that takes the fans from the kernel's shape."""
    if isinstance(layer, LocallyConnected) and getattr(constraint, "counts_fans", False):
        raise ValueError(
            f"{type(constraint).__name__} on layer '{layer.name}' ({type(layer).__name__}) would "
            "count positions as taps, and its bound would be too low. Leave the layer out."
        )


def of_one_field(initializer: Any, rank: int) -> Any:
    """`initializer`, with fans of one receptive field where it scales by fans: as a convolution's.

    From the kernel's shape alone Keras would count all positions as taps.
    """
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer
    config = initializer.get_config()
    if config.get("input_axes", "unknown") is not None:
        return initializer
    taps = list(range(rank, 2 * rank))
    axes = {"input_axes": [*taps, 2 * rank], "output_axes": [*taps, 2 * rank + 1]}
    # The config of an initializer does not tell the seed that it drew for itself.
    return type(initializer).from_config({**config, **axes, "seed": initializer.seed})


@register
class LocallyConnected1D(LocallyConnected):
    """A `Conv1D` whose positions have a kernel and a bias each, as Keras 2 had it.

    `y[p] = activation(patch[p] W[p] + b[p])` at every position p.

    Args:
        filters, kernel_size, strides, padding, data_format, ...: As `keras.layers.Conv1D`, without
            dilation, groups and causal padding. Initializers that scale by fans take those of one
            receptive field.

    Input shape: (batch, size, c_in), the size known when the layer is built; or channels first.
    Output shape: (batch, positions, filters), or channels first.

    Raises:
        ValueError: An argument is out of range, or, in `build`, the size is not known or too small.

    Examples:
        >>> layer = tfwm.layers.LocallyConnected1D(2, 3)
        >>> layer(tf.ones((1, 8, 1))).shape
        TensorShape([1, 6, 2])
        >>> layer.kernel.shape, layer.bias.shape  # six positions, each with its own
        (TensorShape([6, 3, 1, 2]), TensorShape([6, 2]))
    """

    rank = 1


@register
class LocallyConnected2D(LocallyConnected):
    """A `Conv2D` whose positions have a kernel and a bias each, as Keras 2 had it.

    `y[p] = activation(patch[p] W[p] + b[p])` at every position p.

    Args:
        filters, kernel_size, strides, padding, data_format, ...: As `keras.layers.Conv2D`, without
            dilation and groups. Initializers that scale by fans take those of one receptive field.

    Input shape: (batch, height, width, c_in), the sizes known when the layer is built; or channels
    first. Output shape: (batch, rows, columns, filters), or channels first.

    Raises:
        ValueError: An argument is out of range, or, in `build`, a size is not known or too small.

    Examples:
        >>> layer = tfwm.layers.LocallyConnected2D(2, 3, padding="same")
        >>> layer(tf.ones((1, 4, 4, 1))).shape
        TensorShape([1, 4, 4, 2])
        >>> layer.kernel.shape, layer.bias.shape  # 4 x 4 positions, each with its own
        (TensorShape([4, 4, 3, 3, 1, 2]), TensorShape([4, 4, 2]))
        >>> int(layer.synapses[0, 0].sum())  # in the corner 4 of 9 taps lie on the map
        4
    """

    rank = 2
