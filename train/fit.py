"""One training run as one story: place, data, model, feedback, optimizer, loop, files."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from train import feedback, models
from train.checkpoint import Checkpoints, Found, restore, state_of
from train.cluster import anybody, lost_workers_end_the_run
from train.config import FitConfig
from train.data import batches, datasets
from train.data.batches import Share
from train.data.datasets import ImageSet
from train.errors import DivergedError, UserError
from train.initial_weights import take_weights
from train.loop import Loop, NotFiniteError, Position
from train.losses import build_loss
from train.optimizers import build_optimizer, scaled_learning_rate
from train.run_directory import RunDirectory, RunFiles, write_model
from train.schedules import learning_rate_now, rate_variables, reduce_learning_rate
from train.strategy import Placement, place
from train.survival import Saver, explain_not_finite
from train.telemetry import Telemetry

PROGRESS = {"bar": 1, "epoch": 2, "none": 0}

MOST_LEARNING_RATE_CUTS = 3


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run leaves behind.

    Args:
        model: Trained.
        directory: Its files.
        history: Name of a measure to its values, one an epoch. `val_...` is of the test images.
        images_trained: Training images shown, over all epochs.
        callbacks: The library's callbacks of this run.
    """

    model: Any
    directory: RunDirectory
    history: dict[str, list[float]]
    images_trained: int
    callbacks: list[Any]


@dataclasses.dataclass(frozen=True)
class RunBatches:
    """The batches of one run, as the loop asks for them."""

    images: ImageSet
    config: FitConfig

    @property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(self.images, self.config.training.batch_size)

    @property
    def evaluation_steps(self) -> int:
        return batches.evaluation_steps(self.images, self.config.training.test_batch_size)

    @property
    def evaluation_padding(self) -> float:
        rows = self.evaluation_steps * self.config.training.test_batch_size
        return rows / self.images.test_count

    def training(self, first_step: int, share: Share) -> Any:
        return batches.training_batches(
            self.images,
            self.config.data,
            batch_size=self.config.training.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            last_step=self.config.training.epochs * self.steps_per_epoch,
            share=share,
        )

    def evaluation(self, share: Share) -> Any:
        return batches.evaluation_batches(self.images, self.config.training.test_batch_size, share)


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
    placement = place(config)
    _check_named_directory(config, placement)
    directory = RunDirectory.of(config, writes=placement.is_chief)
    try:
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
    run_batches = RunBatches(datasets.load(config.data), config)
    with feedback.refusals_as_user_errors():
        model, callbacks = build_model(config, placement, run_batches)
        loop = Loop(
            model,
            placement.strategy,
            run_batches,
            seed=config.seed,
            steps_per_call=training.steps_per_call,
            jit_compile=training.jit_compile,
            times_input=not training.deterministic,
        )
        loop.prepare()
        setup = _setup(config, placement)
        verbose = PROGRESS[training.progress] if placement.is_chief else 0
        if verbose:
            print(_headline(config, model, run_batches.images, directory, setup))
        telemetry = Telemetry(loop, batch_size=training.batch_size, callbacks=callbacks)
        told = [*callbacks, telemetry]
        if placement.is_chief:
            told += [
                RunFiles(directory, config, setup),
                keras.callbacks.TensorBoard(str(directory.events), write_graph=False),
            ]
        run = _Run(config, placement, directory, loop, telemetry, [*told, *extra_callbacks])
        advice = (
            "Start the same command again on all workers: it goes on from the last checkpoint in "
            f"{directory.checkpoints}."
        )
        with lost_workers_end_the_run(placement.workers, advice=advice):
            run.train(verbose)
            if placement.is_chief:
                write_model(model, directory.model_file)
            anybody(placement.strategy)(False)  # nobody leaves before the chief has written
    return FinishedRun(
        model=model,
        directory=directory,
        history=_history(directory),
        images_trained=training.epochs * run_batches.steps_per_epoch * training.batch_size,
        callbacks=callbacks,
    )


def build_model(
    config: FitConfig, placement: Placement, run_batches: RunBatches
) -> tuple[Any, list[Any]]:
    """The compiled model on its devices, and the library's callbacks for it."""
    training, images = config.training, run_batches.images
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(training.precision)
    models.check_name(config.model)
    with placement.strategy.scope():
        optimizer = build_optimizer(
            config.optimizer,
            batch_size=training.batch_size,
            steps_per_epoch=run_batches.steps_per_epoch,
            epochs=training.epochs,
        )
        model = models.build(config.model, images.image_shape, num_classes=images.num_classes)
        feedback.convert(model, config.feedback, seed=config.seed)
        if config.init_from is not None:
            take_weights(model, Path(config.init_from))
        callbacks = feedback.build_callbacks(model, config.mirror, seed=config.seed)
        model.compile(
            optimizer,
            build_loss(training.loss),
            weighted_metrics=measures(images.num_classes),
            jit_compile=False,  # the loop compiles
        )
    return model, callbacks


class _Run:
    """A training that goes on after a kill, and after numbers that are none."""

    def __init__(
        self,
        config: FitConfig,
        placement: Placement,
        directory: RunDirectory,
        loop: Loop,
        telemetry: Telemetry,
        callbacks: list[Any],
    ) -> None:
        self.config = config
        self.placement = placement
        self.directory = directory
        self.loop = loop
        self.telemetry = telemetry
        self.callbacks = callbacks
        self.checkpoints = Checkpoints(
            directory.checkpoints, keep=config.checkpoint.keep, writes=placement.is_chief
        )

    def train(self, verbose: int) -> None:
        """Trains to the last epoch.

        Raises:
            DivergedError: If the loss is not finite and the learning rate is not to be lowered.
            TerminatedError: After SIGTERM.
        """
        cuts = 0
        found = self.checkpoints.newest(print if self.placement.is_chief else lambda _: None)
        while True:
            cuts = max(cuts, found.learning_rate_cuts if found else 0)
            if found is not None and verbose:
                print(f"goes on from {found.folder}")
            try:
                self._train_from(found, cuts, verbose)
                return
            except NotFiniteError as error:
                sentence = self._explain(error)
                found = self.checkpoints.newest()
                cuts += 1
                if self.config.on_nan == "stop":
                    advice = "Lower optimizer.learning_rate, or set on_nan=rollback"
                elif cuts > MOST_LEARNING_RATE_CUTS:
                    advice = f"The learning rate was halved {cuts - 1} times: lower it"
                else:
                    print(f"{sentence} The learning rate is halved.", flush=True)
                    continue
                kept = f"The last checkpoint is {found.folder}. " if found else ""
                raise DivergedError(f"{sentence} {kept}{advice}.") from error

    def _train_from(self, found: Found | None, cuts: int, verbose: int) -> None:
        """One attempt. Without a checkpoint a second attempt has nothing to go back to."""
        saver = Saver(
            self.checkpoints,
            self.state,
            steps_per_epoch=self.loop.batches.steps_per_epoch,
            every_steps=self.config.checkpoint.every_steps,
            strategy=self.placement.strategy,
            cuts=cuts,
        )

        def put_back() -> None:
            if found is not None:
                restore(found, self.state())
                reduce_learning_rate(
                    self.loop.model.optimizer, 0.5 ** (cuts - found.learning_rate_cuts)
                )
                if self.placement.is_chief:
                    self.directory.forget_epochs_after(found.position.epoch)
            elif cuts == 0:
                # What a rollback without any other checkpoint goes back to.
                saver.save(Position())
            self.telemetry.restart()

        with saver.listening():
            self.loop.run(
                self.callbacks,
                epochs=self.config.training.epochs,
                verbose=verbose,
                guests=[saver],
                restore=put_back,
                start=found.position if found else Position(),
            )

    def state(self) -> dict[str, tf.Variable]:
        """Everything that the next step depends on."""
        model = self.loop.model
        rates = rate_variables(model.optimizer)
        return state_of(
            model,
            self.placement.strategy,
            self.callbacks,
            {f"rate_{number}": variable for number, variable in enumerate(rates)},
        )

    def _explain(self, error: NotFiniteError) -> str:
        model = self.loop.model
        rate = learning_rate_now(model.optimizer)
        # Callbacks have ended, and their state is gone.
        weights = state_of(model, self.placement.strategy, (), {})
        return explain_not_finite(error, model, weights, learning_rate=rate)


def measures(num_classes: int) -> list[Any]:
    """Accuracy, and for many classes the share of images whose class is among the best five."""
    top_5 = keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy")
    return ["accuracy", top_5] if num_classes > 20 else ["accuracy"]


def _check_named_directory(config: FitConfig, placement: Placement) -> None:
    if placement.workers and config.run_directory is None:
        raise UserError(
            "run_directory is null and several workers train. Expected a folder on a file system "
            "that all of them share, since all read the checkpoints there."
        )


def _setup(config: FitConfig, placement: Placement) -> dict[str, Any]:
    """What a run's numbers depend on beside its configuration."""
    return {
        "strategy": placement.name,
        "replicas": placement.replicas,
        "workers": max(len(placement.workers), 1),
        "global_batch_size": config.training.batch_size,
        "learning_rate": scaled_learning_rate(config.optimizer, config.training.batch_size),
        "learning_rate_scaling": config.optimizer.learning_rate_scaling,
        "precision": config.training.precision,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfweightmirror": tfwm.__version__,
        "python": platform.python_version(),
    }


def _headline(
    config: FitConfig, model: Any, images: ImageSet, directory: RunDirectory, setup: dict[str, Any]
) -> str:
    replicas = setup["replicas"]
    scaling = config.optimizer.learning_rate_scaling
    rule = "" if scaling == "none" else f" ({scaling} in the batch size)"
    return (
        f"{config.feedback.rule}: {model.name} on {images.name}, into {directory.path}\n"
        f"{setup['strategy']}, {replicas} replica{'s' * (replicas > 1)}, global batch "
        f"{setup['global_batch_size']}, learning rate {setup['learning_rate']:g}{rule}"
    )


def _history(directory: RunDirectory) -> dict[str, list[float]]:
    """Of all epochs, those before a kill included."""
    lines = directory.metrics()
    names = [name for name in lines[-1] if name not in ("epoch", "seconds")] if lines else []
    return {name: [line[name] for line in lines if name in line] for name in names}
