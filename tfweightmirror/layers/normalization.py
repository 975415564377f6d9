"""BatchNorm by running statistics, in training, too."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.arguments import is_finite


@keras.saving.register_keras_serializable(package="tfweightmirror")
class RunningBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` that trains on its running statistics.

    Khandwala and Bedi, 2.3. With batch statistics m and v (v about m), in training:
    `mean <- momentum * mean + (1 - momentum) * m`, the variance alike, and
    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with the statistics after this
    update (`include_current`) or before it. Outside training it is Keras' layer.

    What the gradient takes for constant: earlier batches' part. The current batch's part,
    `(1 - momentum)` of mean and variance, depends on x, and the gradient passes it, so that
    `momentum=0` is plain BatchNorm; without the current batch all statistics are constant, and
    `dx = gamma * dy / sqrt(variance + epsilon)`. (The paper does not say what theirs was.)

    Args:
        include_current: Whether the statistics that normalize a batch include its own.
        momentum: Share of earlier batches, in [0, 1). The running mean starts at 0 and the
            variance at 1, which count as earlier batches.
        axis, epsilon, center, scale, ...: As `keras.layers.BatchNormalization`; renorm and
            synchronized are refused, and masks not used (Keras warns). On replicas each has its own
            statistics, as there.

    Input shape, output shape: any, the same.

    Raises:
        ValueError: `momentum` is not in [0, 1), or renorm or synchronized is asked for.

    Examples:
        >>> x = tf.constant([[0.0], [2.0]])  # mean 1, variance 1
        >>> layer = tfwm.layers.RunningBatchNormalization(momentum=0.75, epsilon=1e-7)
        >>> layer(x, training=True).numpy().round(2).tolist()  # the mean that counts is 0.25
        [[-0.25], [1.75]]
        >>> float(layer.moving_mean[0])
        0.25
    """

    def __init__(
        self, *, include_current: bool = True, momentum: float = 0.9, **options: Any
    ) -> None:
        for refused in ("renorm", "synchronized"):
            if options.get(refused):
                raise ValueError(
                    f"RunningBatchNormalization received {refused}=True, which it does not have. "
                    "Use keras.layers.BatchNormalization, or leave it out."
                )
        if not (is_finite(momentum) and 0 <= momentum < 1):
            raise ValueError(
                f"momentum of RunningBatchNormalization is {momentum!r}. Expected 0 or more and "
                "below 1: the share of earlier batches."
            )
        super().__init__(momentum=momentum, **options)
        self.supports_masking = False
        self.include_current = include_current

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Normalize; in training also update the statistics."""
        if not (training and self.trainable):
            return super().call(inputs, training=False)
        ops = keras.ops
        # In float32 at least, as Keras.
        x = ops.cast(inputs, tf.float64 if inputs.dtype == tf.float64 else tf.float32)
        axes = [axis for axis in range(len(x.shape)) if axis != self.axis % len(x.shape)]
        earlier = [ops.cast(v, x.dtype) for v in (self.moving_mean, self.moving_variance)]
        updated = [
            self.momentum * old + (1.0 - self.momentum) * new
            for old, new in zip(earlier, ops.moments(x, axes), strict=True)
        ]
        self.moving_mean.assign(updated[0])
        self.moving_variance.assign(updated[1])
        mean, variance = updated if self.include_current else earlier
        outputs = ops.batch_normalization(
            x,
            mean,
            variance,
            axis=self.axis,
            offset=ops.cast(self.beta, x.dtype) if self.center else None,
            scale=ops.cast(self.gamma, x.dtype) if self.scale else None,
            epsilon=self.epsilon,
        )
        return ops.cast(outputs, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        config = super().get_config()
        for refused in ("renorm", "renorm_clipping", "renorm_momentum", "synchronized"):
            del config[refused]
        return config | {"include_current": self.include_current}
