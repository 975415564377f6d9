"""A training that goes on: after a kill, after SIGTERM, after numbers that are none."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.devices.cluster import anybody
from train.devices.strategy import Placement
from train.errors import DivergedError, TerminatedError
from train.parts.schedules import learning_rate_now, rate_variables, reduce_learning_rate
from train.run.checkpoint import Checkpoints, Found, not_finite, restore, state_of
from train.run.directory import RunDirectory
from train.run.loop import Loop, NotFiniteError, Position
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


class Saver:
    """Writes checkpoints between calls of the compiled step.

    Args:
        checkpoints: Where to.
        state: Gives what to write; called when training has begun.
        steps_per_epoch: To number the steps.
        every_steps: A checkpoint after at least so many steps; None: at epochs' ends alone.
        strategy: To agree with the other workers on an early end.
        cuts: How often the learning rate was halved.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        state: Callable[[], Mapping[str, tf.Variable]],
        *,
        steps_per_epoch: int,
        every_steps: int | None,
        strategy: tf.distribute.Strategy,
        cuts: int = 0,
    ) -> None:
        self.checkpoints = checkpoints
        self.state = state
        self.steps_per_epoch = steps_per_epoch
        self.every_steps = every_steps
        self.cuts = cuts
        self._asked = False
        self._since = 0
        self._anybody_asked = anybody(strategy)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """A context in which SIGTERM means: write a checkpoint at the end of this call, and end."""

        def ask(*_: Any) -> None:
            self._asked = True

        try:
            before = signal.signal(signal.SIGTERM, ask)
        except ValueError:  # not in the main thread, where signals do not arrive
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def after_call(self, position: Position, steps: int) -> None:
        """Saves if it is time, or if this or another worker was asked to end."""
        self._since += steps
        asked = self._anybody_asked(self._asked)
        if asked or (self.every_steps is not None and self._since >= self.every_steps):
            self.save(position)
        if asked:
            raise TerminatedError(self._step(position))

    def after_epoch(self, position: Position) -> None:
        """Saves; what came while the epoch ended is dealt with here too."""
        self.save(position)
        if self._anybody_asked(self._asked):
            raise TerminatedError(self._step(position))

    def save(self, position: Position) -> None:
        """Writes a checkpoint, never one that holds what is no number."""
        state = self.state()
        if not_finite(state):
            # ReLU makes 0 of NaN: the loss may not show it.
            raise NotFiniteError(
                self._step(position), "The loss is finite; weights after training step {step} are"
            )
        self.checkpoints.save(state, position, step=self._step(position), cuts=self.cuts)
        self._since = 0

    def _step(self, position: Position) -> int:
        return position.epoch * self.steps_per_epoch + position.step_in_epoch


def explain_not_finite(
    error: NotFiniteError, model: Any, state: Mapping[str, tf.Variable], *, learning_rate: float
) -> str:
    """Where the numbers went: step, learning rate, layers."""
    layers = sorted({_layer_of(name) for name in not_finite(state) if name.startswith("model/")})
    angles = [
        name
        for name, degrees in tfwm.weight_angles(model).items()
        if not 0 <= degrees <= 180  # false for NaN
    ]
    return (
        f"{error} (learning rate {learning_rate:g}). "
        f"Weights that are not finite: {', '.join(layers) or 'none'}; weight angles: "
        f"{', '.join(angles) or 'none'}."
    )


def _layer_of(name: str) -> str:
    """`model/3/hidden_1/kernel` to `hidden_1`."""
    return "/".join(name.split("/")[2:]).rpartition("/")[0]
