"""The phases of a run: one loop after another over the same model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.data.datasets import DataSet
from train.devices.strategy import Placement
from train.errors import UserError
from train.parsing.phases import phase_configs
from train.parts.feedback import refusals_as_user_errors
from train.run.build import RunBatches, RunModel
from train.run.loop import Guest, Loop, Position
from train.run.telemetry import StepLines, Telemetry


@dataclasses.dataclass(frozen=True)
class Phase:
    """What trains in a phase.

    Args:
        number: From 0.
        batches: Its data and its length.
        loop: Prepared.
        feedback: The library's callbacks.
        callbacks: All of them.
        guests: Who looks in between calls.
    """

    number: int
    batches: RunBatches
    loop: Loop
    feedback: list[Any]
    callbacks: list[Any]
    guests: Sequence[Guest]


@dataclasses.dataclass(frozen=True)
class Company:
    """Who goes along through all phases.

    Args:
        own: Callbacks of the user's own, before what the launcher measures.
        writers: Callbacks behind all that adds to the logs.
        folder: The run directory; None for workers that leave the writing to the chief.
        on_step_line: Is told `(step, values)` of every line of `steps.jsonl`.
    """

    own: Sequence[Any] = ()
    writers: Sequence[Any] = ()
    folder: Path | None = None
    on_step_line: Callable[[int, dict[str, float]], None] = lambda step, values: None


class Phases:
    """Makes the phases of a run, those to come tried out before.

    Args:
        config: Of the run.
        placement: Where it trains.
        data: What it is trained on.

    Raises:
        UserError: If something is not known or refused.
    """

    def __init__(self, config: FitConfig, placement: Placement, data: DataSet) -> None:
        self.configs = phase_configs(config)
        self.placement = placement
        self.company = Company()
        self._batches = [RunBatches(data, phase) for phase in self.configs]
        if len(self.configs) > 1:
            try_out(config, placement, data)
        self._run_model = RunModel(config, placement, data)
        self._current: Phase | None = None

    @property
    def model(self) -> Any:
        """One in all phases."""
        return self._run_model.model

    @property
    def current(self) -> Phase:
        """The phase that was entered last."""
        assert self._current is not None
        return self._current

    @property
    def epochs(self) -> int:
        """Of the whole run, as planned."""
        return sum(batches.epochs for batches in self._batches)

    @property
    def steps(self) -> int:
        """Of the whole run, as planned."""
        return sum(batches.steps for batches in self._batches)

    def enter(self, position: Position, *, begins: bool) -> None:
        """Makes the phase of a position the current one.

        Args:
            position: Where the training stands.
            begins: Whether the phase begins; else all its state will be restored.

        Raises:
            UserError: If something is not known or refused.
        """
        there = self._current
        if (
            there is None
            or there.number != position.phase
            or there.batches.first_epoch != position.phase_epoch
        ):
            self._current = self._made(position, begins=begins)

    def after(self, position: Position, steps_done: int) -> Position | None:
        """Where the next phase begins; None behind the last."""
        if position.phase + 1 == len(self.configs):
            return None
        epoch = position.epoch
        return Position(epoch, phase=position.phase + 1, phase_epoch=epoch, phase_step=steps_done)

    def _made(self, position: Position, *, begins: bool) -> Phase:
        number, company = position.phase, self.company
        config, training = self.configs[number], self.configs[number].training
        batches = dataclasses.replace(self._batches[number], first_epoch=position.phase_epoch)
        feedback = self._run_model.make_ready(config, batches, phase=number, begins=begins)
        loop = Loop(
            self.model,
            self.placement.strategy,
            batches,
            seed=config.seed,
            train_error=batches.over_training_examples() if training.train_error else None,
            steps_per_call=training.steps_per_call,
            jit_compile=training.jit_compile,
            times_input=not training.deterministic,
        )
        loop.prepare()
        telemetry = Telemetry(
            loop,
            batch_size=training.batch_size,
            callbacks=feedback,
            several_phases=len(self.configs) > 1,
        )
        lines = StepLines(
            loop, batches, config, feedback, company.folder, show=company.on_step_line
        )
        callbacks = [*feedback, *company.own, telemetry, lines, *company.writers]
        return Phase(number, batches, loop, feedback, callbacks, [lines])


def try_out(config: FitConfig, placement: Placement, data: DataSet) -> None:
    """Builds model and callbacks of every phase once and lets them begin; trains nothing.

    Raises:
        UserError: If a name, an option or a value is refused.
    """
    for number, phase in enumerate(phase_configs(config)):
        try:
            with refusals_as_user_errors():
                _begin(phase, number, placement, data)
        except UserError as error:
            where = f"phases[{number}]: " if config.phases else ""
            raise UserError(f"{where}{error}") from error


def _begin(phase: FitConfig, number: int, placement: Placement, data: DataSet) -> None:
    warm_up = min(phase.mirror.warm_up_steps, 1)  # may take long, and checks nothing more
    mirror = dataclasses.replace(phase.mirror, warm_up_steps=warm_up)
    quick = dataclasses.replace(phase, mirror=mirror)
    run_model = RunModel(quick, placement, data)
    callbacks = run_model.make_ready(quick, RunBatches(data, quick), phase=number)
    for callback in callbacks:
        callback.set_model(run_model.model)
    for callback in callbacks:
        callback.on_train_begin()
    for callback in callbacks:
        callback.on_train_end()
