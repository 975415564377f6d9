"""Parameters of which the default suite keeps some and `make slow` runs the rest."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def slow_but(kept: Container[Any], values: Iterable[Any], *, unpack: bool = False) -> list[Any]:
    """`values` as parameters of a test, those that are not in `kept` slow.

    With `unpack`, each value is a tuple of several parameters.
    """
    return [
        pytest.param(
            *(value if unpack else (value,)), marks=() if value in kept else pytest.mark.slow
        )
        for value in values
    ]
