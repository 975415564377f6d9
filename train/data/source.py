"""What a data set is before it is read, and what its targets are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from train.config import DataConfig
from train.data.splits import Split
from train.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Target:
    """What a model shall give.

    Args:
        kind: `classes` (one whole number each), `values` (numbers of any shape), `inputs` (what the
            model sees itself) or `boxes` (a dictionary of boxes (n, 4) and classes (n,), padded).
        shape: Of one, as the data have it.
        num_classes: Of `classes` and `boxes`.
    """

    kind: str
    shape: tuple[int, ...] = ()
    num_classes: int = 0

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a model that gives it: logits of classes, or values.

        Raises:
            UserError: If there is no such model yet.
        """
        if self.kind == "boxes":
            raise UserError(
                "data.name has boxes for targets, and no model and loss for them are here yet: "
                "detection is to come. Expected classes or values."
            )
        by_kind = {"classes": (self.num_classes,), "inputs": input_shape}
        return by_kind.get(self.kind, self.shape or (1,))

    def prepared(self, targets: Any, inputs: Any) -> Any:
        """A batch of targets as loss and metrics take them; `inputs` are normalised."""
        if self.kind == "classes":
            return tf.cast(tf.reshape(targets, (-1,)), tf.int32)
        if self.kind == "values":
            values = tf.cast(targets, tf.float32)
            return values if self.shape else values[:, None]
        return inputs if self.kind == "inputs" else targets


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before anything is read.

    Args:
        input: `tf.TensorSpec` of one, decoded; sides are null where they differ.
        target: What stands beside it.
        target_spec: Nest of its `tf.TensorSpec`, as it is stored.
        open: Key and text of a split or a part of one, and how many at most, to the split.
        moves: Whether it is read into memory if it fits, and not only if that is asked for.
        version: Of the data, if they have one.
        remark: To be said at the start: what cannot be promised.
    """

    input: Any
    target: Target
    target_spec: Any
    open: Callable[[str, str, int | None], Split]
    moves: bool = False
    version: str | None = None
    remark: str = ""


def target_of(
    spec: Any, config: DataConfig, *, given: str | None = None, num_classes: int | None = None
) -> Target:
    """The target that a nest of `tf.TensorSpec` stands for.

    Args:
        spec: Of one target.
        config: May say the kind.
        given: The kind, as the data say it; null: as their type says.
        num_classes: As the data say it, if they do.

    Raises:
        UserError: If the kind cannot be, or is not known from the type.
    """
    kind = config.target if config.target != "auto" else given
    who = f"data.name={config.name}"
    if kind == "inputs":
        return Target("inputs")
    if isinstance(spec, dict) or kind == "boxes":
        shapes = {k: tuple(v.shape) for k, v in spec.items()} if isinstance(spec, dict) else {}
        boxes, classes = shapes.get("boxes", ()), shapes.get("classes", ())
        if kind not in (None, "boxes") or boxes[1:] != (4,) or classes != boxes[:1]:
            raise UserError(
                f"{who} has targets {shapes or spec}. Expected an array, or of "
                f"boxes a dictionary of boxes (n, 4) and classes (n,), each padded to the same n."
            )
        return Target("boxes", boxes, num_classes or 0)
    shape, whole = tuple(spec.shape), spec.dtype.is_integer
    if kind is None and ((whole and math.prod(shape) == 1) or spec.dtype.is_floating):
        kind = "classes" if whole else "values"
    if kind not in ("classes", "values"):
        raise UserError(
            f"{who} has targets of shape {shape} and type {spec.dtype.name}, whose kind is not "
            f"clear. Expected data.target=values, or whole numbers of shape (), one for each input."
        )
    if kind == "values":
        return Target("values", shape)
    if not whole or math.prod(shape) != 1:
        raise UserError(
            f"{who} has targets of shape {shape} and type {spec.dtype.name}, but its target is "
            f"classes. Expected whole numbers, one for each input."
        )
    if not num_classes:
        raise UserError(
            f"{who} does not say how many classes it has, and it is not read through to count "
            f"them. Expected train.data.Sets(train, test, num_classes=...)."
        )
    return Target("classes", shape, num_classes)


def check_split(key: str, split: str, count: int, take: int | None, known: Iterable[str]) -> None:
    """Refuses a split that holds nothing, or less than shall be taken.

    Raises:
        UserError: Then.
    """
    if count == 0:
        raise UserError(
            f"{key} is {split!r}, which holds nothing. Expected {' or '.join(known)}, or a part of "
            f"one, such as 'train[:10%]'.{did_you_mean(split, known)}"
        )
    if take is not None and take > count:
        raise UserError(
            f"data.take is {take}, but {key}={split} has {count} examples. Expected at most that "
            f"many."
        )


def rows_of(
    key: str, split: str, take: int | None, counts: Mapping[str, int]
) -> tuple[str, Sequence[int]]:
    """Name of the split that is meant, and its rows, by the syntax of TensorFlow Datasets.

    Rows that follow each other are a `range`.
    """
    options = {"num_bytes": 0, "filename_template": None}
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[count], **options)
        for name, count in counts.items()
    }
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (KeyError, ValueError, AssertionError):
        parts = []
    ranges = [range(counts[part.splitname])[part.from_ : part.to] for part in parts]
    rows = ranges[0] if len(ranges) == 1 else [row for one in ranges for row in one]
    if len({part.splitname for part in parts}) > 1:
        raise UserError(f"{key} is {split!r}. Expected a part of one split.")
    check_split(key, split, len(rows), take, counts)
    return parts[0].splitname, rows[:take]


def spec_of(one: Any) -> Any:
    """Nest of `tf.TensorSpec` of one example's nest of arrays."""

    def spec(part: Any) -> Any:
        array = np.asarray(part)
        return tf.TensorSpec(array.shape, array.dtype)

    return tf.nest.map_structure(spec, one)
