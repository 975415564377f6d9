"""EinsumDense layer with a feedback kernel."""

import math
import re

import keras
import tensorflow as tf

from tfweightmirror.layers.direct import is_direct
from tfweightmirror.layers.feedback_layer import FeedbackLayer, register
from tfweightmirror.layers.sites import Site
from tfweightmirror.pathway import KernelView
from tfweightmirror.rules import Fans


@register
class FeedbackEinsumDense(FeedbackLayer, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` whose error travels back on a feedback kernel.

    A kernel label in input and output is a group, in the input only fan-in, in the output only
    fan-out. Equations whose kernel holds the batch label or repeats a label are refused: there no
    one matrix leads from cells to cells.

    Args:
        equation, output_shape, ...: As `keras.layers.EinsumDense`; `lora_rank` and quantization
            are refused.
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own, and the fans of the equation.

    Input shape, output shape: by the equation.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for. In `build`: such an
            equation.

    Examples:
        >>> layer = tfwm.layers.FeedbackEinsumDense("bhi,hio->bho", (2, 4), rule="fa")
        >>> layer(tf.ones((1, 2, 3))).shape
        TensorShape([1, 2, 4])
        >>> layer.pathways[0].view.matrices  # h is a group, i the fan-in, o the fan-out
        (2, 3, 4)
    """

    def build_feedback(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Add the feedback kernel."""
        kernel_labels(self)
        super().build_feedback(input_shape)

    def initial_feedback(self, site: Site) -> keras.initializers.Initializer:
        """As for every layer; variance scaling counts the fans along the equation's axes."""
        initializer = super().initial_feedback(site)
        if is_direct(self) or self.feedback_initializer is not None:
            return initializer
        if isinstance(initializer, keras.initializers.VarianceScaling):
            kernel, group, fan_in, fan_out = kernel_labels(self)
            config = initializer.get_config()
            if config.get("input_axes") is None:
                config["input_axes"] = [kernel.index(label) for label in fan_in]
                config["output_axes"] = [kernel.index(label) for label in group + fan_out]
            return type(initializer).from_config(config)
        return initializer

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Apply the layer."""
        outputs = self.carry(self._linear_map, inputs, linear_in_kernel=True)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.einsum(self.equation, inputs, kernel)

    def kernel_view(self, site: Site) -> KernelView:
        kernel, group, fan_in, fan_out = kernel_labels(self)
        size = dict(zip(kernel, self.kernel.shape, strict=True))
        groups, n_in, n_out = (
            math.prod(size[label] for label in labels) for labels in (group, fan_in, fan_out)
        )

        def bias_to_matrix(bias: tf.Tensor) -> tf.Tensor:
            target = group + fan_out
            bias = tf.reshape(bias, [size[label] for label in bias_labels])
            ones = tf.ones([size[label] for label in target], bias.dtype)
            spread = tf.einsum(f"{bias_labels},{target}->{target}", bias, ones)
            return tf.reshape(spread, (groups, 1, n_out))

        output = self.equation.split("->")[1]
        bias_labels = "".join(label for label in output if label in (self.bias_axes or ""))
        return KernelView(
            split=tuple(self.kernel.shape),
            order=tuple(kernel.index(label) for label in group + fan_in + fan_out),
            matrices=(groups, n_in, n_out),
            fans=Fans(n_in, n_out, convolutional=False),
            bias_to_matrix=bias_to_matrix if set(bias_labels) <= set(group + fan_out) else None,
        )


def kernel_labels(layer: keras.layers.EinsumDense) -> tuple[str, str, str, str]:
    """Labels of the kernel, and of those the group, fan-in and fan-out labels.

    Raises:
        ValueError: No one matrix leads from cells to cells.
    """
    x, kernel, y = re.split(",|->", layer.equation.replace(" ", ""))
    batch = "" if x.startswith("...") else x[0]
    if batch and batch in kernel:
        raise ValueError(_refusal(layer, f"its kernel holds the batch label '{batch}'"))
    for part in (x, kernel, y):
        letters = part.replace(".", "")
        if len(set(letters)) < len(letters):
            raise ValueError(_refusal(layer, f"'{part}' repeats a label"))
    return (
        kernel,
        "".join(label for label in kernel if label in x and label in y),
        "".join(label for label in kernel if label in x and label not in y),
        "".join(label for label in kernel if label not in x),
    )


def _refusal(layer: keras.layers.EinsumDense, reason: str) -> str:
    return (
        f"EinsumDense layer '{layer.name}' with equation '{layer.equation}' cannot have a feedback "
        f"kernel: {reason}, so no one matrix leads from cells to cells. Leave it to backprop with "
        "a dict of patterns, or write another equation."
    )
