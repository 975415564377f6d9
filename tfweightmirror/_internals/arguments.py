"""What arguments are, before anything is asked of them."""

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
