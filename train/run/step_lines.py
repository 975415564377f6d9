"""Evaluations and measures between the ends of epochs, and before the first step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfweightmirror as tfwm
from train.config import FitConfig
from train.disk import GO_ON, append_line, disk_errors, to_json, write_whole
from train.errors import UserError
from train.run.build import RunBatches
from train.run.compiled import floats
from train.run.loop import Guest, Loop, Position

FILE = "steps.jsonl"


class StepLines(keras.callbacks.Callback, Guest):
    """Writes `steps.jsonl`, if the configuration asks for anything that stands there.

    A line has `step` (training steps done), `epoch` (the one it belongs to, counted from 1; 0
    before the first step), the results on test images as `val_...`, and what the monitor reads as
    `<measure>/<layer>`. There is one for step 0 (`training.evaluate_at_start`), for every
    `training.evaluate_every` steps, for each of `monitor.last_epoch_measures` (without `val_...`),
    and for every end of an epoch. Over those of the last epoch, mean and standard deviation (of a
    sample) join the logs. Training goes on as if nobody had looked.

    Must stand behind the monitor and before what writes logs, and as a guest before who saves.

    Args:
        loop: The loop that trains.
        batches: The run's.
        config: Of the run.
        callbacks: The library's, among which the monitor is found.
        folder: The run directory; None for workers that take part and leave the writing to the
            chief.
        show: Is told `(step, values)` of every line that is written.

    Raises:
        UserError: If the last epoch has fewer steps than measures, or nothing is measured.
    """

    def __init__(
        self,
        loop: Loop,
        batches: RunBatches,
        config: FitConfig,
        callbacks: Sequence[Any],
        folder: Path | None,
        show: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    ) -> None:
        super().__init__()
        self.loop = loop
        self.batches = batches
        self.every = config.training.evaluate_every
        self.at_start = config.training.evaluate_at_start
        self.file = None if folder is None else folder / FILE
        monitors = [c for c in callbacks if isinstance(c, tfwm.callbacks.FeedbackMonitor)]
        self._show = show
        self._monitor = monitors[0] if monitors else None
        times, steps = config.monitor.last_epoch_measures, batches.last_epoch_steps
        if times and not (self._monitor and times <= steps):
            raise UserError(
                f"monitor.last_epoch_measures is {times}, but "
                + (f"the last epoch has {steps} steps" if self._monitor else "nothing is measured")
                + ". Expected 0, or a step for each of them and layers with feedback weights (or "
                "monitor.backprop)."
            )
        # Steps of the last epoch; its end, the last of them, is measured anyway.
        self._last = [round(n * steps / times) for n in range(1, times + 1)]

    def before_first(self, position: Position) -> None:
        """Drops the lines of what will be done again, and writes that of step 0."""
        done = self.loop.steps_done
        if self.file is not None and self.file.exists():
            redone = not done or position.step_in_epoch == self._length(position.epoch)
            kept = [line for line in self._lines() if line["step"] < done + (not redone)]
            with disk_errors(f"{self.file} cannot be written", GO_ON):
                write_whole(self.file, "".join(to_json(line) + "\n" for line in kept))
        if self.at_start and not done:
            self._write(0, 0, self._evaluated() | self._readings())

    def due_in(self, position: Position) -> int | None:
        """Steps to the next look."""
        done, here = self.loop.steps_done, position.step_in_epoch
        due = [self.every - done % self.every] if self.every else []
        if self._is_last(position.epoch):
            due += [step - here for step in self._last if step > here]
        return min(due, default=None)

    def after_call(self, position: Position, steps: int) -> None:
        """Looks, if it is time and no epoch's end, which has its own line."""
        done, here = self.loop.steps_done, position.step_in_epoch
        if here == self._length(position.epoch):
            return
        if self.every and done % self.every == 0:
            self._write(done, position.epoch + 1, self._evaluated() | self._readings())
        elif self._is_last(position.epoch) and here in self._last:
            self._write(done, position.epoch + 1, self._readings())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the line of the epoch's end; adds what the last epoch's lines say together."""
        is_last = bool(self._last) and self._is_last(epoch)
        if logs is None or not (self.every or self.at_start or is_last):
            return
        shown = {name: v for name, v in logs.items() if name.startswith("val_") or "/" in name}
        self._write(self.loop.steps_done, epoch + 1, shown)
        if is_last and self.file is not None:
            begin = self.loop.steps_done - self._last[-1]
            wanted = {begin + step for step in self._last}
            logs |= _mean_and_std([line for line in self._lines() if line["step"] in wanted])

    def _evaluated(self) -> dict[str, float]:
        return {f"val_{name}": v for name, v in self.loop.test_images.in_between().items()}

    def _readings(self) -> dict[str, float]:
        return self._monitor.readings() if self._monitor else {}

    def _is_last(self, epoch: int) -> bool:
        return epoch + 1 == self.batches.epochs

    def _length(self, epoch: int) -> int:
        """Steps of an epoch."""
        whole = not self._is_last(epoch)
        return self.batches.steps_per_epoch if whole else self.batches.last_epoch_steps

    def _write(self, step: int, epoch: int, values: dict[str, Any]) -> None:
        if self.file is not None:
            values = floats(values)
            with disk_errors(f"{self.file} cannot be written", GO_ON):
                append_line(self.file, to_json({"step": step, "epoch": epoch} | values))
            self._show(step, values)

    def _lines(self) -> list[dict[str, Any]]:
        assert self.file is not None
        with disk_errors(f"{self.file} cannot be read"):
            texts = self.file.read_text().splitlines()
        lines: list[dict[str, Any]] = []
        for number, text in enumerate(texts, start=1):
            try:
                lines.append(json.loads(text))
            except ValueError as error:
                if number < len(texts):  # else a kill has cut it, and it is written again
                    raise UserError(
                        f"{self.file} is damaged at line {number}. Restore it, or remove it: the "
                        f"run goes on with the steps to come."
                    ) from error
        return lines


def _mean_and_std(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of what all lines have of layers, as `<measure>_mean/<layer>` and `<measure>_std/<layer>`."""
    found: dict[str, float] = {}
    for name in lines[-1] if lines else ():
        measure, slash, layer = name.partition("/")
        values = [line.get(name, math.nan) for line in lines]
        if slash and all(name in line for line in lines):
            numbers = np.array([math.nan if value is None else value for value in values])
            found[f"{measure}_mean/{layer}"] = float(numbers.mean())
            found[f"{measure}_std/{layer}"] = float(numbers.std(ddof=1))
    return found
