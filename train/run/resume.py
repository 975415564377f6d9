"""A training that goes on: after a kill, SIGTERM or Ctrl-C, and after numbers that are none."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.devices.cluster import agree, anybody
from train.devices.strategy import Placement
from train.errors import DivergedError, TerminatedError, UserError
from train.parts.schedules import learning_rate_now, rate_variables, reduce_learning_rate
from train.run.checkpoint import Checkpoints, Found, OtherModelError, restore, state_of
from train.run.directory import RunDirectory
from train.run.loop import Guest, Loop, NotFiniteError, Position
from train.run.phases import Phases
from train.signals import heard

MOST_LEARNING_RATE_CUTS = 3


class Training(Guest):
    """A training that goes on with the last checkpoint, which it writes from time to time.

    Args:
        config: Of the run.
        placement: Where it trains.
        directory: Its files; those of this process alone, if it is the chief.
        phases: What trains, one after another.
    """

    def __init__(
        self,
        config: FitConfig,
        placement: Placement,
        directory: RunDirectory,
        phases: Phases,
    ) -> None:
        self.config = config
        self.placement = placement
        self.directory = directory
        self.phases = phases
        self.checkpoints = Checkpoints(
            directory.checkpoints, keep=config.checkpoint.keep, writes=placement.is_chief
        )
        self._verbose = False
        self._cuts = 0  # how often the learning rate was halved
        self._since = 0  # steps since the last checkpoint
        self._asked = 0  # the signal that came
        self._anybody_asked = anybody(placement.strategy)

    @property
    def loop(self) -> Loop:
        """Of the phase that trains."""
        return self.phases.current.loop

    def train(self, verbose: bool) -> None:
        """Trains to the last epoch, from the last checkpoint that is whole and of this model.

        Raises:
            UserError: If all checkpoints are of another model, or one cannot be written.
            DivergedError: If the loss is not finite and the learning rate is not to be lowered.
            TerminatedError: After SIGTERM or Ctrl-C, when the checkpoint is written.
        """
        self._verbose = verbose
        if self.placement.is_chief:
            self.checkpoints.remove_leftovers()
        candidates = self.checkpoints.whole(self._say)
        found = next(candidates, None)
        mark = (found.folder / "sha256").read_text() if found else ""
        if not agree(self.placement.strategy, mark):
            raise UserError(
                f"The workers do not find the same checkpoint: {found.folder if found else 'none'} "
                f"is the last one here. Expected a run_directory that all of them share."
            )
        if found is None and any(self.checkpoints.folder.glob("*")):
            self._say(f"No checkpoint in {self.checkpoints.folder} is whole: begins anew")
        went_back_to = math.inf
        while True:
            self._cuts = max(self._cuts, found.learning_rate_cuts if found else 0)
            if found is not None and verbose:
                print(f"goes on from {found.folder}")
            try:
                self._train_from(found)
                return
            except OtherModelError as error:
                found = next(candidates, None)
                if found is None:
                    raise
                self._say(f"{error} The one before it is used.")
            except NotFiniteError as error:
                sentence, whole = self._explain(error), list(self.checkpoints.whole(self._say))
                self._cuts += 1
                if self.config.on_nan == "stop":
                    advice = "Lower optimizer.learning_rate, or set on_nan=rollback"
                elif self._cuts > MOST_LEARNING_RATE_CUTS:
                    advice = (
                        f"The learning rate was halved {MOST_LEARNING_RATE_CUTS} times: lower it"
                    )
                else:
                    print(f"{sentence} The learning rate is halved.", flush=True)
                    # What led here may stand in the checkpoint that was gone back to before.
                    further = [one for one in whole if one.step < went_back_to]
                    found = next(iter(further or whole[-1:]), None)
                    went_back_to = found.step if found else math.inf
                    continue
                kept = f"The last checkpoint is {whole[0].folder}. " if whole else ""
                raise DivergedError(f"{sentence} {kept}{advice}.") from error

    def after_call(self, position: Position, steps: int) -> None:
        """Saves if it is time, or if this or another worker was asked to end."""
        self._since += steps
        every = self.config.checkpoint.every_steps
        self._pause(position, is_due=every is not None and self._since >= every)

    def after_epoch(self, position: Position) -> None:
        """Saves; what came while the epoch ended is dealt with here too."""
        self._pause(position, is_due=True)

    def _pause(self, position: Position, *, is_due: bool) -> None:
        asked = self._anybody_asked(self._asked > 0)
        if is_due or asked:
            self._save(position)
        if asked:
            raise TerminatedError(self.loop.steps_done, self._asked or signal.SIGTERM)

    def _train_from(self, found: Found | None) -> None:
        """One attempt, through the phases that are left."""
        position, done = (found.position, found.step) if found else (Position(), 0)
        with self._listening():
            while True:
                self.phases.enter(position, begins=found is None)
                if self._verbose and len(self.phases.configs) > 1:
                    print(f"phase {position.phase + 1} of {len(self.phases.configs)}", flush=True)
                self._train_phase(found, position, done)
                done, found = self.loop.steps_done, None
                following = self.phases.after(self.loop.position, done)
                if following is None:
                    return
                position = following

    def _train_phase(self, found: Found | None, start: Position, done: int) -> None:
        """A phase, from its begin or from what was found."""
        phase = self.phases.current

        def put_back() -> None:
            if found is not None:
                restore(found, self._state())
            if self.placement.is_chief:
                self.directory.keep_epochs(start.epoch)
            cuts = self._cuts - (found.learning_rate_cuts if found else 0)
            if cuts:
                reduce_learning_rate(self.loop.model.optimizer, 0.5**cuts)
            if cuts or found is None:
                # What a rollback has to go back to, and a kill must not undo.
                self._save(start)

        phase.loop.run(
            phase.callbacks,
            epochs=phase.batches.epochs,
            last_epoch_steps=phase.batches.last_epoch_steps,
            guests=[*phase.guests, self],
            restore=put_back,
            start=start,
            steps_done=done,
        )

    def _listening(self) -> contextlib.AbstractContextManager[None]:
        """A context in which signals to end wait for a checkpoint; a second Ctrl-C does not."""

        def ask(number: int, _: Any) -> None:
            if number == self._asked == signal.SIGINT:
                raise KeyboardInterrupt
            self._asked = number

        return heard((signal.SIGTERM, signal.SIGINT), ask)

    def _save(self, position: Position) -> None:
        """Writes a checkpoint, never one that holds what is no number."""
        state, step = self._state(), self.loop.steps_done
        if _not_finite(state):
            # ReLU makes 0 of NaN: the loss may not show it.
            raise NotFiniteError(step, "The loss is finite; weights after training step {step} are")
        self.checkpoints.save(state, position, step=step, cuts=self._cuts)
        self._since = 0

    def _state(self, callbacks: bool = True) -> dict[str, tf.Variable]:
        """Everything that the next step depends on; callbacks have theirs while they train."""
        model = self.loop.model
        rates = rate_variables(model.optimizer)
        return state_of(
            model,
            self.placement.strategy,
            self.phases.current.callbacks if callbacks else (),
            {f"rate_{number}": variable for number, variable in enumerate(rates)},
        )

    def _explain(self, error: NotFiniteError) -> str:
        """Where the numbers went: step, learning rate, layers."""
        model = self.loop.model
        bad = [name for name in _not_finite(self._state(callbacks=False)) if name[:6] == "model/"]
        # model/3/hidden_1/kernel is of hidden_1
        layers = sorted({"/".join(name.split("/")[2:-1]) for name in bad})
        angles = [
            name
            for name, degrees in tfwm.weight_angles(model).items()
            if not 0 <= degrees <= 180  # false for NaN
        ]
        return (
            f"{error} (learning rate {learning_rate_now(model.optimizer):g}). "
            f"Weights that are not finite: {', '.join(layers) or 'none'}; weight angles: "
            f"{', '.join(angles) or 'none'}."
        )

    def _say(self, sentence: str) -> None:
        if self.placement.is_chief:
            print(sentence, flush=True)


def _not_finite(state: Mapping[str, tf.Variable]) -> list[str]:
    """Names of the model's and optimizer's variables that hold NaN or infinity."""
    return [
        name
        for name, variable in state.items()
        if name.startswith(("model/", "optimizer/"))
        and variable.dtype.is_floating
        and not bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable))))
    ]
