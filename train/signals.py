"""Signals that ask this process to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def heard(numbers: Sequence[int], do: Callable[[int, Any], None]) -> Iterator[None]:
    """A context in which signals are given to `do`, but for those that this process ignores."""
    wanted = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread, where signals do not arrive
        before = {number: signal.signal(number, do) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
