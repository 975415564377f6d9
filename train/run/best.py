"""The model of a run's best epoch."""

from __future__ import annotations

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
        earlier = self.directory.metrics(epoch)
        now = _goodness(logs or {})
        if all(now > _goodness(line) for line in earlier) or not self.directory.best_file.exists():
            write_model(self.model, self.directory.best_file)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        lines = self.directory.metrics()
        if lines and self.directory.best_file.exists():
            best = max(lines, key=_goodness)
            name = "val_accuracy" if "val_accuracy" in best else "val_loss"
            what = f"epoch {best['epoch']}, {name} {best[name]:.4f}"
            print(f"{self.directory.best_file}: {what}, chosen on the test images")


def _goodness(line: dict[str, Any]) -> float:
    return float(line["val_accuracy"] if "val_accuracy" in line else -line["val_loss"])
