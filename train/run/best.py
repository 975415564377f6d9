"""The model of a run's best epoch."""

from __future__ import annotations

import math
from typing import Any

import keras

from train.run.directory import RunDirectory, write_model


class BestModel(keras.callbacks.Callback):
    """Keeps the model of the best epoch so far as `best.keras`.

    The best is the highest `val_accuracy`, or where there is none the lowest `val_loss`; the first
    of several. It is chosen on the test images, so what it gives on them is too good. Earlier
    epochs are those of `metrics.jsonl`: must stand before what writes there.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self.directory = directory

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        now = _goodness(logs or {})
        earlier = map(_goodness, self.directory.metrics(epoch))
        if not math.isnan(now) and not any(value >= now for value in earlier):
            write_model(self.model, self.directory.best_file)


def _goodness(line: dict[str, Any]) -> float:
    return float(line["val_accuracy"] if "val_accuracy" in line else -line["val_loss"])
