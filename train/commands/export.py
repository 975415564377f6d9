"""Writes a trained model as a plain Keras model, and its feedback weights as arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfweightmirror as tfwm
from train.commands.trained import load_trained, normalization_of, normalizes
from train.disk import disk_errors, rename_on_disk
from train.errors import UserError


def export(model_or_run: str, out: str, feedback: str | None = None) -> Path:
    """Writes the model without feedback weights, optimizer and loss; Keras alone loads the file.

    It takes inputs as they are in the data: a layer in front normalises them as the run did.

    Args:
        model_or_run: A run directory, or a .keras file.
        out: The .keras file to write. Folders above it are made.
        feedback: A .npz file to write, for a chip: of every pathway, in its kernel's shape,
            `<pathway>/W` and, as `<pathway>/B`, what carries the error in W's place.

    Raises:
        UserError: If there is no model, it has no feedback weights that are asked for, or a file
            exists, has another ending or cannot be written.
    """
    path = _free("out", out, ".keras", "Keras' own format")
    arrays_path = _free("feedback", feedback, ".npz", "arrays of NumPy") if feedback else None
    file, model = load_trained(model_or_run)
    normalization = normalization_of(file)
    arrays = _arrays(model)
    if arrays_path is not None:
        if not arrays:
            raise UserError(f"{file} has no feedback weights: W itself carries every error.")
        _write("feedback", arrays_path, lambda aside: np.savez(aside, **arrays))
        print(f"{arrays_path}: {len(arrays) // 2} pathways, W and B of each")
    if arrays:
        tfwm.strip_feedback(model)
    if normalization is not None and normalization.changes and not normalizes(model):
        inputs = keras.Input(model.input_shape[1:], name="input")
        outputs = model(normalization.layer()(inputs))
        model = keras.Model(inputs, outputs, name=f"{model.name}_of_raw_inputs")
    _write("out", path, model.save)
    front = "normalises its inputs itself" if normalizes(model) else "takes inputs as it was given"
    print(f"{path}: {model.name}, {model.count_params()} weights, plain Keras; {front}")
    return path


def _arrays(model: Any) -> dict[str, Any]:
    """Name to W and to what carries the error, of every pathway."""
    arrays: dict[str, Any] = {}
    for pathway in tfwm.pathways(model):
        arrays[f"{pathway.name}/W"] = np.asarray(pathway.kernel)
        arrays[f"{pathway.name}/B"] = np.asarray(pathway.backward_kernel())
    return arrays


def _free(key: str, name: str, ending: str, meaning: str) -> Path:
    path = Path(name)
    if path.suffix != ending:
        raise UserError(f"{key}={path} does not end in {ending}, {meaning}. Expected that.")
    if path.exists():
        raise UserError(f"{key}={path} exists. Nothing is overwritten: remove it, or give another.")
    return path


def _write(key: str, path: Path, save: Callable[[Path], Any]) -> None:
    """Saves aside and renames, so that nobody ever sees half a file."""
    aside = path.with_name(f".writing-{path.name}")
    with disk_errors(f"{key}={path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save(aside)
            rename_on_disk(aside, path)
        finally:
            aside.unlink(missing_ok=True)
