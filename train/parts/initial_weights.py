"""Starts a model from the weights of a saved one."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras

import tfweightmirror as tfwm
from train.errors import UserError


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
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}={path} cannot be loaded: {reason} Expected the file of a saved Keras model "
            f"(.keras)."
        ) from error


def take_weights(model: Any, path: Path) -> None:
    """Copies the weights of a saved model into a converted one of the same layers.

    Feedback weights are copied where both have them; others stay as they are.

    Raises:
        UserError: If the file cannot be read, or its layers are others.
    """
    source = load_model(path, "init_from")
    feedback = {p.name: p.feedback_kernel for p in tfwm.pathways(source)}
    for pathway in tfwm.pathways(model):
        theirs = feedback.get(pathway.name)
        ours = pathway.feedback_kernel
        if ours is not None and theirs is not None and tuple(ours.shape) == tuple(theirs.shape):
            ours.assign(theirs)
    ours, theirs = _forward_weights(model), _forward_weights(source)
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


def _forward_weights(model: Any) -> dict[str, Any]:
    """Weights that are not feedback weights, by path without the model's own name."""
    feedback = {id(p.feedback_kernel) for p in tfwm.pathways(model)}
    return {
        weight.path.partition("/")[2]
        if weight.path.startswith(f"{model.name}/")
        else weight.path: (weight)
        for weight in model.weights
        if id(weight) not in feedback and "feedback" not in weight.name
    }
