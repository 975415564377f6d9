"""The phases of a run: one model, and a loop and callbacks of each phase one after another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras

from train.config import FeedbackConfig, FitConfig
from train.data.datasets import DataSet
from train.data.source import Target
from train.data.splits import Share
from train.devices.strategy import Placement
from train.errors import UserError
from train.parsing.phases import phase_configs
from train.parts import feedback, models
from train.parts.constraints import add_constraints, check_optimizer, renew_constraints
from train.parts.faults import faults_as_user_errors
from train.parts.initial_weights import take_drawn, take_weights
from train.parts.losses import build_loss, build_metrics, build_parts, check_logits
from train.parts.models.tokens import check_tokens
from train.parts.optimizers import build_optimizer
from train.run.loop import Loop, Position
from train.run.steps import RunBatches


class Phases:
    """Makes the phases of a run, and of its model what each of them wants.

    Raises:
        UserError: If something is not known or refused.
    """

    def __init__(self, config: FitConfig, placement: Placement, data: DataSet) -> None:
        if config.training.precision == "mixed_float16" and placement.replicas > 1:
            raise UserError(
                f"training.precision is mixed_float16 on {placement.replicas} replicas, where "
                f"Keras' LossScaleOptimizer looks at the gradients of the first one alone: those "
                f"that are not finite on another would be trained with. Expected mixed_bfloat16, "
                f"or one replica."
            )
        self.placement = placement
        self.data = data
        self.configs = phase_configs(config)
        self.batches = [RunBatches(data, phase) for phase in self.configs]
        self.epochs = sum(batches.epochs for batches in self.batches)  # of the run, as planned
        self.steps = sum(batches.steps for batches in self.batches)
        keras.utils.set_random_seed(config.seed)
        keras.config.set_dtype_policy(config.training.precision)
        with placement.strategy.scope():
            self.model = models.build(config.model, data.input_shape, data.output_shape)
            check_tokens(self.model, data)
            add_constraints(self.model, config.constraints)
        self._feedback: FeedbackConfig | None = None
        self._frozen: list[Any] = []
        self._untied = 0  # phases whose convolutions to untie have been

    def entered(self, position: Position, *, begins: bool) -> tuple[Loop, list[Any]]:
        """Loop and library's callbacks of a phase; unless it begins, all state will be restored."""
        feedback_callbacks = self.make_ready(position.phase, begins=begins)
        batches = RunBatches(self.data, self.configs[position.phase], position.phase_epoch)
        return Loop(self.model, self.placement.strategy, batches), feedback_callbacks

    def make_ready(self, number: int, *, begins: bool) -> list[Any]:
        """Gives the model rules, optimizer and loss of a phase; returns the library's callbacks."""
        model, config, batches = self.model, self.configs[number], self.batches[number]
        with self.placement.strategy.scope():
            optimizer = build_optimizer(
                config.optimizer,
                batch_size=config.training.batch_size,
                steps_per_epoch=batches.steps_per_epoch,
                steps=batches.steps,
            )
            check_optimizer(model, optimizer)
            for variable in self._frozen:
                variable.trainable = True
            backprop = config.monitor.backprop
            if config.feedback != self._feedback:
                feedback.convert(
                    model, config.feedback, seed=config.seed, measures_backprop=backprop
                )
                self._feedback = config.feedback
            while self._untied <= number:  # a run that goes on enters a phase past others
                feedback.untie(model, self.configs[self._untied].untie)
                self._untied += 1
            if begins and config.init_from.file is not None:
                take_weights(model, Path(config.init_from.file), config.init_from.layers)
            if begins and config.draw_anew:
                seed = _seed_of(config.seed, number + 1)
                keras.utils.set_random_seed(seed)
                shapes = self.data.input_shape, self.data.output_shape
                fresh = models.build(config.model, *shapes)
                add_constraints(fresh, config.constraints)
                feedback.convert(fresh, config.feedback, seed=seed, measures_backprop=backprop)
                for phase in self.configs[: number + 1]:
                    feedback.untie(fresh, phase.untie)
                feedback.draw_positions_apart(fresh)
                take_drawn(model, fresh, config.draw_anew)
            if begins:
                renew_constraints(model)
            self._frozen = feedback.freeze(
                model,
                config.freeze,
                only_last_layer_learns=config.feedback.only_last_layer_learns,
            )
            callbacks = feedback.build_callbacks(
                model,
                config.mirror,
                seed=_seed_of(config.seed, number),
                monitor=config.monitor,
                probe=lambda: next(iter(batches.training(0, Share()))),
            )
            target, axes = self.data.target, len(self.data.output_shape)
            loss = build_loss(config.loss, target.kind, axes=axes)
            measures = build_measures(config, target)
            check_logits(model, [loss, *measures])
            model.compile(
                optimizer,
                loss,
                weighted_metrics=[*build_parts(loss), *measures],
                jit_compile=False,  # the loop compiles
            )
        return callbacks


def try_out(config: FitConfig, placement: Placement, data: DataSet) -> None:
    """Makes model and callbacks of every phase once and lets them begin; trains nothing.

    Raises:
        UserError: If a name, an option or a value is refused.
    """
    trial = Phases(config, placement, data)
    for number, phase in enumerate(trial.configs):
        warm_up = min(phase.mirror.warm_up_steps, 1)  # may take long, and checks nothing more
        mirror = dataclasses.replace(phase.mirror, warm_up_steps=warm_up)
        trial.configs[number] = dataclasses.replace(phase, mirror=mirror)
        try:
            with faults_as_user_errors(config):
                callbacks = trial.make_ready(number, begins=True)
                told = keras.callbacks.CallbackList(callbacks, model=trial.model)
                told.on_train_begin()
                told.on_train_end()
        except UserError as error:
            where = f"phases[{number}]: " if config.phases else ""
            raise UserError(f"{where}{error}") from error


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
    measures += build_metrics(config.metrics, target.kind)
    # A text is a metric's name; of a function Keras takes its own.
    names = [getattr(m, "name", getattr(m, "__name__", m)) for m in measures]
    if len({"loss", *names}) <= len(names):  # one would be shown for the other
        raise UserError(
            f"metrics has the names {', '.join(map(str, names))}. Expected different ones, by the "
            f"option name, and none that is loss."
        )
    return measures
