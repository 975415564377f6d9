"""What a run measures beside Keras: its speed, what mirror mode costs, and looks between epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from train.disk import GO_ON, append_line, disk_errors, json_lines, to_json, write_whole
from train.errors import UserError
from train.parts.schedules import learning_rate_now
from train.run.loop import Guest, Loop, Position
from train.run.steps import floats

MEASURES = ("images_per_second", "input_wait_share")
"""Names of what differs between two runs of equal numbers; so does `seconds`."""


class Telemetry(keras.callbacks.Callback):
    """Adds learning rate and speed to the logs; must stand behind `WeightMirror`.

    `phase`, counted from 1, where there are several. `learning_rate`: at the end of the epoch.
    `images_per_second`: training images over the time in training calls (their first one compiles).
    `input_wait_share`: the share of that time in which the next batch was waited for; left out
    under deterministic operations. The time of mirror mode inside the compiled step cannot be told
    from the rest.

    What mirror mode would cost where noise takes time, in a brain or on a chip:
    `mirror_samples_per_image/<layer>` are the noise samples fired on a layer so far in the phase,
    on all replicas and warm-up included, over its training images so far (a balanced sweep after
    every batch of m: fan-in / m) and `mirror_samples_per_image` their sum, layers firing one after
    another, or the largest, where they fire at once (`simultaneous`).
    """

    def __init__(self, loop: Loop, callbacks: Sequence[Any], *, several_phases: bool) -> None:
        super().__init__()
        self.loop = loop
        self.batch_size = loop.batches.config.training.batch_size
        self.several_phases = several_phases
        self._mirrors = [c for c in callbacks if isinstance(c, tfwm.callbacks.WeightMirror)]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        loop, whole_s = self.loop, self.loop.training_s or float("inf")  # no step was trained
        if self.several_phases:
            logs["phase"] = loop.position.phase + 1
        logs["learning_rate"] = learning_rate_now(self.model.optimizer)
        logs["images_per_second"] = loop.steps_trained * self.batch_size / whole_s
        if loop.times_input:
            logs["input_wait_share"] = loop.waiting_s / whole_s
        # Of the whole phase: what a resumed epoch saw itself depends on where it was killed.
        images = (loop.position.step - loop.position.phase_step) * self.batch_size
        fired = {
            f"mirror_samples_per_image/{name}": int(mirror.mirror_steps.numpy()) * samples / images
            for mirror in self._mirrors
            for name, samples in mirror.samples_per_step(self.model).items()
        }
        logs |= fired
        if self._mirrors:
            at_once = all(mirror.mode.simultaneous for mirror in self._mirrors)
            logs["mirror_samples_per_image"] = (max if at_once else sum)(fired.values())


class StepLines(keras.callbacks.Callback, Guest):
    """Writes `steps.jsonl`, if the configuration asks for anything that stands there.

    A line has `step` (training steps done), `epoch` (the one it belongs to, counted from 1; 0
    before the first step), the results on test images as `val_...`, and what the monitor reads as
    `<measure>/<layer>`. There is one for step 0 (`training.evaluate_at_start`), for every
    `training.evaluate_every` steps, for each of `monitor.last_epoch_measures` (without `val_...`),
    for every `training.losses_every` steps (`loss` and its parts alone, means over the training
    steps of the epoch since the line before that had them), and for every end of an epoch. Over
    those of the last epoch, mean and standard deviation (of a sample) join the logs. Training goes
    on as if nobody had looked.

    Must stand behind the monitor and before what writes logs, and as a guest before who saves.
    Without a folder (workers beside the chief) it takes part and writes nothing; `show` is told
    step and values of every line that is written.

    Raises:
        UserError: If the last epoch has fewer steps than measures, or nothing is measured.
    """

    def __init__(
        self,
        loop: Loop,
        callbacks: Sequence[Any],
        folder: Path | None,
        show: Callable[[int, dict[str, float]], None],
    ) -> None:
        super().__init__()
        batches, config = loop.batches, loop.batches.config
        self.loop = loop
        self.batches = batches
        self.every = config.training.evaluate_every
        self.losses_every = config.training.losses_every
        self.at_start = config.training.evaluate_at_start
        self.file = None if folder is None else folder / "steps.jsonl"
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
        self._losses = ["loss", *getattr(loop.model.loss, "parts", ())]
        # Steps of the epoch at the last line with losses, and the sums of these over them.
        self._told = tf.Variable(tf.zeros(1 + len(self._losses), tf.float64), trainable=False)
        self._logs: dict[str, Any] = {}

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint must hold, so that a mean begins where its line says."""
        return {"told": self._told} if self.losses_every else {}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._logs = logs or {}

    def before_first(self, position: Position) -> None:
        """Drops the lines of what will be done again, and writes that of step 0."""
        done = self.loop.position.step
        if self.file is not None and self.file.exists():
            redone = not done or position.step_in_epoch == self.batches.steps_in(position.epoch)
            kept = [line for line in self._lines() if line["step"] < done + (not redone)]
            with disk_errors(f"{self.file} cannot be written", GO_ON):
                write_whole(self.file, "".join(to_json(line) + "\n" for line in kept))
        if self.at_start and not done:
            self._look(0, evaluates=True)

    def due_in(self, position: Position) -> int | None:
        everies = filter(None, (self.every, self.losses_every))
        due = [every - self.loop.position.step % every for every in everies]
        if self._is_last(position.epoch):
            due += [s - position.step_in_epoch for s in self._last if s > position.step_in_epoch]
        return min(due, default=None)

    def after_call(self, position: Position, steps: int) -> None:
        """Looks, if it is time and no epoch's end, which has its own line."""
        epoch, here = position.epoch, position.step_in_epoch
        measures = self._is_last(epoch) and here in self._last
        done = self.loop.position.step
        evaluates = self.every is not None and done % self.every == 0
        loses = self.losses_every is not None and done % self.losses_every == 0
        if here < self.batches.steps_in(epoch):
            losses = self._means(here, self._logs) if loses else {}
            if measures or evaluates:
                self._look(epoch + 1, evaluates=evaluates, losses=losses)
            elif losses:
                self._write(epoch + 1, losses)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the line of the epoch's end; adds what the last epoch's lines say together."""
        is_last = bool(self._last) and self._is_last(epoch)
        if logs is None or not (self.every or self.losses_every or self.at_start or is_last):
            return
        steps = self.loop.position.step_in_epoch
        losses = self._means(steps, logs) if self.losses_every else {}
        self._told.assign(tf.zeros_like(self._told))
        shown = {name: v for name, v in logs.items() if name.startswith("val_") or "/" in name}
        self._write(epoch + 1, losses | shown)
        if is_last and self.file is not None:
            begin = self.loop.position.step - self._last[-1]
            wanted = {begin + step for step in self._last}
            logs |= _mean_and_std([line for line in self._lines() if line["step"] in wanted])

    def _is_last(self, epoch: int) -> bool:
        return epoch + 1 == self.batches.epochs

    def _means(self, steps: int, logs: Mapping[str, Any]) -> dict[str, float]:
        """Losses over the steps since they were told, of the running means of an epoch."""
        sums = [steps * float(logs[name]) for name in self._losses]
        before, now = self._told.numpy(), np.array([steps, *sums])
        if now[0] <= before[0]:
            return {}  # nothing was trained since
        self._told.assign(now)
        told = (now[1:] - before[1:]) / (now[0] - before[0])
        return dict(zip(self._losses, told.tolist(), strict=True))

    def _look(self, epoch: int, *, evaluates: bool, losses: dict[str, float] | None = None) -> None:
        results = self.loop.test_images.in_between() if evaluates else {}
        readings = self._monitor.readings() if self._monitor else {}
        results = {f"val_{name}": value for name, value in results.items()}
        self._write(epoch, (losses or {}) | results | readings)

    def _write(self, epoch: int, values: dict[str, Any]) -> None:
        if self.file is not None:
            step, values = self.loop.position.step, floats(values)
            with disk_errors(f"{self.file} cannot be written", GO_ON):
                append_line(self.file, to_json({"step": step, "epoch": epoch} | values))
            self._show(step, values)

    def _lines(self) -> list[dict[str, Any]]:
        assert self.file is not None
        try:
            with disk_errors(f"{self.file} cannot be read"):
                lines = json_lines(self.file.read_text())
            for number, line in enumerate(lines, 1):
                if not (isinstance(line, dict) and isinstance(line.get("step"), int)):
                    raise ValueError(f"has no table with a step at line {number}")
            return lines
        except ValueError as error:
            why = "is not a text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise UserError(
                f"{self.file} {why}. Restore it, or remove it: the run goes on with the steps to "
                f"come."
            ) from error


def _mean_and_std(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of what all lines have of layers, as `<measure>_mean/<layer>` and `<measure>_std/<layer>`."""
    names = [name for name in lines[-1] if "/" in name and all(name in line for line in lines)]
    found: dict[str, float] = {}
    for name in names:
        measure, _, layer = name.partition("/")
        values = np.array([line[name] for line in lines], float)  # NaN where a line has null
        found[f"{measure}_mean/{layer}"] = float(values.mean())
        found[f"{measure}_std/{layer}"] = float(values.std(ddof=1))
    return found
