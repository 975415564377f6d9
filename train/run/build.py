"""What a run is made of: its batches and its compiled model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras

from train.config import FitConfig
from train.data import batches
from train.data.batches import Share
from train.data.datasets import DataSet
from train.data.source import Target
from train.devices.strategy import Placement
from train.errors import UserError
from train.parts import feedback, models
from train.parts.initial_weights import take_weights
from train.parts.losses import build_loss, build_metrics
from train.parts.optimizers import build_optimizer


@dataclasses.dataclass(frozen=True)
class RunBatches:
    """The batches of one run, as the loop asks for them."""

    data: DataSet
    config: FitConfig

    @property
    def steps(self) -> int:
        """Of the whole training."""
        training = self.config.training
        return training.steps or (training.epochs or 0) * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Of the whole training; the last may be shorter than the others."""
        return -(-self.steps // self.steps_per_epoch)

    @property
    def last_epoch_steps(self) -> int:
        return self.steps - (self.epochs - 1) * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(self.data, self.config.training.batch_size)

    @property
    def evaluation_steps(self) -> int:
        return batches.evaluation_steps(self.data, self.config.training.test_batch_size)

    @property
    def evaluation_padding(self) -> float:
        rows = self.evaluation_steps * self.config.training.test_batch_size
        return rows / self.data.test_count

    def training(self, first_step: int, share: Share) -> Any:
        return batches.training_batches(
            self.data,
            self.config.data,
            batch_size=self.config.training.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            last_step=self.steps,
            share=share,
        )

    def over_training_examples(self) -> RunBatches:
        """The same, tested on the training examples: without augmentation, in their order."""
        return dataclasses.replace(self, data=dataclasses.replace(self.data, test=self.data.train))

    def evaluation(self, share: Share) -> Any:
        return batches.evaluation_batches(self.data, self.config.training.test_batch_size, share)


def build_model(
    config: FitConfig, placement: Placement, run_batches: RunBatches
) -> tuple[Any, list[Any]]:
    """The compiled model on its devices, and the library's callbacks for it."""
    training, data = config.training, run_batches.data
    if training.precision == "mixed_float16" and placement.replicas > 1:
        raise UserError(
            f"training.precision is mixed_float16 on {placement.replicas} replicas, where Keras' "
            f"LossScaleOptimizer looks at the gradients of the first one alone: those that are not "
            f"finite on another would be trained with. Expected mixed_bfloat16, or one replica."
        )
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(training.precision)
    with placement.strategy.scope():
        optimizer = build_optimizer(
            config.optimizer,
            batch_size=training.batch_size,
            steps_per_epoch=run_batches.steps_per_epoch,
            steps=run_batches.steps,
        )
        model = models.build(config.model, data.input_shape, data.output_shape)
        feedback.convert(
            model,
            config.feedback,
            seed=config.seed,
            measures_backprop=config.monitor.backprop,
        )
        if config.init_from is not None:
            take_weights(model, Path(config.init_from))
        callbacks = feedback.build_callbacks(
            model,
            config.mirror,
            seed=config.seed,
            monitor=config.monitor,
            probe=lambda: next(iter(run_batches.training(0, Share()))),
        )
        model.compile(
            optimizer,
            build_loss(config.loss, data.target.kind, axes=len(data.output_shape)),
            weighted_metrics=build_measures(config, data.target),
            jit_compile=False,  # the loop compiles
        )
    return model, callbacks


def build_measures(config: FitConfig, target: Target) -> list[Any]:
    """The metrics asked for, behind those of classes: accuracy and, of many classes, top-5."""
    measures: list[Any] = []
    if target.kind == "classes":
        measures.append("accuracy")
        if target.num_classes > 20:
            measures.append(keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy"))
    return [*measures, *build_metrics(config.metrics, target.kind)]
