"""Callback that measures how well feedback follows forward weights."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.diagnostics import norm_ratio, weight_angle_deg
from tfweightmirror.pathway import Pathway
from tfweightmirror.walk import pathways


class FeedbackMonitor(keras.callbacks.Callback):
    """Puts weight angles and norm ratios of every pathway into `logs` at each epoch's end.

    `weight_angle/<pathway>` (degrees) is the angle between W and what carries the error, as the
    next error will flow; `norm_ratio/<pathway>` is `|carrier| / |W|`. Under `WeightMirror` there is
    a second reading, `weight_angle_before_mirror/<pathway>`: just before the last mirror step.
    History has them, and so have CSVLogger and TensorBoard if they stand behind this callback, and
    `WeightMirror` (if it mirrors at epoch ends) before it.

    Args:
        log_dir: Folder for event files with these scalars under their own names; None: no files
            (Keras' TensorBoard callback writes them as `epoch_...`).
        norm_ratios: Whether to measure norm ratios.

    Raises:
        ValueError: At the begin of training: the model has no feedback layer, or is not built.
    """

    def __init__(self, log_dir: str | None = None, *, norm_ratios: bool = True) -> None:
        super().__init__()
        self.log_dir = log_dir
        self.norm_ratios = norm_ratios
        self._measured: list[Pathway] = []
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the pathways, and ask the mirror for its second reading."""
        self._measured = pathways(self.model)
        if not self._measured:
            raise ValueError(
                f"FeedbackMonitor found no feedback layer in '{self.model.name}': convert the "
                "model first, or leave the callback out."
            )
        TrainStep.of(self.model).monitored = True
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

        @tf.function(autograph=False)
        def measure() -> dict[str, tf.Tensor]:
            readings = {"weight_angle": tf.stack([weight_angle_deg(p) for p in self._measured])}
            if self.norm_ratios:
                readings["norm_ratio"] = tf.stack([norm_ratio(p) for p in self._measured])
            return readings

        self._measure = measure

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure all layers in one compiled call."""
        names = [pathway.name for pathway in self._measured]
        readings = {
            f"{measure}/{name}": float(value)
            for measure, values in self._measure().items()
            for name, value in zip(names, values.numpy(), strict=True)
        }
        step = TrainStep.of(self.model)
        if step.angles_before_mirror is not None:
            mirrored, angles = step.angles_before_mirror
            for name, value in zip(mirrored, angles.numpy(), strict=True):
                readings[f"weight_angle_before_mirror/{name}"] = float(value)
        if logs is not None:
            logs.update(readings)
        if self._writer is not None:
            with self._writer.as_default():
                for name, value in readings.items():
                    tf.summary.scalar(name, value, step=epoch)
            self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the event file."""
        step = TrainStep.existing(self.model)
        if step is not None:
            step.monitored = False
            step.undo_if_unused()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
