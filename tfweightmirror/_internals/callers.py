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
