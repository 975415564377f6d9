"""Arrays: of a .npz file, of a folder of .npy files, or of a function of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from train.config import DataConfig
from train.data.sets import Sets
from train.data.source import Source, rows_of, spec_of, target_of
from train.data.splits import MAX_BYTES_IN_MEMORY, Split, of_arrays
from train.errors import UserError


def file_of_arrays(config: DataConfig) -> Source:
    """A .npz file with the arrays x_train, y_train, x_test, y_test.

    Raises:
        UserError: If it cannot be read, lacks one, or they do not fit together.
    """
    try:
        with np.load(Path(config.name).expanduser()) as content:
            arrays = {name: content[name] for name in content.files if name[:2] in ("x_", "y_")}
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.name={config.name} cannot be read: {error}. Expected a .npz file of NumPy, "
            f"without objects."
        ) from error
    return _named_arrays(arrays, config)


def folder_of_arrays(config: DataConfig) -> Source:
    """A folder with x_train.npy, y_train.npy, x_test.npy, y_test.npy, mapped into memory.

    Raises:
        UserError: As `file_of_arrays`.
    """
    arrays = {}
    for path in sorted(Path(config.name).expanduser().glob("[xy]_*.npy")):
        try:
            arrays[path.stem] = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(
                f"data.name names a folder in which {path} cannot be read: {error}. Expected an "
                f"array that NumPy saved, without objects."
            ) from error
    return _named_arrays(arrays, config)


def _named_arrays(arrays: Mapping[str, Any], config: DataConfig) -> Source:
    names = {name[2:] for name in arrays if name[0] == "x"}
    return source_of_pairs(
        {name: (arrays[f"x_{name}"], arrays.get(f"y_{name}")) for name in names}, config
    )


def source_of_pairs(
    pairs: Mapping[str, tuple[Any, Any]], config: DataConfig, sets: Sets | None = None
) -> Source:
    """Splits of arrays by name."""
    who = f"data.name={config.name}"
    ready = {name: _checked_pair(who, name, *pair, config) for name, pair in pairs.items()}
    counts = {name: len(inputs) for name, (inputs, _) in ready.items()}
    first = next(iter(ready.values()), None)
    if first is None:
        raise UserError(f"{who} has no arrays. Expected x_train, y_train, x_test and y_test.")
    specs = _specs(first)
    for name, pair in ready.items():
        if (other := _specs(pair)) != specs:
            raise UserError(
                f"{who} has examples of {specs} and, in {name}, of {other}. Expected one shape and "
                f"type of inputs, and one of targets."
            )
    declared = sets.num_classes if sets else None
    labels = [targets for _, targets in ready.values() if isinstance(targets, np.ndarray)]
    counted = max(
        (int(array.max(initial=0)) + 1 for array in labels if array.dtype.kind in "iu"),
        default=None,
    )
    target = target_of(
        specs[1], config, given=sets.target if sets else None, num_classes=declared or counted
    )
    if target.kind == "classes":
        low, high = (min(int(a.min(initial=0)) for a in labels), counted or 0)
        if low < 0 or high > target.num_classes:
            raise UserError(
                f"{who} has classes from {low} to {high - 1}. Expected 0 to "
                f"{target.num_classes - 1}, or data.target=values."
            )
    size_bytes = sum(array.nbytes for pair in ready.values() for array in tf.nest.flatten(pair))
    fits = size_bytes <= MAX_BYTES_IN_MEMORY and config.storage != "disk"

    def open_one(key: str, split: str, take: int | None) -> Split:
        name, rows = rows_of(key, split, take, counts)
        there = slice(rows[0], rows[-1] + 1) if isinstance(rows, range) else rows
        inputs, targets = tf.nest.map_structure(lambda array: array[there], ready[name])
        return of_arrays(inputs, targets, in_memory=fits)

    return Source(specs[0], target, specs[1], open_one)


def _checked_pair(who: str, name: str, inputs: Any, targets: Any, config: DataConfig) -> Any:
    """Inputs and targets as arrays of one length; grey images get their channel."""
    inputs = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs)
    if targets is None and config.target == "inputs":
        targets = np.zeros(len(inputs), np.int32)
    if not isinstance(targets, dict):
        targets = targets if isinstance(targets, np.ndarray) else np.asarray(targets)
    flat = [inputs, *map(np.asarray, tf.nest.flatten(targets))]
    if any(array.dtype.kind not in "biuf" or not array.ndim for array in flat) or inputs.ndim < 2:
        raise UserError(
            f"{who} has, for {name}, inputs of shape {inputs.shape} and type {inputs.dtype}, and "
            f"targets {[f'{a.shape} {a.dtype}' for a in flat[1:]]}. Expected arrays of numbers: "
            f"inputs of two axes or more, targets beside them (y_{name} in a file)."
        )
    if len({len(array) for array in flat}) > 1 or not len(inputs):
        raise UserError(
            f"{who} has {len(inputs)} inputs and {len(flat[1])} targets for {name}. Expected as "
            f"many, and at least one."
        )
    if inputs.dtype == np.uint8 and inputs.ndim == 3:
        inputs = inputs[..., None]
    return inputs, targets


def _specs(arrays: Any) -> Any:
    return spec_of(tf.nest.map_structure(lambda array: array[0], arrays))
