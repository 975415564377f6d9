"""One training run on one device, as one story: data, model, feedback, optimizer, `fit`, files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from train import feedback, models
from train.config import FitConfig
from train.data import batches, datasets
from train.losses import build_loss
from train.optimizers import build_optimizer
from train.run_directory import RunDirectory, RunFiles

PROGRESS = {"bar": 1, "epoch": 2, "none": 0}


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


def fit(config: FitConfig, extra_callbacks: Sequence[Any] = ()) -> FinishedRun:
    """Trains one model and writes its run directory.

    Args:
        config: All of the run.
        extra_callbacks: Further Keras callbacks; they see all measures in the logs.

    Raises:
        UserError: If the configuration names what does not exist, asks for what the library
            refuses, or names a run directory that exists. Nothing is written then.
    """
    directory = RunDirectory.of(config)
    models.check_name(config.model)
    optimizer = build_optimizer(config.optimizer)
    images = datasets.load(config.data)
    steps_per_epoch = batches.steps_per_epoch(images, config.training.batch_size)

    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.training.precision)
    model = models.build(config.model, images.image_shape, num_classes=images.num_classes)
    with feedback.refusals_as_user_errors():
        feedback.convert(model, config.feedback, seed=config.seed)
        callbacks = feedback.build_callbacks(model, config.mirror, seed=config.seed)
        model.compile(
            optimizer,
            build_loss(config.training.loss),
            weighted_metrics=["accuracy"],
            jit_compile=config.training.jit_compile,
            steps_per_execution=config.training.steps_per_call,
        )
        if config.training.progress != "none":
            print(f"{config.feedback.rule}: {model.name} on {images.name}, into {directory.path}")
        history = model.fit(
            batches.training_batches(
                images,
                config.data,
                batch_size=config.training.batch_size,
                seed=config.seed,
                first_step=0,
                last_step=config.training.epochs * steps_per_epoch,
            ),
            shuffle=False,  # done above, as a function of the seed
            steps_per_epoch=steps_per_epoch,
            epochs=config.training.epochs,
            validation_data=batches.evaluation_batches(images, config.training.test_batch_size),
            callbacks=[
                *callbacks,
                RunFiles(directory, config),
                keras.callbacks.TensorBoard(str(directory.events), write_graph=False),
                *extra_callbacks,
            ],
            verbose=PROGRESS[config.training.progress],
        ).history
    model.save(directory.model_file)
    return FinishedRun(
        model=model,
        directory=directory,
        history=history,
        images_trained=config.training.epochs * steps_per_epoch * config.training.batch_size,
        callbacks=callbacks,
    )
