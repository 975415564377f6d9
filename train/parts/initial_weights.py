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
from train.errors import UserError, did_you_mean


def load_model(path: Path, key: str) -> Any:
    """A saved Keras model, with or without feedback weights.

    Args:
        path: A .keras file.
        key: What names it, for the error.

    Raises:
        UserError: If it cannot be read.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{key}={path} {state}. Expected the file of a saved Keras model (.keras).")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise UserError(
            f"{key}={path} cannot be loaded: it is damaged, or was cut while it was written or "
            f"copied. Expected the whole file of a saved Keras model (.keras)."
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise UserError(
            f"{key}={path} cannot be loaded: {reason} Expected the file of a saved Keras model "
            f"(.keras)."
        ) from error


def take_weights(model: Any, path: Path, layers: Sequence[str] = ()) -> None:
    """Copies the weights of a saved model into a converted one.

    Feedback weights are copied where both have them; others stay as they are.

    Args:
        model: Converted.
        path: A .keras file.
        layers: Name patterns of the layers that take theirs; none: all, and the models are of the
            same layers.

    Raises:
        UserError: If the file cannot be read, its layers are others, or a pattern matches nothing.
    """
    source = load_model(path, "init_from")
    ours, theirs = _forward_weights(model), _forward_weights(source)
    if layers:
        ours = matching(ours, layers, "init_from.layers")
        theirs = {name: weight for name, weight in theirs.items() if name in ours}
    shapes = {name: tuple(weight.shape) for name, weight in ours.items()}
    there = {name: tuple(weight.shape) for name, weight in theirs.items()}
    if shapes != there:
        name = next(n for n in [*shapes, *there] if shapes.get(n) != there.get(n))
        raise UserError(
            f"init_from={path} has other weights than this model: {name} is "
            f"{there.get(name, 'missing')} there and {shapes.get(name, 'missing')} here. Expected "
            f"a model of the same layers."
        )
    for name, weight in ours.items():
        weight.assign(theirs[name])
    feedback = {p.name: p.feedback_kernel for p in tfwm.pathways(source)}
    for pathway in tfwm.pathways(model):
        kernel, from_there = pathway.feedback_kernel, feedback.get(pathway.name)
        if kernel is None or from_there is None or tuple(kernel.shape) != tuple(from_there.shape):
            continue
        if not layers or any_matches(_path(kernel, model), layers):
            kernel.assign(from_there)


def take_drawn(model: Any, fresh: Any, layers: Sequence[str]) -> None:
    """Copies weights, feedback weights and statistics of a model that was just drawn.

    Args:
        model: Converted.
        fresh: Of the same layers, with weights of its own.
        layers: Name patterns of the layers that take theirs.

    Raises:
        UserError: If a pattern matches nothing.
    """
    wanted = matching(by_path(model), layers, "draw_anew")
    # By place: Keras counts up the names of layers that were given none.
    for ours, theirs in zip(model.weights, fresh.weights, strict=True):
        if _path(ours, model) in wanted:
            ours.assign(theirs)


def matching(weights: Mapping[str, Any], patterns: Sequence[str], key: str) -> dict[str, Any]:
    """Weights by path of the layers that match a pattern, or that an owner that matches holds.

    Raises:
        UserError: If a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(any_matches(path, [pattern]) for path in weights):
            layers = list(dict.fromkeys(path.rpartition("/")[0] for path in weights))
            raise UserError(
                f"{key}: {pattern!r} matches no layer with weights.{did_you_mean(pattern, layers)} "
                f"Expected patterns of {', '.join(layers[:20])}."
            )
    return {path: weight for path, weight in weights.items() if any_matches(path, patterns)}


def any_matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern is that of the weight's layer or of an owner, by name or by path."""
    names = path.split("/")[:-1]
    owners = ["/".join(names[: count + 1]) for count in range(len(names))]
    return any(fnmatch.fnmatchcase(n, pattern) for n in (*names, *owners) for pattern in patterns)


def by_path(model: Any) -> dict[str, Any]:
    """All weights of a model, by path without the model's own name."""
    return {_path(weight, model): weight for weight in model.weights}


def _forward_weights(model: Any) -> dict[str, Any]:
    """Weights that are not feedback weights."""
    feedback = {id(p.feedback_kernel) for p in tfwm.pathways(model)}
    return {
        path: weight
        for path, weight in by_path(model).items()
        if id(weight) not in feedback and "feedback" not in weight.name
    }


def _path(weight: Any, model: Any) -> str:
    return str(weight.path).removeprefix(f"{model.name}/")
