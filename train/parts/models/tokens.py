"""Networks whose inputs are tokens, whole numbers below a bound: what their data must be."""

from __future__ import annotations

from typing import Any

import keras

from train.data.datasets import DataSet
from train.errors import UserError

# How each names the number of tokens. Others than whole numbers below it they take in silence.
COUNTS = {keras.layers.CategoryEncoding: "num_tokens", keras.layers.Embedding: "input_dim"}


def check_tokens(model: Any, data: DataSet) -> None:
    """Raises UserError if layers that take the model's inputs for tokens are given others."""
    inputs = {id(tensor) for tensor in getattr(model, "inputs", None) or ()}
    for layer in model.layers:
        name = COUNTS.get(type(layer))
        if name is None or id(getattr(layer, "input", None)) not in inputs:
            continue
        takes = f"layer {layer.name} of the model takes inputs for tokens"
        if data.normalization.changes:
            raise UserError(
                f"data.normalization changes the inputs, but {takes}, whole numbers. Expected none."
            )
        count = getattr(layer, name)
        for split, arrays in (("train", data.train.arrays), ("test", data.test.arrays)):
            if arrays is None or not len(arrays[0]):
                continue
            least, most = arrays[0].min(), arrays[0].max()
            if least < 0 or most >= count:
                raise UserError(
                    f"data.{split}_split has tokens from {least} to {most}, but {takes} from 0 to "
                    f"{count - 1}. Expected model.options.tokens={most + 1}, or other data."
                )
