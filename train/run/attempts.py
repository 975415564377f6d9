"""A training that goes on after a kill, and after a loss that is not finite."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from train.config import FitConfig
from train.devices.strategy import Placement
from train.errors import DivergedError
from train.parts.schedules import learning_rate_now, rate_variables, reduce_learning_rate
from train.run.checkpoint import Checkpoints, Found, restore, state_of
from train.run.directory import RunDirectory
from train.run.loop import Loop, NotFiniteError, Position
from train.run.survival import Saver, explain_not_finite
from train.run.telemetry import Telemetry

MOST_LEARNING_RATE_CUTS = 3


class Attempts:
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
        """One attempt."""
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
            else:
                saver.save(Position())  # what a rollback has to go back to
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
