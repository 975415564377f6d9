"""Constraints of weights from the configuration."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.training import FixedSign, GlorotClip, Sparse, constrain
from tfweightmirror.training.constraining import kernels_by_path
from train.config import Part
from train.errors import UserError, did_you_mean
from train.parts.named import classes_of, instance, refusals

OURS = {"fixed_sign": FixedSign, "glorot_clip": GlorotClip, "sparse": Sparse}


def known_constraints() -> dict[str, Any]:
    """Ours, and those of Keras in snake case."""
    return OURS | classes_of(keras.constraints, keras.constraints.Constraint, snake_case=True)


def add_constraints(model: Any, parts: Mapping[str, Part]) -> None:
    """Gives the kernels of a built model their constraints, by layer-name pattern.

    The first pattern that matches decides about a layer.
    """
    paths = {name.removesuffix(f"/{v.name}"): v for name, v in kernels_by_path(model).items()}
    for place, (pattern, part) in enumerate(parts.items()):
        key = f"constraints.{pattern}"
        matched = [path for path in paths if _matches(path, [pattern])]
        mine = [path for path in matched if not _matches(path, list(parts)[:place])]
        if not mine:
            raise UserError(
                f"{key} decides about no layer with weights.{did_you_mean(pattern, paths)} "
                f"Expected a pattern of {', '.join(paths)}, the narrower one first."
            )
        base = (keras.constraints.Constraint, FixedSign, Sparse)
        constraint = instance(key, part, known_constraints(), base, "a Keras constraint")
        with refusals(key):
            constrain(model, constraint, layers=[glob.escape(path) for path in mine])


def check_optimizer(model: Any, optimizer: Any) -> None:
    """Refuse what our constraints would not hold; the library says so in the first step alone."""
    kinds = {type(kernel.constraint) for kernel in kernels_by_path(model).values()}
    held = [name for name, kind in OURS.items() if kind in kinds]
    if held and optimizer.use_ema:
        raise UserError(
            "optimizer.options.use_ema=true overwrites weights by averages from before their "
            f"constraints ({', '.join(held)}). Expected false."
        )


def renew_constraints(model: Any) -> None:
    """Has constraints take the signs, and masks take off, of weights that came from elsewhere."""
    for pathway in tfwm.pathways(model):
        if pathway.sparse is not None and pathway.feedback_kernel is not None:
            held = pathway.sparse.mask_feedback(pathway.feedback_kernel)
            pathway.feedback_kernel.assign(held)
    for kernel in kernels_by_path(model).values():
        constraint = kernel.constraint
        if isinstance(constraint, Sparse):
            kernel.assign(constraint(kernel))
        if isinstance(constraint, FixedSign):
            signs = tf.cast(tf.convert_to_tensor(constraint.signs), kernel.dtype)
            if tf.reduce_any(signs * tf.convert_to_tensor(kernel) < 0):
                axis = -1 if constraint.signs.shape[-1] > 1 else -2
                constraint.remember(kernel, cells_axis=axis)


def _matches(path: str, patterns: list[str]) -> bool:
    names = (path, path.rpartition("/")[2])
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
