"""Who called."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


def selves_calling(method: str) -> Iterator[Any]:
    """The `self` of each call of a `method` of this name that led here, in the same thread.

    The innermost comes first; None for a function that has no `self`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == method:
            yield frame.f_locals.get("self")
        frame = frame.f_back


_INSIDE = {"tfweightmirror", "keras", "tensorflow", "contextlib", "functools"}


def stacklevel_of_user() -> int:
    """The `stacklevel` by which a warning of the caller points at the user's code.

    That is the innermost frame of none of the packages between; the caller's own where there is
    none, as in the threads in which replicas trace.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _INSIDE and "__autograph_generated_file" not in frame.f_code.co_filename:
            return level
        frame, level = frame.f_back, level + 1
    return 1
