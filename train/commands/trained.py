"""Trained models: where their file is, and how their inputs are normalised."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from train.config import FitConfig
from train.config.part import InitFrom
from train.data import datasets
from train.data.normalization import LAYER, Normalization
from train.devices.strategy import Placement
from train.errors import UserError
from train.parsing.config_file import config_of
from train.parsing.phases import phase_configs
from train.parts.feedback import refusals_as_user_errors
from train.parts.initial_weights import load_model
from train.parts.named import import_all
from train.run.build import RunBatches, build_model
from train.run.checkpoint import Checkpoints, restore_model
from train.run.directory import RunDirectory


def model_file(model_or_run: str) -> Path:
    """The .keras file that is meant; the folder of a run that has not finished.

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
    return directory.model_file if directory.model_file.exists() else path


def load_trained(model_or_run: str) -> tuple[Path, Any]:
    """The file and the model in it; what its run names by import paths is imported before.

    Of a run that has not finished: its folder, and the model of its last whole checkpoint, said so.

    Raises:
        UserError: If there is none, or it cannot be loaded.
    """
    file = model_file(model_or_run)
    config = _config_beside(file)
    if config is not None:
        import_all(config)
        if file.is_dir():
            return file, _of_checkpoint(RunDirectory(file), config)
    return file, load_model(file, "model")


def _of_checkpoint(directory: RunDirectory, config: FitConfig) -> Any:
    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)  # the standard output is for results, maybe JSON

    found = next(Checkpoints(directory.checkpoints, keep=1).whole(say), None)
    if found is None:
        raise UserError(
            f"{directory.path} holds a run that has not finished, and no whole checkpoint. Start "
            f"its command again."
        )
    here = Placement("here", tf.distribute.get_strategy())
    data, phases = datasets.load(config.data), phase_configs(config)
    epochs = sum(RunBatches(data, phase).epochs for phase in phases)
    # Its rules say which feedback weights there are; what begins a phase is in the checkpoint.
    phase = phases[found.position.phase]
    phase = dataclasses.replace(phase, init_from=InitFrom(), draw_anew=())
    with refusals_as_user_errors():
        model, _ = build_model(phase, here, RunBatches(data, phase))
    restore_model(found, model)
    done, steps = found.position.epoch, found.position.step_in_epoch
    say(
        f"{directory.path} has not finished: this is {found.folder.name}, after {done} of "
        f"{epochs} epochs{f' and {steps} steps' if steps else ''}"
    )
    return model


def normalizes(model: Any) -> bool:
    """Whether the model was exported, and normalises its inputs itself."""
    return any(layer.name == LAYER for layer in model.layers)


def numbers_beside(file: Path) -> Normalization | None:
    """How a run normalised its inputs, as its `setup.json` beside the model says."""
    try:
        setup = json.loads(_run_of(file).setup_file.read_text())
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
    path = _run_of(file).config_file
    return config_of(path) if path.is_file() else None


def _run_of(file: Path) -> RunDirectory:
    return RunDirectory(file if file.is_dir() else file.parent)
