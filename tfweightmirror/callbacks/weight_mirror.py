"""Callback that runs mirror mode while a model trains."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.attendance import mirror_attends
from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.diagnostics import weight_angle_deg
from tfweightmirror.mirror.activation import activations_of
from tfweightmirror.mirror.memory import MirrorMemory, counter
from tfweightmirror.mirror.mirror_model import (
    assign_on_replicas,
    compiled_mirror,
    mirror_pathways,
    mirror_step,
)
from tfweightmirror.mirror.mode import Activation, MirrorMode
from tfweightmirror.mirror.noise import Gaussian
from tfweightmirror.mirror.schedule import Schedule
from tfweightmirror.pathway import Pathway


class WeightMirror(keras.callbacks.Callback):
    """Teaches the feedback kernels of `weight_mirror` layers by noise while the model trains.

    With no argument, a sweep of orthogonal noise in blocks of 64 cells runs before the first batch
    and after every batch, inside the compiled train step: B equals W whenever an error flows, so
    training equals backprop, and its accuracy says nothing about learning with imperfect feedback.
    For that, use `WeightMirror("gaussian")` (Akrout et al. 2019, eq. 5) or
    `WeightMirror.akrout2019()`. What exactness means is in docs/science.md.

    Works in `fit` on one device and under `tf.distribute.MirroredStrategy`, with
    `steps_per_execution`, and with any loop that calls `model.train_step` in replica context.

    Args:
        noise: A noise's name or a `tfweightmirror.mirror.noise.Noise`.
        schedule: When mirror mode runs; default: `Schedule()`.
        seed: Noise is a function of (seed, mirror step, place of the pathway in the model,
            replica).
        **options: The other options of `tfweightmirror.mirror.MirrorMode`.

    Attributes:
        mirror_steps: Mirror steps that its seed has fired on the model so far, an int64 variable
            (None before training). The model keeps it: it goes on counting over several `fit`s,
            with this callback or another of the same seed, and begins anew with another model.
        mirror_step_s: Seconds of a mirror step that ran outside the train step (warm-up, begin or
            end of an epoch), compilation left out; None before.

    Raises:
        ValueError: An option is out of range; at the begin of training: the model is not built, has
            no `weight_mirror` layer, or has no activation where one is needed.
    """

    def __init__(
        self,
        noise: Any = "orthogonal",
        *,
        schedule: Schedule | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.mode = MirrorMode(noise=noise, seed=seed, **options)
        self.schedule = schedule or Schedule()
        self.mirror_steps: Any = None
        self._seed = self.mode.seed % 2**31
        self.mirror_step_s: float | None = None
        self._batches: Any = None
        self._pathways: list[Pathway] = []
        self._activations: dict[str, Activation | None] = {}

    @classmethod
    def akrout2019(
        cls,
        *,
        std: float = 1.0,
        samples: int = 128,
        target_angle_deg: float = 12.0,
        decay: float | None = None,
        activations: Mapping[str, Any] | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
        **options: Any,
    ) -> "WeightMirror":
        """The paper's mode: Gaussian noise through the activation, biases on, decay.

        Akrout et al. 2019, eq. 7 to 12. Their noise and decay on ImageNet are not known; the
        released code (an MLP) has uniform noise on +-0.05 and no decay. With biases on, the angle
        has a floor unless the noise is large against them (docs/science.md).

        Args:
            std: Standard deviation of the noise.
            samples: Noise samples per mirror step, one step after every batch.
            target_angle_deg: Sets the decay, by the law for a linear response.
            decay: Sets it by hand.
            activations: Activations by pathway-name pattern, where the graph shows none: the output
                layer, if the loss takes logits.
            schedule: When mirror mode runs.
            seed: As above.
            **options: The other options of `tfweightmirror.mirror.MirrorMode`.
        """
        noise = Gaussian(std=std, samples=samples, decay=decay, target_angle_deg=target_angle_deg)
        paper = {"through_activation": True, "bias_blocking": False}
        return cls(
            noise,
            schedule=schedule,
            seed=seed,
            activations=activations or {},
            **{**paper, **options},
        )

    def samples_per_step(self, model: keras.Model) -> dict[str, int]:
        """Noise samples fired in one mirror step: `{pathway name: samples}`."""
        return {p.name: self.mode.samples(p) for p in mirror_pathways(model)}

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint of a running training must hold of this callback.

        There from `on_train_begin` on; to be restored after it, over what the warm-up did.
        """
        _, angles = TrainStep.of(self.model).angles_before_mirror
        return {
            "mirror_steps": self.mirror_steps,
            "batches": self._batches,
            "angles_before_mirror": angles,
        }

    def set_model(self, model: keras.Model) -> None:
        """Another model is another training, whose counters begin anew."""
        if model is not self.model:
            self._batches = None
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Warm up, and put mirror mode into the train step."""
        self._pathways = mirror_pathways(self.model)
        self._activations = activations_of(self._pathways, self.mode)
        self.mirror_steps = MirrorMemory.of(self.model).counter(self.model, self._seed)
        with self.model.distribute_strategy.scope():
            if self._batches is None:
                self._batches = counter("batches")
            angles = tf.Variable(
                tf.stack([weight_angle_deg(p) for p in self._pathways]),
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        step = TrainStep.of(self.model)
        step.angles_before_mirror = ([p.name for p in self._pathways], angles)
        step.add("mirror", self._around_step)
        step.predicted_angles["mirror"] = self._predicted_angles
        self._run(self.schedule.warm_up_steps)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Mirror mode at the begin of the epoch, if scheduled."""
        self._run(self.schedule.epoch_begin_steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Mirror mode at the end of the epoch, if scheduled."""
        self._run(self.schedule.epoch_end_steps)

    def on_train_end(self, logs: Any = None) -> None:
        """Give the model its own train step back."""
        step = TrainStep.existing(self.model)
        if step is not None:
            step.remove("mirror")

    def _predicted_angles(self) -> dict[str, float]:
        """Where the angles settle while W stands still, for pathways with a law."""
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        angles = {p.name: self.mode.predicted_angle_deg(p, replicas) for p in self._pathways}
        return {name: angle for name, angle in angles.items() if angle is not None}

    def _run(self, steps: int) -> None:
        """`steps` mirror steps now, outside the train step."""
        if not steps:
            return
        step = TrainStep.of(self.model)
        if step.monitored:
            _, angles = step.angles_before_mirror
            angles.assign(tf.stack([weight_angle_deg(p) for p in self._pathways]))
        run = compiled_mirror(self.model, self._pathways, self.mode)
        first_step, seed = tf.cast(self.mirror_steps, tf.int32), tf.constant(self._seed)
        run(first_step, tf.constant(0), seed)  # compiles, and does nothing
        self._wait()
        begin_s = time.perf_counter()
        run(first_step, tf.constant(steps), seed)
        self._wait()
        self.mirror_step_s = (time.perf_counter() - begin_s) / steps
        self.mirror_steps.assign_add(steps)

    def _wait(self) -> None:
        """Until the devices have done what they were given."""
        for pathway in self._pathways:
            tf.reduce_max(tf.convert_to_tensor(pathway.feedback_kernel)).numpy()

    @contextlib.contextmanager
    def _around_step(self) -> Iterator[None]:
        """The train step, then mirror mode if it is due: traced, in replica context."""
        with mirror_attends():
            yield
        every = self.schedule.every_batches
        if every is None:
            return
        batches = tf.convert_to_tensor(self._batches) + 1
        done = tf.convert_to_tensor(self.mirror_steps)
        due = None if every == 1 else tf.equal(batches % every, 0)
        step = TrainStep.of(self.model)
        if step.monitored:
            _, angles = step.angles_before_mirror
            now = tf.stack([weight_angle_deg(p) for p in self._pathways])
            now = now if due is None else tf.where(due, now, tf.convert_to_tensor(angles))
            assign_on_replicas([angles], [now])
        steps = self.schedule.steps
        mirror_step(self._pathways, self.mode, self._activations, done, steps, due)
        fired = steps if due is None else tf.where(due, steps, 0)
        assign_on_replicas(
            [self.mirror_steps, self._batches], [done + tf.cast(fired, tf.int64), batches]
        )
