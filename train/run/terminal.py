"""What a run says on the terminal: a line an epoch of at most 100 columns, and what it came to."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import keras

from train.run.directory import RunDirectory

COLUMNS = {
    "epoch": 9,
    "loss": 8,
    "accuracy": 10,
    "test loss": 11,
    "accuracy ": 10,  # of the test images, as the loss beside it
    "worst angle": 13,
    "mean angle": 12,
    "images/s": 10,
    "time left": 12,
}
_OF_LOGS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "test loss": "val_loss",
    "accuracy ": "val_accuracy",
}
REDRAW_S = 0.2


class EpochLines(keras.callbacks.Callback):
    """Prints a table of epochs; all else that the logs have is in the run's files.

    Angles are weight angles in degrees, over layers that have one. Must stand behind what adds to
    the logs.

    Args:
        epochs: Of the whole run.
        bar: Whether the line of an epoch grows while it runs, on a terminal.
    """

    def __init__(self, epochs: int, *, bar: bool) -> None:
        super().__init__()
        self.epochs = epochs
        self.bar = bar and sys.stdout.isatty()
        self._begin_s = 0.0
        self._drawn_s = 0.0
        self._first: int | None = None
        self._epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._begin_s = time.perf_counter()
        self._first = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if self._first is None:
            self._first = epoch
            print("".join(f"{name.strip():>{width}}" for name, width in COLUMNS.items()))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        now = time.perf_counter()
        if self.bar and now - self._drawn_s > REDRAW_S:
            self._drawn_s = now
            row = self._row(self._epoch, logs or {})
            steps = f"step {batch + 1} of {self.params['steps']}"
            print(f"\r{row}{steps:>{COLUMNS['time left'] + 10}}", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        done = epoch + 1 - (self._first or 0)
        left_s = (time.perf_counter() - self._begin_s) / done * (self.epochs - epoch - 1)
        row = self._row(epoch, logs) + (
            f"{logs.get('images_per_second', 0):>{COLUMNS['images/s']},.0f}"
            f"{_duration(left_s):>{COLUMNS['time left']}}"
        )
        print(f"\r{row:<100}".rstrip() if self.bar else row, flush=True)

    def _row(self, epoch: int, logs: dict[str, Any]) -> str:
        """An epoch's numbers, without speed."""
        cells = {name: _number(logs.get(key)) for name, key in _OF_LOGS.items()}
        angles = [float(v) for name, v in logs.items() if name.startswith("weight_angle/")]
        angles = [angle for angle in angles if math.isfinite(angle)]
        if angles:
            cells["worst angle"] = f"{max(angles):.2f}"
            cells["mean angle"] = f"{sum(angles) / len(angles):.2f}"
        cells["epoch"] = f"{epoch + 1}/{self.epochs}"
        shown = list(COLUMNS)[:-2]
        return "".join(f"{cells.get(name, ''):>{COLUMNS[name]}}" for name in shown)


def last_lines(directory: RunDirectory) -> str:
    """What a finished run came to, where its model is, and what can be done with it."""
    path = directory.path
    lines = directory.metrics()
    name = "val_accuracy" if "val_accuracy" in lines[-1] else "val_loss"
    best = (max if name == "val_accuracy" else min)(
        (line for line in lines if not math.isnan(line[name])),
        key=lambda line: line[name],
        default=lines[-1],
    )
    kept = f", and of the best epoch {directory.best_file}" * directory.best_file.exists()
    return (
        f"test {name.removeprefix('val_')} {lines[-1][name]:.4f} after epoch {lines[-1]['epoch']} "
        f"(best on test, chosen on the test images: {best[name]:.4f} after {best['epoch']})\n"
        f"model: {directory.model_file}{kept}\n"
        f"next:  python -m train evaluate {path}\n"
        f"       python -m train report {path} --out {path / 'report'}\n"
        f"       tensorboard --logdir {directory.events}"
    )


def _number(value: Any) -> str:
    if value is None:
        return ""
    number = float(value)
    return f"{number:.4f}" if abs(number) < 1000 else f"{number:.1e}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
