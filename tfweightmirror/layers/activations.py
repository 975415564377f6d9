"""Activations that the papers' networks have and Keras has not."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.arguments import is_finite

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@register
def saturated_linear(x: Any, slope: float = 1.0) -> Any:
    """`min(max(slope * x, -1), 1)`, elementwise (Amit 2018).

    The gradient is `slope` where `|slope * x| <= 1`, the bounds included as in the paper (the
    released code leaves them out), else 0.

    Args:
        x: Floating-point tensor.
        slope: Of the linear part: 1 in the paper, 1/2 in the released code.

    Returns:
        A tensor of the shape and dtype of x.

    Examples:
        >>> x = tf.constant([-3.0, -1.0, 0.5, 3.0])
        >>> tfwm.layers.saturated_linear(x).numpy().tolist()
        [-1.0, -1.0, 0.5, 1.0]
        >>> tfwm.layers.saturated_linear(x, slope=0.5).numpy().tolist()
        [-1.0, -0.5, 0.25, 1.0]
    """
    return keras.ops.clip(slope * x, -1.0, 1.0)


@register
def rectified_tanh(x: Any) -> Any:
    """`max(tanh(x), 0)`, elementwise: cells that are silent or fire, up to a highest rate of 1.

    Akrout et al. 2019, section 6, name it for more brain-like networks than those with ReLU. The
    gradient is `1 - tanh(x)^2` where `x > 0`, else 0.

    Args:
        x: Floating-point tensor.

    Returns:
        A tensor of the shape and dtype of x.

    Examples:
        >>> tfwm.layers.rectified_tanh(tf.constant([-1.0, 0.0, 1.0, 9.0])).numpy().round(3)
        array([0.   , 0.   , 0.762, 1.   ], dtype=float32)
        >>> layer = keras.layers.Dense(4, activation=tfwm.layers.rectified_tanh)
        >>> bool(tf.reduce_all(layer(tf.random.normal((9, 3))) >= 0))
        True
    """
    return keras.ops.tanh(keras.ops.relu(x))


@register
class SaturatedLinear(keras.layers.Layer):
    """`saturated_linear` as a layer, or as `activation=SaturatedLinear(0.5)` of another one.

    Args:
        slope: Of the linear part, above 0.

    Input shape, output shape: any, the same.

    Raises:
        ValueError: `slope` is not a number above 0.

    Examples:
        >>> activation = tfwm.layers.SaturatedLinear(slope=0.5)
        >>> layer = keras.layers.Dense(1, kernel_initializer="ones", activation=activation)
        >>> layer(tf.constant([[1.0], [9.0]])).numpy().tolist()
        [[0.5], [1.0]]
    """

    def __init__(self, slope: float = 1.0, **options: Any) -> None:
        if not (is_finite(slope) and slope > 0):
            raise ValueError(
                f"slope of SaturatedLinear is {slope!r}. Expected a number above 0, such as 0.5."
            )
        super().__init__(**options)
        self.slope = slope

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the activation."""
        return saturated_linear(inputs, self.slope)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return super().get_config() | {"slope": self.slope}


@register
class MixedReLU(keras.layers.Layer):
    """ReLU of cells that fire with one sign each (Khandwala and Bedi, 2.7).

    `y = max(x, 0)` in cells of sign +, `min(x, 0)` in those of sign -. Signs are drawn once, + and
    - with equal probability, and kept with the weights. The gradient at 0 is 0, as ReLU's.

    Args:
        axis: The axes of cells that have a sign of their own, all others share it: -1, the
            channels (a feature map fires with one sign), or a list such as [1, 2, 3].
        seed: Of the signs. None: of Keras' global seed.

    Input shape, output shape: (batch, ...), the same.

    Raises:
        ValueError: `axis` is no whole number or list of them; in `build`: it names the batch, or
            an axis of unknown length or that the inputs do not have.

    Examples:
        >>> layer = tfwm.layers.MixedReLU(seed=1)
        >>> y = layer(tf.random.normal((9, 4)))
        >>> layer.signs.numpy().tolist()  # of the four channels
        [[1.0, -1.0, -1.0, -1.0]]
        >>> np.sign(np.sum(y, axis=0)).tolist()  # each fires with its own alone
        [1.0, -1.0, -1.0, -1.0]
    """

    def __init__(
        self, axis: int | list[int] | tuple[int, ...] = -1, seed: int | None = None, **options: Any
    ) -> None:
        axes = [axis] if isinstance(axis, int) else axis
        if not (isinstance(axes, list | tuple) and all(isinstance(each, int) for each in axes)):
            raise ValueError(
                f"axis of MixedReLU is {axis!r}. Expected a whole number or a list of them: the "
                "axes of cells that have a sign of their own, such as -1 for the channels."
            )
        super().__init__(**options)
        self.axis = axis if isinstance(axis, int) else list(axis)
        self.seed = seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Draw the signs."""
        rank = len(input_shape)
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        own = [axis + rank if axis < 0 else axis for axis in axes]
        if not own or any(not 0 < axis < rank or input_shape[axis] is None for axis in own):
            raise ValueError(
                f"axis of MixedReLU '{self.name}' is {self.axis!r} for inputs of shape "
                f"{input_shape}. Expected axes of known length, without 0, that of the batch."
            )
        shape = tuple(size if axis in own else 1 for axis, size in enumerate(input_shape))
        self.signs = self.add_weight(
            name="signs",
            shape=shape,
            initializer=lambda shape, dtype: random_signs(shape, dtype, self.seed),
            trainable=False,
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the activation."""
        signs = tf.convert_to_tensor(self.signs)
        return signs * keras.ops.relu(signs * inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return super().get_config() | {"axis": self.axis, "seed": self.seed}


def random_signs(shape: Any, dtype: Any, seed: int | None) -> tf.Tensor:
    """+1 and -1 with equal probability."""
    drawn = keras.random.randint(shape, 0, 2, dtype="int32", seed=seed)
    return keras.ops.cast(2 * drawn - 1, dtype)
