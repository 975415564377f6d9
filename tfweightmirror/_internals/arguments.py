"""What arguments are, before anything is asked of them."""

import dataclasses
import inspect
import math
from numbers import Integral, Real
from typing import Any

import keras


def is_finite(value: Any) -> bool:
    """Whether `value` is a number, and no infinity or NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_model(model: Any) -> None:
    """Raise a ValueError for what is no Keras model."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a Keras model. Received: {type(model).__name__} ({str(model)[:60]}). Wrap "
            "single layers as keras.Sequential([layer])."
        )


def require_fields(part: Any, explained: str) -> None:
    """Raise a ValueError for a rule or noise with options that are no fields of its dataclass.

    They would not be saved, and two that differ in them alone would count as equal.
    """
    of_any_name = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    options = inspect.signature(type(part)).parameters.values()
    known = {field.name for field in dataclasses.fields(part)}
    beside = [o.name for o in options if o.name not in known and o.kind not in of_any_name]
    if beside:
        name = type(part).__name__
        raise ValueError(
            f"{name}.__init__ takes {', '.join(beside)}, which would be lost when {name} is saved "
            "or compared: make the class a frozen dataclass, and each option a field of it."
            + explained
        )
