"""Weights to start from: of a saved model, or drawn anew."""

from __future__ import annotations

import fnmatch
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

import tfweightmirror as tfwm
from tfweightmirror.training.constraining import kernels_by_path
from train.errors import UserError, did_you_mean, see


def load_model(path: Path, key: str) -> Any:
    """A saved Keras model, with or without feedback weights; `key` names the file in errors."""
    expected = "Expected the file of a saved Keras model (.keras)."
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{key}={path} {state}. {expected}")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise UserError(
            f"{key}={path} cannot be loaded: it is damaged, or was cut while it was written or "
            f"copied. {expected.replace('the file', 'the whole file')}"
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise UserError(f"{key}={path} cannot be loaded: {reason} {expected}") from error


def take_weights(model: Any, path: Path, layers: Sequence[str] = ()) -> None:
    """Copies the weights of a saved model into a converted one, all or those of some layers.

    Feedback weights are copied where both have them; others stay as they are.
    """
    source = load_model(path, "init_from")
    ours, theirs = by_path(model), by_path(source)
    if layers:
        ours = matching(ours, layers, "init_from.layers")
        theirs = {name: weight for name, weight in theirs.items() if name in ours}
    # Feedback weights and what constraints remember: not every model has them.
    feedback = {id(p.feedback_kernel) for each in (model, source) for p in tfwm.pathways(each)}
    for constraint in [k.constraint for m in (model, source) for k in kernels_by_path(m).values()]:
        feedback |= {id(variable) for variable in getattr(constraint, "variables", ())}
    here, there = (
        {
            name: tuple(weight.shape)
            for name, weight in weights.items()
            if id(weight) not in feedback and "feedback" not in weight.name
        }
        for weights in (ours, theirs)
    )
    if here != there:
        name = next(n for n in [*here, *there] if here.get(n) != there.get(n))
        expected = "a model of the same layers"
        if layers:
            expected = (
                f"patterns in init_from.layers ({', '.join(layers)}) of layers that both have"
            )
        raise UserError(
            f"init_from={path} has other weights than this model: {name} is "
            f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} here. Expected "
            f"{expected}." + see("weights-of-another-model")
        )
    for name, weight in ours.items():
        in_both = name in theirs and theirs[name].shape == weight.shape
        if name in here or (id(weight) in feedback and in_both):
            weight.assign(theirs[name])


def take_drawn(model: Any, fresh: Any, layers: Sequence[str]) -> None:
    """Copies weights, feedback weights and statistics of a model of the same layers, just drawn."""
    wanted = matching(by_path(model), layers, "draw_anew")
    # By place: Keras counts up the names of layers that were given none.
    for ours, theirs in zip(model.weights, fresh.weights, strict=True):
        if _path(ours, model) in wanted:
            ours.assign(theirs)


def matching(weights: Mapping[str, Any], patterns: Sequence[str], key: str) -> dict[str, Any]:
    """Weights by path of the layers that match a pattern, or that an owner that matches holds."""
    found: dict[str, Any] = {}
    for pattern in patterns:
        of_pattern = {path: v for path, v in weights.items() if _matches(path, pattern)}
        if not of_pattern:
            layers = list(dict.fromkeys(path.rpartition("/")[0] for path in weights))
            raise UserError(
                f"{key}: {pattern!r} matches no layer with weights.{did_you_mean(pattern, layers)} "
                f"Expected patterns of {', '.join(layers[:20])}."
            )
        found |= of_pattern
    return found


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern is that of the weight's layer or of an owner, by name or by path."""
    names = path.split("/")[:-1]
    owners = ["/".join(names[: count + 1]) for count in range(len(names))]
    return any(fnmatch.fnmatchcase(name, pattern) for name in (*names, *owners))


def by_path(model: Any) -> dict[str, Any]:
    """All weights of a model, by path without the model's own name."""
    return {_path(weight, model): weight for weight in model.weights}


def _path(weight: Any, model: Any) -> str:
    return str(weight.path).removeprefix(f"{model.name}/")
