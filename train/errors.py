"""Mistakes of the user, which deserve one clear sentence and no traceback."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable, Mapping


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
    received = str(received)  # a key in YAML may be a number
    cutoff = 0.5 if len(received) < 3 else 0.6  # of two letters one may be wrong
    near = difflib.get_close_matches(received, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def see(anchor: str, page: str = "guides/troubleshooting") -> str:
    """The end of a sentence: the heading of a page of docs/ that explains it.

    The library has the same words in `_internals/docs.py`, whose import would load TensorFlow.
    """
    return f" See docs/{page}.md#{anchor}."


def with_source(sentence: str, sources: Mapping[str, str]) -> str:
    """A sentence that begins with a key, with the file that set it in front."""
    first = re.split(r"[=:\s]", sentence, maxsplit=1)[0].rstrip(".")
    for key, source in sorted(sources.items(), key=lambda pair: -len(pair[0])):
        if key == first or key.startswith(f"{first}.") or first.startswith(f"{key}."):
            return sentence if sentence.startswith(f"{source}: ") else f"{source}: {sentence}"
    return sentence
