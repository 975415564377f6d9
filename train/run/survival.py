"""What keeps a run alive: checkpoints in time, an orderly end, numbers that are numbers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

import tfweightmirror as tfwm
from train.devices.cluster import anybody
from train.run.checkpoint import Checkpoints, not_finite
from train.run.loop import NotFiniteError, Position


class TerminatedError(Exception):
    """SIGTERM came; the checkpoint is written.

    Args:
        step: Training steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"ended by SIGTERM after training step {step}")
        self.step = step


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
