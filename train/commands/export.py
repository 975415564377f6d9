"""Writes a trained model as a plain Keras model."""

from __future__ import annotations

from pathlib import Path

import tfweightmirror as tfwm
from train.commands.evaluate import model_file
from train.disk import disk_errors, rename_on_disk
from train.errors import UserError
from train.parts.initial_weights import load_model


def export(model_or_run: str, out: str) -> Path:
    """Writes the model without feedback weights, optimizer and loss; Keras alone loads the file.

    Args:
        model_or_run: A run directory, or a .keras file.
        out: The .keras file to write. Folders above it are made.

    Raises:
        UserError: If there is no model, or `out` exists, has another ending or cannot be written.
    """
    path = Path(out)
    if path.suffix != ".keras":
        raise UserError(f"out={path} does not end in .keras, Keras' own format. Expected that.")
    if path.exists():
        raise UserError(f"out={path} exists. Nothing is overwritten: remove it, or give another.")
    model = load_model(model_file(model_or_run), "model")
    if tfwm.pathways(model):
        tfwm.strip_feedback(model)
    aside = path.with_name(f".writing-{path.name}")
    with disk_errors(f"out={path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            model.save(aside)
            rename_on_disk(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    print(f"{path}: {model.name}, {model.count_params()} weights, plain Keras")
    return path
