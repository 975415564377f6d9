"""Numbers with a range, as types of fields: whoever puts a table together looks at them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """What holds of a number, and what is said behind its key where it does not, {} the number."""

    holds: Callable[[float], bool]
    sentence: str


_NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "is {}. Expected null, 0 or a number above it.")
Count = Annotated[int, Range(lambda n: n >= 1, "has the value {}. Expected 1 or more.")]
Positive = Annotated[float, Range(lambda x: 0 < x < math.inf, "is {}. Expected a number above 0.")]
NotNegative = Annotated[float, _NOT_NEGATIVE]
WholeNotNegative = Annotated[int, _NOT_NEGATIVE]
Seed = Annotated[int, Range(lambda n: 0 <= n < 2**32, f"is {{}}. Expected 0 to {2**32 - 1}.")]
Port = Annotated[int, Range(lambda n: 0 < n < 2**16, "is {}. Expected 1 to 65535.")]
ZeroOrSeveral = Annotated[
    int,
    Range(
        lambda n: n == 0 or n >= 2,
        "is {}. Expected 0, or 2 or more, which have a standard deviation.",
    ),
]
