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
from train.data.splits import faults_named
from train.detection.watch import Detections
from train.devices.cluster import anybody, lost_workers_end_the_run
from train.devices.strategy import Placement, place, strategy_name
from train.errors import UserError
from train.parsing.phases import phase_configs
from train.parts import feedback, models
from train.parts.callbacks import build_callbacks, forgetful
from train.parts.faults import faults_as_user_errors
from train.parts.named import import_folders
from train.parts.optimizers import scaled_learning_rate
from train.run.directory import RunDirectory
from train.run.files import BestModel, RunFiles, write_model
from train.run.loop import Guest, Loop
from train.run.phases import Phases, try_out
from train.run.resume import Training
from train.run.telemetry import StepLines, Telemetry
from train.run.tensorboard import Dashboards
from train.run.terminal import EpochLines


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run leaves behind."""

    model: Any
    directory: RunDirectory
    history: dict[str, list[float]]  # name of a measure to its values, one an epoch
    images_trained: int  # over all epochs
    callbacks: list[Any]  # the library's, of the last phase
    is_chief: bool = True  # whether this process wrote the files


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
    for phase in phase_configs(config):  # a mistake there is told before data are read
        feedback.build_rules(phase.feedback)
    if strategy_name(config) == "multi_worker":
        # What each worker can see by itself is told before they wait for each other.
        if config.run_directory is None:
            raise UserError(
                "run_directory is null and several workers train. Expected a folder on a file "
                "system that all of them share, since all read the checkpoints there."
            )
        RunDirectory.of(config, writes=False)
    placement = place(config)
    directory = RunDirectory.of(config, writes=placement.is_chief)
    try:
        if placement.is_chief:
            directory.lengthen(config)
        with (
            lost_workers_end_the_run(placement.workers, where=directory.checkpoints),
            faults_as_user_errors(config),
        ):
            data = datasets.load(config.data)
            with faults_named(data.train, data.test):
                return _fit(config, placement, directory, data, extra_callbacks)
    finally:
        directory.release()


def _fit(
    config: FitConfig,
    placement: Placement,
    directory: RunDirectory,
    data: DataSet,
    extra_callbacks: Sequence[Any],
) -> FinishedRun:
    is_chief, batch_size = placement.is_chief, config.training.batch_size
    if len(config.phases) > 1:
        try_out(config, placement, data)
    phases = Phases(config, placement, data)
    setup = _setup(config, placement, phases) | data.facts()
    own = build_callbacks(config.callbacks)
    verbose = config.training.progress != "none" and is_chief
    if verbose:
        rule, scaling = short_rule(config.feedback.rule), config.optimizer.learning_rate_scaling
        replicas = f"{placement.replicas} replica{'s' * (placement.replicas > 1)}"
        scaled = "" if scaling == "none" else f" ({scaling} in the batch size)"
        print(f"{rule}: {phases.model.name} on {data.name}, into {directory.path}")
        print(
            f"{placement.name}, {replicas}, global batch {batch_size}, learning rate "
            f"{setup['learning_rate']:g}{scaled}"
        )
        if data.remark:
            print(data.remark)
        if names := forgetful(own):
            print(f"{', '.join(names)}: no state() for checkpoints, so after a kill begins anew")
    dashboards = Dashboards(directory.events, config, phases.epochs)
    writers = [BestModel(directory)] * config.checkpoint.best if is_chief else []
    writers += [RunFiles(directory, config, setup), dashboards] if is_chief else []
    writers += [EpochLines(phases.epochs, bar=config.training.progress == "bar")] * verbose

    def company(loop: Loop, of_library: list[Any]) -> tuple[list[Any], list[Guest]]:
        """All callbacks of a phase, and who looks in; whoever writes stands behind all measures."""
        telemetry = Telemetry(loop, of_library, several_phases=len(phases.configs) > 1)
        folder = directory.path if is_chief else None
        lines = StepLines(loop, of_library, folder, dashboards.on_step_line)
        looks = []
        if is_chief and data.target.kind == "boxes":
            show = dashboards.on_picture
            looks = [Detections(loop.batches, directory.path, show, silent=not verbose)]
        measures = [*of_library, *own, telemetry, *looks, lines]
        return [*measures, *writers, *extra_callbacks], [lines]

    training = Training(config, placement, directory, phases, company)
    training.train()
    if is_chief:
        write_model(phases.model, directory.model_file)
    anybody(placement.strategy)(False)  # nobody leaves before the chief has written
    lines = directory.metrics()  # of all epochs, those before a kill included
    names = [name for name in lines[-1] if name not in ("epoch", "seconds")] if lines else []
    return FinishedRun(
        model=phases.model,
        directory=directory,
        history={name: [line[name] for line in lines if name in line] for name in names},
        images_trained=training.loop.position.step * batch_size,
        callbacks=training.feedback,
        is_chief=is_chief,
    )


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
    }
