"""What a run says on the terminal: a line an epoch of at most 100 columns, and what it came to."""

from __future__ import annotations

import datetime
import math
import sys
import time
from typing import Any

import keras

from train.run.directory import RunDirectory
from train.run.files import silent_layers

# Title to width and name in the logs.
COLUMNS = {
    "epoch": (9, ""),
    "loss": (8, "loss"),
    "accuracy": (10, "accuracy"),
    "test loss": (11, "val_loss"),
    "accuracy ": (10, "val_accuracy"),  # beside the test loss
    "worst angle": (13, ""),
    "mean angle": (12, ""),
    "images/s": (10, ""),
    "time left": (12, ""),
}
REDRAW_S = 0.2


class EpochLines(keras.callbacks.Callback):
    """Prints a table of epochs; all else that the logs have is in the run's files.

    Angles are weight angles in degrees, over layers that have one and send an error back; `-`: no
    such layer does. Must stand behind what adds to the logs. With `bar`, the line of an epoch grows
    while it runs, on a terminal.
    """

    def __init__(self, epochs: int, *, bar: bool) -> None:
        super().__init__()
        self.epochs = epochs
        self.bar = bar and sys.stdout.isatty()
        self._begin_s = self._drawn_s = 0.0
        self._first: int | None = None
        self._epoch = 0
        self._silent: set[str] = set()

    def on_train_begin(self, logs: Any = None) -> None:
        self._begin_s = time.perf_counter()
        self._first = None
        self._silent = {f"weight_angle/{layer}" for layer in silent_layers(self.model)}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if self._first is None:
            self._first = epoch
            print("".join(f"{name.strip():>{width}}" for name, (width, _) in COLUMNS.items()))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        now = time.perf_counter()
        if self.bar and now - self._drawn_s > REDRAW_S:
            self._drawn_s = now
            steps = f"step {batch + 1} of {self.params['steps']}"
            print(f"\r{self._row(self._epoch, logs or {}, steps)}", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        done = epoch + 1 - (self._first or 0)
        left_s = (time.perf_counter() - self._begin_s) / done * (self.epochs - epoch - 1)
        left = str(datetime.timedelta(seconds=round(left_s)))
        row = self._row(epoch, logs, f"{logs.get('images_per_second', 0):>10,.0f} {left:>11}")
        print(f"\r{row:<100}" if self.bar else row, flush=True)

    def _row(self, epoch: int, logs: dict[str, Any], end: str) -> str:
        names = [name for name in logs if name.startswith("weight_angle/")]
        angles = [float(logs[name]) for name in names if name not in self._silent]
        angles = [angle for angle in angles if math.isfinite(angle)]
        cells = {name: _number(logs.get(key)) for name, (_, key) in COLUMNS.items()}
        cells["epoch"] = f"{epoch + 1}/{self.epochs}"
        if angles:
            cells["worst angle"] = f"{max(angles):.2f}"
            cells["mean angle"] = f"{sum(angles) / len(angles):.2f}"
        elif names:
            cells["worst angle"] = cells["mean angle"] = "-"
        shown = [f"{cells[name]:>{COLUMNS[name][0]}}" for name in list(COLUMNS)[:-2]]
        return f"{''.join(shown)}{end:>22}"


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{float(value):.4f}" if abs(float(value)) < 1000 else f"{float(value):.1e}"


def last_lines(directory: RunDirectory) -> str:
    """What a finished run came to, where its model is, and what can be done with it."""
    path, lines = directory.path, directory.metrics()
    last = lines[-1]
    name, pick = ("val_accuracy", max) if "val_accuracy" in last else ("val_loss", min)
    known = (line for line in lines if not math.isnan(line[name]))
    best = pick(known, key=lambda line: line[name], default=last)
    kept = f", and of the best epoch {directory.best_file}" * directory.best_file.exists()
    return (
        f"test {name.removeprefix('val_')} {last[name]:.4f} after epoch {last['epoch']} "
        f"(best on test, chosen on the test images: {best[name]:.4f} after {best['epoch']})\n"
        f"model: {directory.model_file}{kept}\n"
        f"next:  python -m train evaluate {path}\n"
        f"       python -m train report {path} --out {path / 'report'}\n"
        f"       tensorboard --logdir {directory.events}"
    )
