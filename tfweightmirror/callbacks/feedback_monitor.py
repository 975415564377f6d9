"""Callback that measures how well feedback follows forward weights."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import pathways
from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.diagnostics import WEIGHT_MEASURES
from tfweightmirror.diagnostics.deltas import Probe
from tfweightmirror.diagnostics.measures import OF_CARRIER
from tfweightmirror.pathway import Pathway

Measure = Callable[[Pathway], tf.Tensor]

PREDICTED = "predicted_weight_angle"


class FeedbackMonitor(keras.callbacks.Callback):
    """Puts weight angles and other measures of every pathway into `logs` at each epoch's end.

    `weight_angle/<pathway>` (degrees) is the angle between W and what carries the error, as the
    next error will flow; `norm_ratio/<pathway>` is `|carrier| / |W|`. Under `WeightMirror` there is
    a second reading, `weight_angle_before_mirror/<pathway>`: just before the last mirror step.
    History has them, and so have CSVLogger and TensorBoard if they stand behind this callback, and
    `WeightMirror` (if it mirrors at epoch ends) before it. Layers under `direct_feedback_alignment`
    or `no_feedback` have neither, since nothing stands in W's place: measure delta angles there.

    Args:
        log_dir: Folder for event files with these scalars under their own names; None: no files
            (Keras' TensorBoard callback writes them as `epoch_...`).
        measures: What to measure of each pathway: names of
            `tfweightmirror.diagnostics.WEIGHT_MEASURES`, of which all together are one compiled
            call; `"predicted_weight_angle"`: what the angle law of mirror mode (for a W that stands
            still) or Kolen-Pollack's gap law (at the present norms) predicts, where one holds; or
            `{name: function}` with functions of your own, from a `Pathway` to a scalar tensor.
        probe: A batch (x, y) or (x, y, sample_weight) to measure delta angles on:
            `delta_angle/<pathway>` (degrees) as `tfweightmirror.delta_angles`, one training step's
            cost each time. None: no delta angles.
        delta_angles: Whether to measure them, where there is a `probe`.
        gradient_angles: Whether to measure `gradient_angle/<variable>` on `probe`, too.

    Raises:
        ValueError: A measure is not known, log_dir is no path, or gradient angles were asked for
            without a probe. At the begin of training: the model has no feedback layer or is not
            built, or its errors cannot be seen (`tfweightmirror.delta_angles`).

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> tfwm.convert_model(model, "feedback_alignment").compile("sgd", "mse")
        >>> x, y = np.eye(4), np.eye(4, 3)
        >>> monitor = tfwm.callbacks.FeedbackMonitor(measures=["weight_angle"], probe=(x, y))
        >>> logs = model.fit(x, y, epochs=2, callbacks=[monitor], verbose=0).history
        >>> sorted(logs), logs["delta_angle/head"]  # the last layer's error is backprop's
        (['delta_angle/head', 'loss', 'weight_angle/head'], [0.0, 0.0])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        measures: Sequence[str] | Mapping[str, Measure] = ("weight_angle", "norm_ratio"),
        probe: Sequence[Any] | None = None,
        delta_angles: bool = True,
        gradient_angles: bool = False,
    ) -> None:
        super().__init__()
        if not (log_dir is None or isinstance(log_dir, (str, os.PathLike))):
            raise ValueError(
                f"log_dir of FeedbackMonitor is {log_dir!r}. Expected a folder's path, or None; "
                "measures are given by name: measures=[...]."
            )
        known = [*WEIGHT_MEASURES, PREDICTED]
        own = isinstance(measures, Mapping)
        if isinstance(measures, str) or not (own or set(measures) <= set(known)):
            raise ValueError(
                f"measures of FeedbackMonitor is {measures!r}. Expected a list of names out of "
                f"{', '.join(known)}, or a dict of functions of your own."
            )
        if gradient_angles and probe is None:
            raise ValueError(
                "gradient_angles=True needs a batch to measure on: pass probe=(x, y) as well."
            )
        self.log_dir = log_dir
        self.predicts = PREDICTED in measures
        self.measures: dict[str, Measure] = (
            dict(measures)
            if isinstance(measures, Mapping)
            else {name: WEIGHT_MEASURES[name] for name in measures if name != PREDICTED}
        )
        self.probe = None if probe is None else (*probe, None, None)[:3]
        self.delta_angles = delta_angles
        self.gradient_angles = gradient_angles
        self._measured: list[Pathway] = []
        self._probe: Probe | None = None
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the pathways, and ask the mirror for its second reading."""
        self._measured = pathways(self.model)
        if not self._measured:
            raise ValueError(
                f"FeedbackMonitor found no feedback layer in '{self.model.name}': convert the "
                "model first, or leave the callback out." + see("feedbackmonitor-finds-nothing")
            )
        if self.probe is not None:
            self._probe = Probe(self.model, self.probe)
            self._angles_on_probe()  # what cannot be measured is refused before the training
        TrainStep.of(self.model).monitored = True
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

        self._of_measure = {name: self._pathways_for(name) for name in self.measures}
        if self.measures and self._probe is None and not any(self._of_measure.values()):
            warnings.warn(
                f"FeedbackMonitor has nothing to measure in '{self.model.name}': under its rules "
                "nothing stands in W's place, so that "
                f"{', '.join(self.measures)} do not exist. Pass probe=(x, y) for delta angles."
                + see("no-weight-angle"),
                UserWarning,
                stacklevel=stacklevel_of_user(),
            )

        @tf.function(autograph=False)
        def measure() -> dict[str, tf.Tensor]:
            return {
                name: tf.stack([self.measures[name](pathway) for pathway in of_measure])
                for name, of_measure in self._of_measure.items()
                if of_measure
            }

        self._measure = measure

    def readings(self) -> dict[str, float]:
        """All measures now, by `<measure>/<pathway>`: all layers in one compiled call.

        There while the model trains, from `on_train_begin` on.
        """
        readings = {
            f"{measure}/{pathway.name}": float(value)
            for measure, values in self._measure().items()
            for pathway, value in zip(self._of_measure[measure], values.numpy(), strict=True)
        }
        step = TrainStep.of(self.model)
        if step.angles_before_mirror is not None:
            for name, angle in step.angles_before_mirror().items():
                readings[f"weight_angle_before_mirror/{name}"] = angle
        for predicted in step.predicted_angles.values() if self.predicts else ():
            readings |= {f"{PREDICTED}/{name}": angle for name, angle in predicted().items()}
        return readings | self._angles_on_probe()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put all measures into the logs."""
        readings = self.readings()
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

    def _pathways_for(self, measure: str) -> list[Pathway]:
        """Those that have this measure, which may be one of the user's own, of any name."""
        if self.measures[measure] is not WEIGHT_MEASURES.get(measure):
            return self._measured
        return [p for p in self._measured if p.rule.has_carrier or measure not in OF_CARRIER]

    def _angles_on_probe(self) -> dict[str, float]:
        if self._probe is None:
            return {}
        angles: dict[str, float] = {}
        if self.delta_angles:
            deltas = self._probe.delta_angles()
            angles |= {f"delta_angle/{k}": float(v) for k, v in deltas.items()}
        if self.gradient_angles:
            gradients = self._probe.gradient_angles()
            angles |= {f"gradient_angle/{k}": float(v) for k, v in gradients.items()}
        return angles
