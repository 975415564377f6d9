"""Dense layer with a feedback kernel."""

import keras
import tensorflow as tf

from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.kernel_views import dense_view
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView


@register
class FeedbackDense(FeedbackLayer, keras.layers.Dense):
    """`keras.layers.Dense` whose error travels back on a feedback kernel.

    `y = activation(x W + b)`; backward `dx = dy B^T`, `dW = x^T dy` (Lillicrap et al. 2016).

    Args:
        units, ...: As `keras.layers.Dense`; `lora_rank` and quantization are refused.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.

    Input shape: (batch, ..., n_in). Output shape: (batch, ..., units).

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="fa", feedback_initializer="ones")
        >>> x = tf.constant([[3.0, 4.0]])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = layer(x)
        >>> dx, dW = tape.gradient(y, [x, layer.kernel])
        >>> dx.numpy().tolist(), dW.numpy().tolist()  # dy B^T, with no entry of W, and x^T dy
        ([[1.0, 1.0]], [[3.0], [4.0]])
    """

    def kernel_view(self, site: Site) -> KernelView:
        return dense_view(*self.kernel.shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        outputs = self.carry(keras.ops.matmul, inputs, linear_in_kernel=True)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)
