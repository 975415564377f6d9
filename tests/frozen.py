"""What the garbage collector is not to look through: `gc.freeze`, for good.

A conversion asks the collector for living models, and warns where some may be hidden from it.
Nothing of what was imported, or outlives a file of tests, is one that a later test has to find, and
it is half a million objects: looking through them, or counting what is frozen, takes longer than
the conversion.
"""

import contextlib
import gc
from collections.abc import Iterator

_count = gc.get_freeze_count


def hide() -> None:
    """Freeze what there is, unseen by who asks how much is frozen."""
    gc.collect()
    gc.freeze()
    gc.get_freeze_count = lambda: 0


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """`gc.freeze()` as a user does it; what is frozen stays so, and is no longer counted."""
    gc.collect()
    gc.freeze()
    gc.get_freeze_count = _count
    try:
        yield
    finally:
        gc.get_freeze_count = lambda: 0
