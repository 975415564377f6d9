"""The mirror's learning rule on tensors: signals in, new feedback matrix out; never a weight."""

from typing import Literal

import tensorflow as tf

from tfweightmirror.pathway import products


def hebbian_product(x: tf.Tensor, y: tf.Tensor, fan_in: int) -> tf.Tensor:
    """`X^T Y` of what cells fired and what the next cells answered (Akrout et al. 2019, eq. 5).

    `E[X^T Y] = m std^2 W` for a linear response to m samples of independent cells; for balanced
    noise the equality holds without the expectation.

    Args:
        x: (groups, samples, fan_in), or (groups, turns, samples, cells) where blocks of cells fired
            in turns.
        y: (groups, samples, fan_out), or (groups, turns, samples, fan_out).
        fan_in: Cells of one receptive field.

    Returns:
        (groups, fan_in, fan_out). In turns, a silent cell's products are zeros and are left out.
    """
    product = products(x, y, transpose=True)
    if x.shape.rank == 3:
        return product
    groups, turns, cells, fan_out = product.shape
    product = tf.reshape(product, (groups, turns * cells, fan_out))
    return product if turns * cells == fan_in else product[:, :fan_in]


def sent_back(feedback: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """`(B Y^T) Y`: the Hebbian product of answers and what B makes of them on its way back.

    The term `null` of Kunin et al. 2020, summed over samples.

    Args:
        feedback: B as matrices, (groups, fan_in, fan_out).
        y: Answers, (groups, samples, fan_out).
    """
    return tf.matmul(tf.matmul(feedback, y, transpose_b=True), y)


def learn(
    feedback: tf.Tensor,
    product: tf.Tensor,
    eta: float,
    decay: float,
    norm: Literal["decay", "scaling"] | None,
) -> tf.Tensor:
    """One mirror step: `B <- (1 - decay) B + eta X^T Y` (Akrout et al. 2019, eq. 7).

    Args:
        feedback: B, any shape.
        product: `X^T Y`, the shape of B.
        eta: Step size. `eta = decay / (m std^2)` settles at B = W.
        decay: The share of B that is replaced, in (0, 1].
        norm: What bounds |B|. `"decay"`: the decay. `"scaling"`: synaptic scaling to the norm that
            B had before. None: nothing (the code that the paper's authors released).

    Returns:
        The new B. Where decay is 1 the old B does not enter, so a NaN in it does not survive.
    """
    change = product if eta == 1.0 else eta * product
    if norm == "decay":
        return change if decay == 1.0 else (1.0 - decay) * feedback + change
    grown = feedback + change
    return grown if norm is None else grown * (tf.norm(feedback) / tf.norm(grown))
