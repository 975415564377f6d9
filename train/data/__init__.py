"""Inputs and targets: where they come from, how they become batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

EMBEDDED = {"digits": Path(__file__).parent / "digits" / "1.0.0"}


@dataclasses.dataclass(frozen=True)
class Sets:
    """Training and test set of a user's own function, where a pair of them does not say enough.

    Each is a pair of arrays (inputs, targets), a `tf.data.Dataset` of single examples (input,
    target), or an object with `__len__` and `__getitem__`, which gives such an example.

    Args:
        train: The training set.
        test: The test set.
        target: `classes`: whole numbers, one each. `values`: numbers of any shape. `inputs`: the
            model shall give what it sees; other targets are not read. `boxes`: a dictionary of
            boxes (n, 4) and classes (n,), each padded to the same n: a box is y, x of its top left
            corner and y, x of its bottom right one, as shares of the image's height and width; the
            class of padding is -1. null: whole numbers, one each, are classes, and floating-point
            numbers values.
        num_classes: How many classes there are; null: counted, where the targets are arrays.
    """

    train: Any
    test: Any
    target: Literal["classes", "values", "inputs", "boxes"] | None = None
    num_classes: int | None = None
