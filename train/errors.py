"""Mistakes of the user, which deserve one clear sentence and no traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """Says what was received, what was expected and what to do."""


class DivergedError(UserError):
    """The loss of a training is no longer finite."""


class TerminatedError(Exception):
    """A signal asked the training to end; the checkpoint is written.

    Args:
        step: Training steps done.
        number: Of the signal.
    """

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(f"ended by {name} after training step {step}")
        self.step = step
        self.status = 128 + number


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or nothing if none is near."""
    near = difflib.get_close_matches(received, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
