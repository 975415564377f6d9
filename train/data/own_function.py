"""What a function of a user's own returns: arrays, datasets of TensorFlow, or objects by index."""

from __future__ import annotations

import contextlib
import functools
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from train.config import DataConfig
from train.data import Sets
from train.data.files import source_of_pairs
from train.data.source import Pieces, Source, spec_of, splits_of, target_of
from train.data.splits import Split, by_python, streamed
from train.errors import UserError, see
from train.parts.named import checked_options, imported


def function(config: DataConfig) -> Source:
    """What a function of the user's own returns: (train, test), or `Sets`."""
    who = f"data.name={config.name}"
    target = imported("data.name", config.name)
    if not callable(target):
        raise UserError(
            f"{who} is {target!r}. Expected a function that returns (train, test)."
            + see("parts-of-your-own", "own_parts")
        )
    options = checked_options("data.options", target, config.options)
    with _failures_named(who):
        sets = target(**options)
    if isinstance(sets, (tuple, list)) and len(sets) == 2:
        sets = Sets(*sets)
    if not isinstance(sets, Sets):
        raise UserError(
            f"{who} returned {type(sets).__name__}. Expected (train, test), or train.data.Sets."
            + see("parts-of-your-own", "own_parts")
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
        + see("parts-of-your-own", "own_parts")
    )


def remark(config: DataConfig, train: Split) -> str:
    """What cannot be promised of these data."""
    if train.by_index or not config.is_function:
        return ""
    return (
        f"data.name={config.name}: a tf.data.Dataset is read from the front: its shuffle is a "
        f"buffer of 10,000 examples, and a run that goes on reads the epoch's earlier examples "
        f"once more, to the same bits only if the dataset gives the same ones again. "
        f"data.storage=memory reads it once, and promises the rest."
    )


@contextlib.contextmanager
def _failures_named(who: str) -> Iterator[None]:
    """A context in which whatever the user's code raises becomes a sentence that says where."""
    try:
        yield
    except UserError:  # as data functions of ours say it
        raise
    except Exception as error:
        _, *frames = traceback.extract_tb(error.__traceback__)
        where = frames[1] if len(frames) > 1 else frames[0]  # the first behind our call
        raise UserError(
            f"{who} fails in {where.name} ({where.filename}, line {where.lineno}): "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


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

    def example(name: str, row: int) -> Any:
        with _failures_named(f"{who}: example {row} of {name}"):
            found = both[name][row]
        return tuple(found) if isinstance(found, list) else found

    def as_first(name: str, row: int) -> Any:
        found = tf.nest.map_structure(np.asarray, example(name, row))
        if [part.shape for part in tf.nest.flatten(found)] != shapes:
            raise UserError(
                f"{who}: example {row} of {name} is of {spec_of(found)}. Expected {spec}, as of "
                f"the first."
            )
        return found

    with _failures_named(who):
        counts = {name: len(one) for name, one in both.items()}
    if not all(counts.values()):
        raise UserError(f"{who} has {counts} examples. Expected at least one of each.")
    spec = _pair_of_specs(who, spec_of(example("train", 0)))
    shapes = [tuple(part.shape) for part in tf.nest.flatten(spec)]

    def part(pieces: Pieces) -> Split:
        places = [(name, row) for name, rows in pieces for row in rows]

        def fetch(indices: Any) -> Any:
            return tf.nest.map_structure(
                lambda one, *parts: np.asarray(parts, one.dtype.as_numpy_dtype),
                spec,
                *(as_first(*places[index]) for index in indices),
            )

        return by_python(len(places), fetch, spec)

    target = target_of(spec[1], config, sets.target, sets.num_classes)
    return Source(spec, target, splits_of(counts), part)


def _streams(both: Mapping[str, tf.data.Dataset], config: DataConfig, sets: Sets) -> Source:
    """Datasets of single examples, read from the front."""
    who = f"data.name={config.name}"
    spec = _pair_of_specs(who, sets.train.element_spec)
    counts = {name: int(dataset.cardinality()) for name, dataset in both.items()}
    for name, dataset in both.items():
        if counts[name] == tf.data.INFINITE_CARDINALITY:
            raise UserError(f"{who} returned a {name} set without end. Expected one pass of it.")
        if counts[name] < 0:
            counts[name] = int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))

    def failure(error: Exception) -> UserError | None:
        """What TensorFlow has made text of, if it was Python code of the user's in the dataset."""
        said, *node = re.split(r"\[\[\{\{node \w*PyFunc", str(error), maxsplit=1)
        places = re.findall(r'File "(.+)", line (\d+), in (\S+)', said)
        if not (node and places):
            return None
        file, line, function = places[-1]
        what = said.strip().splitlines()[-1]
        return UserError(f"{who} fails in {function} ({file}, line {line}): {what}")

    def part(pieces: Pieces) -> Split:
        parts = (both[name].skip(rows.start).take(len(rows)) for name, rows in pieces)
        whole = functools.reduce(lambda some, more: some.concatenate(more), parts)
        count = sum(len(rows) for _, rows in pieces)
        return streamed(count, lambda plan, epoch: whole, fault=failure)

    target = target_of(spec[1], config, sets.target, sets.num_classes)
    return Source(spec, target, splits_of(counts), part)
