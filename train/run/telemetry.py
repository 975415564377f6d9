"""What a run says about its own speed, in the logs of every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

import tfweightmirror as tfwm
from train.parts.schedules import learning_rate_now
from train.run.loop import Loop

MEASURES = ("images_per_second", "input_wait_share")
"""Names of what differs between two runs of equal numbers; so does `seconds`."""


class Telemetry(keras.callbacks.Callback):
    """Adds learning rate and speed to the logs; must stand behind `WeightMirror`.

    `learning_rate`: at the end of the epoch. `images_per_second`: training images over the time in
    training calls (their first one compiles). `input_wait_share`: the share of that time in which
    the next batch was waited for; left out under deterministic operations. The time of mirror mode
    inside the compiled step cannot be told from the rest.

    What mirror mode would cost where noise takes time, in a brain or on a chip:
    `mirror_samples_per_image/<layer>` are the noise samples fired on a layer so far in the phase,
    on all replicas and warm-up included, over its training images so far (a balanced sweep after
    every batch of m: fan-in / m) and `mirror_samples_per_image` their sum, layers firing one after
    another.

    Args:
        loop: The loop that trains.
        batch_size: Images in a global batch.
        callbacks: The run's others, among which mirrors are found.
        several_phases: Whether the logs have `phase`, counted from 1 as epochs are.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        batch_size: int,
        callbacks: Sequence[Any],
        several_phases: bool = False,
    ) -> None:
        super().__init__()
        self.several_phases = several_phases
        self.loop = loop
        self.batch_size = batch_size
        self._mirrors = [c for c in callbacks if isinstance(c, tfwm.callbacks.WeightMirror)]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        if self.several_phases:
            logs["phase"] = self.loop.position.phase + 1
        images = self.loop.steps_trained * self.batch_size
        logs["learning_rate"] = learning_rate_now(self.model.optimizer)
        logs["images_per_second"] = _share_of(images, self.loop.training_s)
        if self.loop.times_input:
            logs["input_wait_share"] = _share_of(self.loop.waiting_s, self.loop.training_s)
        if self._mirrors:
            logs |= self._samples_per_image()

    def _samples_per_image(self) -> dict[str, float]:
        # Of the whole phase: what a resumed epoch saw itself depends on where it was killed.
        images = (self.loop.steps_done - self.loop.position.phase_step) * self.batch_size
        fired = {
            name: int(mirror.mirror_steps.numpy()) * samples / images
            for mirror in self._mirrors
            for name, samples in mirror.samples_per_step(self.model).items()
        }
        total = {"mirror_samples_per_image": sum(fired.values())}
        return {f"mirror_samples_per_image/{name}": n for name, n in fired.items()} | total


def _share_of(part: float, whole_s: float) -> float:
    """0 where there is no whole: no step was trained."""
    return part / whole_s if whole_s > 0 else 0.0
