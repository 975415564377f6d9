"""Product feedback alignment: the error travels back through two matrices in turn."""

import dataclasses
import math
from typing import Literal

import keras
import tensorflow as tf

from tfweightmirror.rules.feedback_rule import Factors, Fans, FeedbackRule

register = keras.saving.register_keras_serializable(package="tfweightmirror")


@register
@dataclasses.dataclass(frozen=True)
class ProductFeedbackAlignment(FeedbackRule):
    """The error travels on `B = R F`, F fixed and random, R learning (Li and Benna 2024: PFA).

    `e = F dy` are the errors of cells between the layers, `expansion` times as many as the cells
    above; `dx = R e`; `dR = x e^T = dW F^T`. With equal decay of W and R the gap `R - W F^T` dies
    out by the factor of Kolen-Pollack, and B becomes `W F^T F`. So B is W as far as `F^T F` is the
    identity, and yet no weight of R or F is one of W. (The paper's B is F here.) Train with an
    optimizer that has `weight_decay`.

    Args:
        expansion: Cells between the layers for each cell above; a whole number. With F drawn at
            random, `tan^2(angle) = 1 / expansion` is left between W and B.
        factor: `"random"`: uniform of variance `1 / (expansion n_out)`, as the paper's code draws
            it; `"orthogonal"`: `F^T F` is the identity.

    Raises:
        ValueError: `expansion` is not a whole number of at least 1, or `factor` none of these.

    Examples:
        >>> rule = tfwm.rules.ProductFeedbackAlignment(expansion=4)
        >>> layer = tfwm.layers.FeedbackDense(2, rule=rule)
        >>> layer.build((None, 3))
        >>> layer.feedback_kernel.shape, layer.feedback_factor.shape  # R, which learns, and F
        (TensorShape([1, 3, 8]), TensorShape([1, 8, 2]))
        >>> tuple(layer.pathways[0].feedback().shape)  # R F, of the shape of W
        (3, 2)
    """

    expansion: int = 10
    factor: Literal["random", "orthogonal"] = "random"

    name = "product_feedback_alignment"
    aliases = ("pfa",)
    learns_by = "optimizer"

    def __post_init__(self) -> None:
        whole = isinstance(self.expansion, int) and not isinstance(self.expansion, bool)
        if not whole or self.expansion < 1:
            raise ValueError(
                f"expansion of {self.name} must be a whole number of at least 1. "
                f"Received: {self.expansion!r}."
            )
        if self.factor not in ("random", "orthogonal"):
            raise ValueError(
                f"factor of {self.name} must be one of random, orthogonal. "
                f"Received: {self.factor!r}."
            )

    def factors(self, matrices: tuple[int, int, int]) -> Factors:
        """R (groups, fan_in, expansion fan_out) and F (groups, expansion fan_out, fan_out)."""
        groups, fan_in, fan_out = matrices
        between = self.expansion * fan_out
        uniform = keras.initializers.RandomUniform
        bound = math.sqrt(3.0 / between)
        return Factors(
            learned=(groups, fan_in, between),
            fixed=(groups, between, fan_out),
            fixed_initializer=uniform(-bound, bound, seed=0)
            if self.factor == "random"
            else Orthonormal(seed=0),
        )

    def default_initializer(self, fans: Fans) -> keras.initializers.Initializer:
        """Of R: Glorot-uniform."""
        del fans
        return keras.initializers.VarianceScaling(
            1.0, "fan_avg", "uniform", seed=0, input_axes=[1], output_axes=[2]
        )

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor:
        """The gradient of `R F`, dW: that of R is `dW F^T`, by the chain rule."""
        return kernel_gradient


class Orthonormal(keras.initializers.Initializer):
    """Each of the matrices (groups, rows, columns) has orthonormal columns; rows >= columns."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
        """Draws of one group after the other."""
        draw = keras.initializers.Orthogonal
        return tf.stack(
            [draw(seed=self.seed + group)(shape[1:], dtype=dtype) for group in range(shape[0])]
        )

    def get_config(self) -> dict[str, int]:
        """The seed."""
        return {"seed": self.seed}
