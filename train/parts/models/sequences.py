"""Networks on sequences: rows of an image, rows of values, or tokens such as characters."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras

from train.errors import UserError

CELLS = {"simple": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def _steps(images: Any, input_shape: tuple[int, ...], tokens: int) -> Any:
    """(batch, steps, values): an image's rows; tokens one-hot; or what has steps already."""
    if tokens:
        if len(input_shape) != 1:
            raise UserError(
                f"model.options.tokens is {tokens}, but inputs are of shape {input_shape}. "
                f"Expected rows of whole numbers, or tokens=0."
            )
        encoding = keras.layers.CategoryEncoding(tokens, output_mode="one_hot", name="one_hot")
        return encoding(images)
    if len(input_shape) == 3:
        rows = (input_shape[0], input_shape[1] * input_shape[2])
        return keras.layers.Reshape(rows, name="rows")(images)
    if len(input_shape) != 2:
        raise UserError(
            f"Inputs are of shape {input_shape}. Expected images, rows of values with an axis of "
            f"steps, or tokens with model.options.tokens, how many there are."
        )
    return images


def rnn(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    units: tuple[int, ...] = (128,),
    cell: Literal["simple", "lstm", "gru", "added_input"] = "simple",
    tokens: int = 0,
) -> keras.Model:
    """Recurrent layers over the rows of an image, or over tokens, and a head on the last state.

    Args:
        input_shape: (height, width, channels), (steps, values), or (steps,) of tokens.
        output_shape: (logits,).
        units: Cells of each layer, one above the other.
        cell: `simple` (tanh), `lstm`, `gru`, or `added_input`: that of Khandwala and Bedi
            (section 2.5), h_t = sigmoid(H h_(t-1) + x_t), which has no input matrix (an identity
            here, that does not learn) and no bias: one layer, of as many units as inputs.
        tokens: How many different tokens there are; 0: inputs are values.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _steps(inputs, input_shape, tokens)
    own = cell == "added_input"
    if not units:
        raise UserError("model.options.units is []. Expected the cells of one layer or more.")
    if own and list(units) != [x.shape[-1]]:
        raise UserError(
            f"model.options.units is {list(units)} under cell=added_input, which has no input "
            f"matrix. Expected one layer of as many cells as there are inputs: {[x.shape[-1]]}."
        )
    for number, cells in enumerate(units, start=1):
        options: dict[str, Any] = {
            "return_sequences": number < len(units),
            "name": f"recurrent_{number}",
        }
        if own:
            options |= {
                "activation": "sigmoid",
                "use_bias": False,
                "kernel_initializer": "identity",
            }
        elif cell != "simple":
            options["use_cudnn"] = False  # it knows no feedback weights
        layer = CELLS["simple" if own else cell](cells, **options)
        x = layer(x)
        if own:
            layer.cell.kernel.trainable = False
    logits = keras.layers.Dense(math.prod(output_shape), use_bias=not own, name="head")(x)
    return keras.Model(inputs, logits, name="rnn")


def transformer(
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    blocks: int = 2,
    width: int = 64,
    heads: int = 4,
    tokens: int = 0,
) -> keras.Model:
    """An encoder (pre-norm), whose last step gives the logits.

    Args:
        input_shape: As of `rnn`.
        output_shape: (logits,).
        blocks: Of attention and two dense layers each.
        width: Values of every step; the dense layers have four times as many between them.
        heads: Of the attention; a divisor of the width.
        tokens: How many different tokens there are; 0: inputs are values.
    """
    if heads < 1 or width % heads:
        raise UserError(
            f"model.options are width={width}, heads={heads}. Expected heads that divide the width."
        )
    if blocks < 0:
        raise UserError(f"model.options.blocks is {blocks}. Expected how many there are, or 0.")
    inputs = keras.Input(input_shape, name="image")
    x = _steps(inputs, input_shape, tokens)
    x = keras.layers.Dense(width, use_bias=False, name="embed")(x)
    x = Positions(name="positions")(x)
    for number in range(1, blocks + 1):
        name = f"block_{number}"
        y = keras.layers.LayerNormalization(name=f"{name}_norm_a")(x)
        attention = keras.layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")
        x = keras.layers.Add(name=f"{name}_sum_a")([x, attention(y, y)])
        y = keras.layers.LayerNormalization(name=f"{name}_norm_b")(x)
        y = keras.layers.Dense(4 * width, activation="gelu", name=f"{name}_wide")(y)
        y = keras.layers.Dense(width, name=f"{name}_narrow")(y)
        x = keras.layers.Add(name=f"{name}_sum_b")([x, y])
    x = keras.layers.LayerNormalization(name="norm")(x)
    last = keras.layers.Cropping1D((x.shape[1] - 1, 0), name="last_step")(x)
    last = keras.layers.Flatten(name="flatten")(last)
    logits = keras.layers.Dense(math.prod(output_shape), name="head")(last)
    return keras.Model(inputs, logits, name="transformer")


@keras.saving.register_keras_serializable(package="tfweightmirror_train")
class Positions(keras.layers.Layer):
    """Adds a learned vector to every step: (batch, steps, values) to the same.

    No error passes the vectors: they stand in one row, and are not taken for a matrix.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the vectors."""
        self.vectors = self.add_weight(
            name="vectors",
            shape=(math.prod(size or 0 for size in input_shape[1:]),),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, inputs: Any) -> Any:
        """Add them."""
        return inputs + keras.ops.reshape(self.vectors, inputs.shape[1:])
