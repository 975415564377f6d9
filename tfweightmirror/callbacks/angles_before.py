"""The weight angles just before the last mirror step, measured only if somebody asks for them."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.diagnostics import weight_angle_deg
from tfweightmirror.mirror.step import assign_on_replicas
from tfweightmirror.pathway import Pathway


class AnglesBefore:
    """Made before the first mirror step of a training.

    Attributes:
        variable: float32 (pathways,): the angles in degrees; NaN where nobody has asked yet.
    """

    def __init__(self, pathways: list[Pathway], step: TrainStep) -> None:
        self._pathways = pathways
        self._at_begin = [_as_it_is_now(pathway) for pathway in pathways]
        unknown = tf.fill([len(pathways)], float("nan"))
        self.variable = step.variable("angles_before_mirror", unknown)

    def measure(self) -> None:
        """Before a mirror step outside the train step."""
        self.variable.assign(_angles(self._pathways))

    def measure_in_step(self, due: tf.Tensor | None) -> None:
        """Before a mirror step inside it, if that is due: traced, in replica context."""
        now = _angles(self._pathways)
        now = now if due is None else tf.where(due, now, tf.convert_to_tensor(self.variable))
        assign_on_replicas([self.variable], [now])

    def read(self) -> dict[str, float]:
        """The angles by pathway name; before the second mirror step, those at the begin."""
        if self._at_begin and np.isnan(self.variable).all():
            self.variable.assign(_angles(self._at_begin))
        angles = self.variable.numpy()
        return {p.name: float(angle) for p, angle in zip(self._pathways, angles, strict=True)}

    def forget_begin(self) -> None:
        """The training goes on: whoever wants the angles at the begin has asked."""
        self._at_begin = []


def _as_it_is_now(pathway: Pathway) -> Pathway:
    """`pathway` with W and B of now, whatever becomes of its variables."""
    return dataclasses.replace(
        pathway,
        kernel=tf.convert_to_tensor(pathway.kernel),
        feedback_kernel=tf.convert_to_tensor(pathway.feedback_kernel),
    )


def _angles(pathways: list[Pathway]) -> tf.Tensor:
    return tf.stack([weight_angle_deg(pathway) for pathway in pathways])
