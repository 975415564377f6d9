"""Networks by name. A new one is a file here, its options in `train.config`, and a line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from train.config import ModelConfig
from train.errors import UserError, did_you_mean
from train.parts.models.mlp import mlp
from train.parts.models.resnet import resnet18, resnet50
from train.parts.models.small_conv import small_conv

# Name to what builds it from its options, an image shape and the number of classes, and to the
# table of its options.
BUILDERS: dict[str, tuple[Callable[..., Any], str]] = {
    "small_conv": (small_conv, "small_conv"),
    "mlp": (mlp, "mlp"),
    "resnet18": (resnet18, "resnet"),
    "resnet50": (resnet50, "resnet"),
}


def check_name(config: ModelConfig) -> None:
    """Raises UserError if the model is not known."""
    if config.name not in BUILDERS:
        raise UserError(
            f"model.name={config.name} is not known. Expected {', '.join(BUILDERS)}."
            f"{did_you_mean(config.name, BUILDERS)}"
        )


def build(config: ModelConfig, image_shape: tuple[int, int, int], *, num_classes: int) -> Any:
    """A Keras model from images (batch, *image_shape) to logits (batch, num_classes)."""
    check_name(config)
    build_named, options = BUILDERS[config.name]
    return build_named(getattr(config, options), image_shape, num_classes=num_classes)
