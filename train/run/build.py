"""What a run is made of: its batches and its compiled model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras

from train.config import FeedbackConfig, FitConfig
from train.data import batches
from train.data.batches import Share
from train.data.datasets import DataSet
from train.data.source import Target
from train.devices.strategy import Placement
from train.errors import UserError
from train.parsing.phases import phase_configs
from train.parts import feedback, models
from train.parts.initial_weights import take_drawn, take_weights
from train.parts.losses import build_loss, build_metrics
from train.parts.optimizers import build_optimizer


@dataclasses.dataclass(frozen=True)
class RunBatches:
    """The batches of a run, or of a phase of it, as the loop asks for them.

    Args:
        data: What is trained on.
        config: Of the phase.
        first_epoch: Epochs before the phase.
    """

    data: DataSet
    config: FitConfig
    first_epoch: int = 0

    @property
    def steps(self) -> int:
        """Training steps."""
        training = self.config.training
        return training.steps or (training.epochs or 0) * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Finished epochs at the end, those before included; the last may have fewer steps."""
        return self.first_epoch - (-self.steps // self.steps_per_epoch)

    @property
    def last_epoch_steps(self) -> int:
        """Training steps of the last epoch."""
        return (self.steps - 1) % self.steps_per_epoch + 1

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
            last_step=self.first_epoch * self.steps_per_epoch + self.steps,
            share=share,
        )

    def over_training_examples(self) -> RunBatches:
        """The same, tested on the training examples: without augmentation, in their order."""
        return dataclasses.replace(self, data=dataclasses.replace(self.data, test=self.data.train))

    def evaluation(self, share: Share) -> Any:
        return batches.evaluation_batches(self.data, self.config.training.test_batch_size, share)


class RunModel:
    """The model of a run, and what each of its phases makes of it.

    Args:
        config: Of the run.
        placement: Where it trains.
        data: What it is trained on.

    Raises:
        UserError: If the model is not known or refused.
    """

    def __init__(self, config: FitConfig, placement: Placement, data: DataSet) -> None:
        training = config.training
        if training.precision == "mixed_float16" and placement.replicas > 1:
            raise UserError(
                f"training.precision is mixed_float16 on {placement.replicas} replicas, where "
                f"Keras' LossScaleOptimizer looks at the gradients of the first one alone: those "
                f"that are not finite on another would be trained with. Expected mixed_bfloat16, "
                f"or one replica."
            )
        self.placement = placement
        self.data = data
        keras.utils.set_random_seed(config.seed)
        keras.config.set_dtype_policy(training.precision)
        with placement.strategy.scope():
            self.model = models.build(config.model, data.input_shape, data.output_shape)
        self._feedback: FeedbackConfig | None = None
        self._frozen: list[Any] = []

    def make_ready(
        self, config: FitConfig, run_batches: RunBatches, *, phase: int = 0, begins: bool = True
    ) -> list[Any]:
        """Gives the model rules, optimizer and loss of a phase.

        Args:
            config: Of the phase.
            run_batches: Of the phase.
            phase: Its number, from 0.
            begins: Whether the phase begins; else all weights will be restored.

        Returns:
            The library's callbacks for it.

        Raises:
            UserError: If something is not known or refused.
        """
        model, training = self.model, config.training
        with self.placement.strategy.scope():
            optimizer = build_optimizer(
                config.optimizer,
                batch_size=training.batch_size,
                steps_per_epoch=run_batches.steps_per_epoch,
                steps=run_batches.steps,
            )
            for variable in self._frozen:
                variable.trainable = True
            if config.feedback != self._feedback:
                self._convert(model, config, config.seed)
                self._feedback = config.feedback
            if begins and config.init_from.file is not None:
                take_weights(model, Path(config.init_from.file), config.init_from.layers)
            if begins and config.draw_anew:
                self._draw_anew(config, _seed_of(config.seed, phase + 1))
            self._frozen = feedback.freeze(
                model,
                config.freeze,
                only_last_layer_learns=config.feedback.only_last_layer_learns,
            )
            callbacks = feedback.build_callbacks(
                model,
                config.mirror,
                seed=_seed_of(config.seed, phase),
                monitor=config.monitor,
                probe=lambda: next(iter(run_batches.training(0, Share()))),
            )
            model.compile(
                optimizer,
                build_loss(config.loss, self.data.target.kind, axes=len(self.data.output_shape)),
                weighted_metrics=build_measures(config, self.data.target),
                jit_compile=False,  # the loop compiles
            )
        return callbacks

    def _draw_anew(self, config: FitConfig, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        fresh = models.build(config.model, self.data.input_shape, self.data.output_shape)
        self._convert(fresh, config, seed)
        take_drawn(self.model, fresh, config.draw_anew)

    @staticmethod
    def _convert(model: Any, config: FitConfig, seed: int) -> None:
        feedback.convert(
            model, config.feedback, seed=seed, measures_backprop=config.monitor.backprop
        )


def build_model(
    config: FitConfig, placement: Placement, run_batches: RunBatches
) -> tuple[Any, list[Any]]:
    """The compiled model of a run's first phase, and the library's callbacks for it.

    Raises:
        UserError: As `RunModel`.
    """
    first = phase_configs(config)[0]
    built = RunModel(first, placement, run_batches.data)
    return built.model, built.make_ready(first, run_batches)


def _seed_of(seed: int, phase: int) -> int:
    """A phase's own seed; the first has the run's.

    Mirror noise counts its steps for each seed, and a resumed run does not know the counts of
    phases that are over.
    """
    return (seed + phase * 0x9E3779B1) % 2**31 if phase else seed


def build_measures(config: FitConfig, target: Target) -> list[Any]:
    """The metrics asked for, behind those of classes: accuracy and, of many classes, top-5."""
    measures: list[Any] = []
    if target.kind == "classes":
        measures.append("accuracy")
        if target.num_classes > 20:
            measures.append(keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy"))
    return [*measures, *build_metrics(config.metrics, target.kind)]
