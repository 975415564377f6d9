"""What the garbage collector is not to look through: `gc.freeze`, for good.

A conversion asks the collector for living models, and warns where some may be hidden from it.
Nothing of what was imported is one, and it is half a million objects: looking through them takes
longer than the conversion.
"""

import contextlib
import gc
from collections.abc import Iterator

_count = gc.get_freeze_count


def hide_imported() -> None:
    """Freeze what there is, unseen by who asks how much is frozen."""
    gc.collect()
    gc.freeze()
    _forget_the_count()


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """`gc.freeze()` as a user does it; what is frozen stays so, and is no longer counted."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        _forget_the_count()


def _forget_the_count() -> None:
    known = _count()
    gc.get_freeze_count = lambda: max(_count() - known, 0)
