"""Checks that several tables of the configuration share."""

from __future__ import annotations

import math

from train.errors import UserError


def at_least_one(name: str, *values: int | None) -> None:
    """Raises UserError if a value is below 1; null is for the caller to allow."""
    for value in values:
        if value is not None and value < 1:
            raise UserError(f"{name} has the value {value}. Expected 1 or more.")


def positive(name: str, value: float) -> None:
    """Raises UserError unless the value is a finite number above 0."""
    if not 0 < value < math.inf:
        raise UserError(f"{name} is {value}. Expected a number above 0.")


def not_negative(name: str, value: float | None) -> None:
    """Raises UserError unless the value is null or a finite number, 0 or above it."""
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{name} is {value}. Expected null, 0 or a number above it.")
