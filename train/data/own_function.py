"""What a function of a user's own returns: arrays, datasets of TensorFlow, or objects by index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from train.config import DataConfig
from train.data.arrays import source_of_pairs
from train.data.plan import Plan
from train.data.sets import Sets
from train.data.source import Source, rows_of, spec_of, target_of
from train.data.splits import Split, Streamed, by_index, shuffled
from train.errors import UserError
from train.parts.named import checked_options, imported

STREAMED = (
    "a tf.data.Dataset is read from the front: its shuffle is a buffer of 10,000 examples, and a "
    "run that goes on reads the epoch's earlier examples once more, to the same bits only if the "
    "dataset gives the same ones again. data.storage=memory reads it once, and promises the rest."
)


def function(config: DataConfig) -> Source:
    """What a function of the user's own returns: (train, test), or `Sets`.

    Raises:
        UserError: If it is not found, refuses its options, or returns something else.
    """
    who = f"data.name={config.name}"
    target = imported("data.name", config.name)
    if not callable(target):
        raise UserError(f"{who} is {target!r}. Expected a function that returns (train, test).")
    sets = target(**checked_options("data.options", target, config.options))
    if isinstance(sets, (tuple, list)) and len(sets) == 2:
        sets = Sets(*sets)
    if not isinstance(sets, Sets):
        raise UserError(
            f"{who} returned {type(sets).__name__}. Expected (train, test), or train.data.Sets."
        )
    both = {"train": sets.train, "test": sets.test}
    if all(isinstance(one, tuple) and len(one) == 2 for one in both.values()):
        return source_of_pairs(both, config, sets)
    if all(isinstance(one, tf.data.Dataset) for one in both.values()):
        return _streams(both, config, sets)
    indexed = [hasattr(one, "__len__") and hasattr(one, "__getitem__") for one in both.values()]
    if all(indexed) and not any(isinstance(one, (tuple, dict)) for one in both.values()):
        return _indexables(both, config, sets)
    raise UserError(
        f"{who} returned a training set of type {type(sets.train).__name__} and a test set of type "
        f"{type(sets.test).__name__}. Expected of both a pair of arrays (inputs, targets), a "
        f"tf.data.Dataset, or an object with __len__ and __getitem__."
    )


def _pair_of_specs(who: str, specs: Any) -> tuple[Any, Any]:
    if not (isinstance(specs, tuple) and len(specs) == 2 and isinstance(specs[0], tf.TensorSpec)):
        raise UserError(f"{who} has examples of {specs}. Expected (input, target).")
    if any(spec.shape.rank is None or None in spec.shape for spec in tf.nest.flatten(specs)):
        raise UserError(
            f"{who} has examples of {specs}, whose sizes are not known. Expected single examples "
            f"of one size: unbatch() them, and tf.ensure_shape."
        )
    if not len(specs[0].shape) or specs[0].dtype == tf.string:
        raise UserError(f"{who} has inputs of {specs[0]}. Expected numbers of one axis or more.")
    return specs


def _indexables(both: Mapping[str, Any], config: DataConfig, sets: Sets) -> Source:
    """Objects with `__len__` and `__getitem__`, read by index."""
    who = f"data.name={config.name}"
    counts = {name: len(one) for name, one in both.items()}
    if not all(counts.values()):
        raise UserError(f"{who} has {counts} examples. Expected at least one of each.")
    first = sets.train[0]
    specs = _pair_of_specs(who, spec_of(tuple(first) if isinstance(first, list) else first))
    target = target_of(specs[1], config, given=sets.target, num_classes=sets.num_classes)

    def open_one(key: str, split: str, take: int | None) -> Split:
        name, rows = rows_of(key, split, take, counts)

        def fetch(indices: list[int]) -> Any:
            examples = [tuple(both[name][rows[index]]) for index in indices]
            return tf.nest.map_structure(lambda *parts: np.stack(parts), *examples)

        return by_index(len(rows), fetch, specs)

    return Source(specs[0], target, specs[1], open_one)


def _streams(both: Mapping[str, Any], config: DataConfig, sets: Sets) -> Source:
    """Datasets of single examples, read from the front."""
    who = f"data.name={config.name}"
    specs = _pair_of_specs(who, sets.train.element_spec)
    target = target_of(specs[1], config, given=sets.target, num_classes=sets.num_classes)
    counts = {}
    for name, dataset in both.items():
        counts[name] = int(dataset.cardinality())
        if counts[name] == tf.data.INFINITE_CARDINALITY:
            raise UserError(f"{who} returned a {name} set without end. Expected one pass of it.")
        if counts[name] < 0:
            counts[name] = int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))

    def open_one(key: str, split: str, take: int | None) -> Split:
        name, rows = rows_of(key, split, take, counts)
        if not isinstance(rows, range):
            raise UserError(f"{key} is {split!r}. Expected consecutive examples of a dataset.")
        part = both[name].skip(rows[0]).take(len(rows))

        def records(plan: Plan, epoch: Any) -> Any:
            return part if plan.order_seed is None else shuffled(part, plan, epoch)

        return Streamed(len(rows), records)

    remark = "" if config.storage == "memory" else f"{who}: {STREAMED}"
    return Source(specs[0], target, specs[1], open_one, remark=remark)
