"""A training that goes on: after a kill, SIGTERM or Ctrl-C, and after numbers that are none."""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.devices.cluster import agree, anybody
from train.devices.strategy import Placement
from train.errors import DivergedError, TerminatedError, UserError, see
from train.parts.schedules import learning_rate_now, rate_variables, reduce_learning_rate
from train.run.checkpoint import Checkpoints, Found, OtherModelError, restore, state_of
from train.run.directory import RunDirectory
from train.run.loop import Guest, Loop, NotFiniteError, Position
from train.run.phases import Phases
from train.signals import heard

MOST_LEARNING_RATE_CUTS = 3


class Training(Guest):
    """A training that goes on from the last checkpoint, which it writes from time to time.

    `company` gives all callbacks of a phase, and who looks in, for its loop and the library's
    callbacks.
    """

    loop: Loop
    feedback: list[Any]

    def __init__(
        self,
        config: FitConfig,
        placement: Placement,
        directory: RunDirectory,
        phases: Phases,
        company: Callable[[Loop, list[Any]], tuple[list[Any], Sequence[Guest]]],
    ) -> None:
        self.config = config
        self.placement = placement
        self.directory = directory
        self.phases = phases
        self.company = company
        self.checkpoints = Checkpoints(
            directory.checkpoints, keep=config.checkpoint.keep, writes=placement.is_chief
        )
        self._verbose = config.training.progress != "none"
        self._callbacks: list[Any] = []
        self._cuts = 0  # how often the learning rate was halved
        self._went_back_to = math.inf  # the step
        self._since = 0  # steps since the last checkpoint
        self._asked = 0  # the signal that came
        self._anybody_asked = anybody(placement.strategy)

    def train(self) -> None:
        """Trains to the last epoch, from the last checkpoint that is whole and of this model."""
        if self.placement.is_chief:
            self.checkpoints.remove_leftovers()
        candidates = self.checkpoints.whole(self._say)
        found = next(candidates, None)
        if not agree(self.placement.strategy, found.checksum if found else ""):
            raise UserError(
                f"The workers do not find the same checkpoint: {found.folder if found else 'none'} "
                f"is the last one here. Expected a run_directory that all of them share."
            )
        if found is None and any(self.checkpoints.folder.glob("*")):
            self._say(f"No checkpoint in {self.checkpoints.folder} is whole: begins anew")
        while True:
            try:
                self._train_from(found)
                return
            except OtherModelError as error:
                found = next(candidates, None)
                if found is None:
                    raise
                self._say(f"{error} The one before it is used.")
            except NotFiniteError as error:
                found = self._rolled_back(error)

    def _train_from(self, found: Found | None) -> None:
        """One attempt, through the phases that are left."""
        position, phases = Position(), len(self.phases.configs)
        if found is not None:
            position, self._cuts = found.position, max(self._cuts, found.learning_rate_cuts)
            if self._verbose:
                self._say(f"goes on from {found.folder}")
        with heard((signal.SIGTERM, signal.SIGINT), self._ask):
            while position.phase < phases:
                self.loop, self.feedback = self.phases.entered(position, begins=found is None)
                self._callbacks, guests = self.company(self.loop, self.feedback)
                if self._verbose and phases > 1:
                    self._say(f"phase {position.phase + 1} of {phases}")
                self.loop.run(
                    self._callbacks,
                    [*guests, self],
                    start=position,
                    restore=functools.partial(self._put_back, found, position),
                )
                position, found = self.loop.position.next_phase(), None

    def _put_back(self, found: Found | None, start: Position) -> None:
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

    def _ask(self, number: int, _: Any) -> None:
        """Signals wait for a checkpoint; a second Ctrl-C does not."""
        if number == self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

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
            raise TerminatedError(position.step, self._asked or signal.SIGTERM)

    def _save(self, position: Position) -> None:
        """Writes a checkpoint, never one that holds what is no number."""
        state = self._state()
        groups = ("model/", "optimizer/")
        if not all(_is_finite(v) for name, v in state.items() if name.startswith(groups)):
            # ReLU makes 0 of NaN: the loss may not show it.
            sentence = "The loss is finite; weights after training step {step} are"
            raise NotFiniteError(position.step, sentence)
        self.checkpoints.save(state, position, cuts=self._cuts)
        self._since = 0

    def _state(self) -> dict[str, tf.Variable]:
        """Everything that the next step depends on."""
        model = self.loop.model
        rates = {f"rate_{n}": rate for n, rate in enumerate(rate_variables(model.optimizer))}
        return state_of(model, self.placement.strategy, self._callbacks, rates)

    def _rolled_back(self, error: NotFiniteError) -> Found | None:
        """The checkpoint to go on from at half the learning rate; or raises DivergedError."""
        sentence, whole = self._explain(error), list(self.checkpoints.whole(self._say))
        self._cuts += 1
        if self.config.on_nan == "rollback" and self._cuts <= MOST_LEARNING_RATE_CUTS:
            print(f"{sentence} The learning rate is halved.", flush=True)
            # What led here may stand in the checkpoint that was gone back to before.
            further = [one for one in whole if one.position.step < self._went_back_to]
            found = next(iter(further or whole[-1:]), None)
            self._went_back_to = found.position.step if found else math.inf
            return found
        kept = f"The last checkpoint is {whole[0].folder}. " if whole else ""
        if self.config.on_nan == "rollback":
            raise DivergedError(
                f"{sentence} {kept}The learning rate was halved {MOST_LEARNING_RATE_CUTS} times: "
                "lower it." + see("the-loss-is-not-finite")
            ) from error
        raise DivergedError(
            f"{sentence} {kept}Lower optimizer.learning_rate, or set on_nan=rollback."
            + see("the-loss-is-not-finite")
        ) from error

    def _explain(self, error: NotFiniteError) -> str:
        """Where the numbers went: step, learning rate, layers."""
        model = self.loop.model
        bad = [variable.path for variable in model.variables if not _is_finite(variable.value)]
        layers = sorted({path.rpartition("/")[0] for path in bad})
        degrees = tfwm.weight_angles(model)
        angles = [name for name in degrees if not 0 <= degrees[name] <= 180]  # false for NaN
        return (
            f"{error} (learning rate {learning_rate_now(model.optimizer):g}). "
            f"Weights that are not finite: {', '.join(layers) or 'none'}; weight angles: "
            f"{', '.join(angles) or 'none'}."
        )

    def _say(self, sentence: str) -> None:
        if self.placement.is_chief:
            print(sentence, flush=True)


def _is_finite(variable: tf.Variable) -> bool:
    values = tf.convert_to_tensor(variable)
    return not values.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(values)))
