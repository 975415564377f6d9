"""Trained models: where their file is, and how their inputs are normalised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.data import datasets
from train.data.normalization import LAYER, Normalization
from train.errors import UserError
from train.parsing.config_file import built, read_config_file
from train.parts.initial_weights import load_model
from train.parts.named import import_all
from train.run.directory import RunDirectory


def model_file(model_or_run: str) -> Path:
    """The .keras file that is meant.

    Raises:
        UserError: If there is none.
    """
    path = Path(model_or_run)
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist. Expected a run directory or a .keras file.")
        return path
    directory = RunDirectory(path)
    if not directory.config_file.is_file():
        raise UserError(f"{path} holds no run: it has no {directory.config_file.name}.")
    if not directory.model_file.exists():
        raise UserError(
            f"{path} holds a run that has not finished: it has no {directory.model_file.name}. "
            f"Start its command again: it goes on from the last checkpoint."
        )
    return directory.model_file


def load_trained(model_or_run: str) -> tuple[Path, Any]:
    """The file and the model in it; what its run names by import paths is imported before.

    Raises:
        UserError: If there is none, or it cannot be loaded.
    """
    file = model_file(model_or_run)
    config = _config_beside(file)
    if config is not None:
        import_all(config)
    return file, load_model(file, "model")


def normalizes(model: Any) -> bool:
    """Whether the model was exported, and normalises its inputs itself."""
    return any(layer.name == LAYER for layer in model.layers)


def numbers_beside(file: Path) -> Normalization | None:
    """How a run normalised its inputs, as its `setup.json` beside the model says."""
    try:
        setup = json.loads(RunDirectory(file.parent).setup_file.read_text())
        return Normalization.of(setup["input_offset"], setup["input_scale"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def normalization_of(file: Path) -> Normalization | None:
    """How inputs of a run's model were normalised; None if the file is of no run.

    Runs of before the numbers were written have to measure them again.

    Raises:
        UserError: If that needs data which are not there.
    """
    numbers = numbers_beside(file)
    config = _config_beside(file) if numbers is None else None
    return numbers if config is None else datasets.load(config.data).normalization


def _config_beside(file: Path) -> FitConfig | None:
    """Of the run whose model this is."""
    path = RunDirectory(file.parent).config_file
    return built(FitConfig, read_config_file(path, FitConfig)) if path.is_file() else None
