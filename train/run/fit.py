"""One training run as one story: place, data, model, feedback, optimizer, loop, files."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.config.part import short_rule
from train.data import datasets
from train.data.datasets import DataSet
from train.data.image_folder import broken_images_are_named
from train.devices.cluster import anybody, lost_workers_end_the_run
from train.devices.strategy import Placement, place, strategy_name
from train.errors import UserError
from train.parts import feedback, models
from train.parts.callbacks import build_callbacks, forgetful
from train.parts.named import import_folders
from train.parts.optimizers import scaled_learning_rate
from train.run.best import BestModel
from train.run.directory import RunDirectory, RunFiles, write_model
from train.run.longer import lengthen
from train.run.origin import hardware
from train.run.phases import Company, Phases
from train.run.resume import Training
from train.run.tensorboard import Dashboards
from train.run.terminal import EpochLines


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run leaves behind.

    Args:
        model: Trained.
        directory: Its files.
        history: Name of a measure to its values, one an epoch. `val_...` is of the test images.
        images_trained: Training images shown, over all epochs.
        callbacks: The library's callbacks of its last phase.
        is_chief: Whether this process wrote the files.
    """

    model: Any
    directory: RunDirectory
    history: dict[str, list[float]]
    images_trained: int
    callbacks: list[Any]
    is_chief: bool = True


def fit(config: FitConfig, extra_callbacks: Sequence[Any] = ()) -> FinishedRun:
    """Trains one model, from its last checkpoint if it has one, and writes its run directory.

    Args:
        config: All of the run.
        extra_callbacks: Further Keras callbacks; they see all measures in the logs.

    Raises:
        UserError: If the configuration names what does not exist, asks for what the library
            refuses, or the run directory cannot be used (nothing is written then); if the loss is
            no longer finite, or a checkpoint cannot be written (earlier ones are kept).
        TerminatedError: After SIGTERM, when the checkpoint is written.
    """
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    # So that the run's files say every value, and defaults may change.
    import_folders(config)
    config = dataclasses.replace(config, model=models.filled(config.model))
    if strategy_name(config) == "multi_worker":
        _check_shared_directory(config)
    placement = place(config)
    directory = RunDirectory.of(config, writes=placement.is_chief)
    try:
        if placement.is_chief:
            lengthen(directory, config)
        with lost_workers_end_the_run(placement.workers, where=directory.checkpoints):
            return _fit(config, placement, directory, extra_callbacks)
    finally:
        directory.release()


def _fit(
    config: FitConfig,
    placement: Placement,
    directory: RunDirectory,
    extra_callbacks: Sequence[Any],
) -> FinishedRun:
    training = config.training
    data = datasets.load(config.data)
    with feedback.refusals_as_user_errors(), broken_images_are_named(config.data):
        phases = Phases(config, placement, data)
        setup = _setup(config, placement, phases) | data.facts()
        own = build_callbacks(config.callbacks)
        verbose = training.progress != "none" and placement.is_chief
        if verbose:
            print(_headline(config, phases.model, data, directory, setup))
            if data.remark:
                print(data.remark)
            if names := forgetful(own):
                print(
                    f"{', '.join(names)}: no state() for checkpoints, so after a kill begins anew"
                )
        dashboards = Dashboards(directory.events, config, phases.epochs)
        files = [BestModel(directory)] * config.checkpoint.best
        files += [RunFiles(directory, config, setup), dashboards]
        lines = [EpochLines(phases.epochs, bar=training.progress == "bar")]
        phases.company = Company(
            own=own,
            writers=[*files * placement.is_chief, *lines * verbose, *extra_callbacks],
            folder=directory.path if placement.is_chief else None,
            on_step_line=dashboards.on_step_line,
        )
        Training(config, placement, directory, phases).train(verbose)
        if placement.is_chief:
            write_model(phases.model, directory.model_file)
        anybody(placement.strategy)(False)  # nobody leaves before the chief has written
    return FinishedRun(
        model=phases.model,
        directory=directory,
        history=_history(directory),
        images_trained=phases.current.loop.steps_done * training.batch_size,
        callbacks=phases.current.feedback,
        is_chief=placement.is_chief,
    )


def _check_shared_directory(config: FitConfig) -> None:
    """What each worker can see by itself is told before they wait for each other."""
    if config.run_directory is None:
        raise UserError(
            "run_directory is null and several workers train. Expected a folder on a file system "
            "that all of them share, since all read the checkpoints there."
        )
    RunDirectory.of(config, writes=False)


def _setup(config: FitConfig, placement: Placement, phases: Phases) -> dict[str, Any]:
    """What a run's numbers depend on beside its configuration."""
    return {
        "strategy": placement.name,
        "replicas": placement.replicas,
        "workers": max(len(placement.workers), 1),
        "epochs": phases.epochs,
        "steps": phases.steps,
        "global_batch_size": config.training.batch_size,
        "learning_rate": scaled_learning_rate(config.optimizer, config.training.batch_size),
        "learning_rate_scaling": config.optimizer.learning_rate_scaling,
        "precision": config.training.precision,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfweightmirror": tfwm.__version__,
        "python": platform.python_version(),
        **hardware(),
    }


def _headline(
    config: FitConfig, model: Any, data: DataSet, directory: RunDirectory, setup: dict[str, Any]
) -> str:
    replicas = setup["replicas"]
    scaling = config.optimizer.learning_rate_scaling
    rule = "" if scaling == "none" else f" ({scaling} in the batch size)"
    feedback_rule = short_rule(config.feedback.rule)
    return (
        f"{feedback_rule}: {model.name} on {data.name}, into {directory.path}\n"
        f"{setup['strategy']}, {replicas} replica{'s' * (replicas > 1)}, global batch "
        f"{setup['global_batch_size']}, learning rate {setup['learning_rate']:g}{rule}"
    )


def _history(directory: RunDirectory) -> dict[str, list[float]]:
    """Of all epochs, those before a kill included."""
    lines = directory.metrics()
    names = [name for name in lines[-1] if name not in ("epoch", "seconds")] if lines else []
    return {name: [line[name] for line in lines if name in line] for name in names}
