"""Mistakes of the user, which deserve one clear sentence and no traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """Says what was received, what was expected and what to do."""

    status = 2


class DivergedError(UserError):
    """The loss of a training is no longer finite."""

    status = 4


class TerminatedError(Exception):
    """A signal asked the training, or several (`step` None), to end; the checkpoint is written."""

    def __init__(self, step: int | None, number: int = signal.SIGTERM) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        after = "" if step is None else f" after training step {step}"
        super().__init__(f"ended by {name}{after}")
        self.step = step
        self.status = 128 + number


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or nothing if none is near."""
    near = difflib.get_close_matches(received, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
