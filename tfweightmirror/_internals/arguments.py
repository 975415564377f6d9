"""What arguments are, before anything is asked of them."""

import math
from numbers import Real
from typing import Any


def is_finite(value: Any) -> bool:
    """Whether `value` is a number, and no infinity or NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
