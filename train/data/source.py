"""What a data set is before it is read, and what its targets are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from train.config import DataConfig
from train.data.splits import Split
from train.detection import anchors
from train.errors import UserError, did_you_mean

# Rows of splits, by name, that one after the other are meant.
Pieces = list[tuple[str, range]]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a model shall give: the kinds are those of `Sets`, the shape that of one in the data.

    `names` are those of the classes, where they are known.
    """

    kind: str
    shape: tuple[int, ...] = ()
    num_classes: int = 0
    names: tuple[str, ...] = ()

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a model that gives it: logits of classes, values, or both for every anchor."""
        if self.kind == "boxes":
            if len(input_shape) != 3 or input_shape[0] != input_shape[1] or input_shape[0] % 32:
                raise UserError(
                    f"data.name has boxes for targets and inputs of shape {input_shape}. Expected "
                    f"square images whose side is a multiple of 32 pixels: set data.image_size, "
                    f"such as 512."
                )
            return anchors.count(input_shape[0]), 4 + self.num_classes
        by_kind = {"classes": (self.num_classes,), "inputs": input_shape}
        return by_kind.get(self.kind, self.shape or (1,))

    def prepared(self, targets: Any, inputs: Any) -> Any:
        """A batch of targets as loss and metrics take them; `inputs` are normalised.

        Of boxes (rows, n, 5): y, x, y, x in pixels of the inputs, and the class.
        """
        if self.kind == "classes":
            return tf.cast(tf.reshape(targets, (-1,)), tf.int32)
        if self.kind == "values":
            values = tf.cast(targets, tf.float32)
            return values if self.shape else values[:, None]
        if self.kind == "boxes":
            sides = tf.cast(tf.stack([inputs.shape[1], inputs.shape[2]] * 2), tf.float32)
            boxes = tf.cast(targets["boxes"], tf.float32) * sides
            return tf.concat([boxes, tf.cast(targets["classes"], tf.float32)[..., None]], axis=-1)
        return inputs


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before anything is read.

    Args:
        spec: `tf.TensorSpec` of an input, decoded, with null for sides that differ; and of its
            target, a nest.
        target: What a model shall give.
        splits: Gives the splits by name, which TensorFlow Datasets may have to fetch.
        part: Opens pieces of them.
        version: Of the data, if they have one.
        remark: What the user shall know of them.
    """

    spec: tuple[Any, Any]
    target: Target
    splits: Callable[[], Mapping[str, tfds.core.SplitInfo]]
    part: Callable[[Pieces], Split]
    version: str | None = None
    remark: str = ""

    def open(self, key: str, split: str, take: int | None = None) -> Split:
        """The first `take` examples of what `split` means in TensorFlow Datasets' syntax."""
        infos = self.splits()
        try:
            parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
        # What TensorFlow Datasets raises of a text that names no part of these splits.
        except (KeyError, ValueError, AssertionError, NotImplementedError):
            parts = []
        found = [
            (part.splitname, range(infos[part.splitname].num_examples)[part.from_ : part.to])
            for part in parts
        ]
        count = sum(len(rows) for _, rows in found)
        if count == 0:
            raise UserError(
                f"{key} is {split!r}, which holds nothing. Expected {' or '.join(infos)}, or a "
                f"part of one, such as 'train[:10%]'.{did_you_mean(split, infos)}"
            )
        if take is not None and take > count:
            raise UserError(
                f"data.take is {take}, but {key}={split} has {count} examples. Expected at most "
                f"that many."
            )
        left = take or count
        pieces: Pieces = []
        for name, rows in found:
            if used := rows[:left]:
                pieces.append((name, used))
                left -= len(used)
        return self.part(pieces)


def splits_of(counts: Mapping[str, int]) -> Callable[[], Mapping[str, tfds.core.SplitInfo]]:
    """For `Source.splits`, where the data are there."""
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[count], num_bytes=0)
        for name, count in counts.items()
    }
    return lambda: infos


def target_of(
    spec: Any,
    config: DataConfig,
    kind: str | None = None,
    num_classes: int | None = None,
    names: tuple[str, ...] = (),
) -> Target:
    """The target that a nest of `tf.TensorSpec` stands for; the data may say kind and classes."""
    kind = config.target if config.target != "auto" else kind
    who = f"data.name={config.name}"
    if kind == "inputs":
        return Target("inputs")
    if isinstance(spec, dict) or kind == "boxes":
        shapes = {k: tuple(v.shape) for k, v in spec.items()} if isinstance(spec, dict) else {}
        boxes, classes = shapes.get("boxes", ()), shapes.get("classes", ())
        if kind not in (None, "boxes") or boxes[1:] != (4,) or classes != boxes[:1]:
            raise UserError(
                f"{who} has targets {shapes or spec}. Expected an array, or of boxes a dictionary "
                f"of boxes (n, 4) and classes (n,), each padded to the same n."
            )
        if not num_classes:
            raise _unknown_classes(who)
        return Target("boxes", boxes, num_classes, names)
    shape, whole = tuple(spec.shape), spec.dtype.is_integer
    if kind == "values" or (kind is None and spec.dtype.is_floating):
        return Target("values", shape)
    if not whole or math.prod(shape) != 1:
        but = "but its target is classes" if kind else "whose kind is not clear"
        instead = "" if kind else "data.target=values, or "
        raise UserError(
            f"{who} has targets of shape {shape} and type {spec.dtype.name}, {but}. Expected "
            f"{instead}whole numbers, one for each input."
        )
    if not num_classes:
        raise _unknown_classes(who)
    return Target("classes", shape, num_classes)


def _unknown_classes(who: str) -> UserError:
    return UserError(
        f"{who} does not say how many classes it has, and it is not read through to count them. "
        f"Expected train.data.Sets(train, test, num_classes=...)."
    )


def spec_of(one: Any) -> Any:
    """Nest of `tf.TensorSpec` of one example's nest of arrays."""
    arrays = tf.nest.map_structure(np.asarray, one)
    return tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), arrays)
