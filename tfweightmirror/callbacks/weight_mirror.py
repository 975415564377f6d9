"""Callback that runs mirror mode while a model trains."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import fit_hooks
from tfweightmirror._internals.attendance import mirror_attends
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import pathways
from tfweightmirror.callbacks.angles_before import AnglesBefore
from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.mirror.activation import activations_of
from tfweightmirror.mirror.memory import MirrorMemory
from tfweightmirror.mirror.mode import Activation, MirrorMode
from tfweightmirror.mirror.noise import Gaussian
from tfweightmirror.mirror.schedule import Schedule
from tfweightmirror.mirror.step import (
    assign_on_replicas,
    compiled_mirror,
    mirror_pathways,
    mirror_step,
    read_of,
)
from tfweightmirror.pathway import Pathway


class WeightMirror(keras.callbacks.Callback):
    """Teaches the feedback kernels of `weight_mirror` layers by noise while the model trains.

    With no argument, a sweep of orthogonal noise, in blocks of up to 64 cells, runs before the
    first batch and after every batch, inside the compiled train step: B equals W when the next step
    begins. So training equals backprop (if a step updates W once, after all its errors), and its
    accuracy says nothing about learning with imperfect feedback. For that, use
    `WeightMirror("gaussian")` (Akrout et al. 2019, eq. 5) or `WeightMirror.akrout2019()`. What
    exactness means is in docs/science.md.

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
            `BackupAndRestore` does not keep it: after a restore (or with `initial_epoch > 0`) it
            goes on from a number above all that can have been fired.

    Raises:
        ValueError: An option is out of range; at the begin of training: the model is not built, has
            no `weight_mirror` layer, or has no activation where one is needed.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> tfwm.convert_model(model, "weight_mirror").compile("sgd", "mse")
        >>> x, y, mirror = np.eye(4), np.eye(4, 3), tfwm.callbacks.WeightMirror()
        >>> history = model.fit(x, y, batch_size=2, callbacks=[mirror], verbose=0)
        >>> int(mirror.mirror_steps)  # before the first of two batches, and after each
        3
        >>> round(tfwm.weight_angles(model)["head"], 2)
        0.0
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
        self._batches: Any = None
        self._batches_done = 0
        self._angles: Any = None
        self._step: Any = None
        self._changes = 0
        self._begins = False
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
        """The paper's mode: independent noise through the activation, biases on, decay.

        Akrout et al. 2019, eq. 7 to 12. The paper names no distribution, only independent cells,
        mean zero and equal variance, which its derivation wants small; Gaussian noise of standard
        deviation 1 is ours. Its variance, samples, decay and schedule are in an appendix that we do
        not have; the released code (MLPs alone) has uniform noise on +-0.05 and no decay. With
        biases on, the angle has a floor unless the noise is large against them (docs/science.md).

        Args:
            std: Standard deviation of the noise; 1 is not small.
            samples: Noise samples per mirror step, one step after every batch.
            target_angle_deg: Sets the decay, by the law for a linear response.
            decay: Sets it by hand.
            activations: Activations by pathway-name pattern, where the graph shows none: the output
                layer, if the loss takes logits.
            schedule: When mirror mode runs.
            seed: As above.
            **options: The other options of `tfweightmirror.mirror.MirrorMode`.

        Examples:
            >>> paper = tfwm.callbacks.WeightMirror.akrout2019(activations={"head": "linear"})
            >>> paper.mode.noise.name, paper.mode.through_activation, paper.mode.bias_blocking
            ('gaussian', True, False)
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
        """Noise samples fired in one mirror step: `{pathway name: samples}`.

        All replicas fire the same balanced noise, each its own independent noise.

        Examples:
            >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(10, name="head")])
            >>> model = tfwm.convert_model(model, "weight_mirror")
            >>> tfwm.callbacks.WeightMirror("gaussian").samples_per_step(model)
            {'head': 128}
            >>> tfwm.callbacks.WeightMirror("impulse").samples_per_step(model)  # each cell once
            {'head': 100}
        """
        replicas = model.distribute_strategy.num_replicas_in_sync
        own = 1 if self.mode.noise.balanced else replicas
        return {p.name: own * self.mode.samples(p) for p in mirror_pathways(model)}

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint of a running training must hold of this callback.

        There from `on_train_begin` on; to be restored after it, over what the warm-up did.
        """
        return {
            "mirror_steps": self.mirror_steps,
            "batches": self._batches,
            "angles_before_mirror": self._angles.variable,
        }

    def set_model(self, model: keras.Model) -> None:
        """Another model is another training, whose counters begin anew."""
        if model is not self.model:
            self._batches_done = 0
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Warm up, and put mirror mode into the train step."""
        self._pathways = mirror_pathways(self.model)
        self._activations = activations_of(self._pathways, self.mode)
        memory = MirrorMemory.of(self.model)
        self.mirror_steps, self._changes = memory.counter(self.model, self._seed), memory.changes
        step = self._step = TrainStep.of(self.model)
        leave = functools.partial(self._leave, step)
        step.add("mirror", self._around_step, leave, self._read_by_trace)
        self._batches = step.variable("batches", tf.constant(self._batches_done, tf.int64))
        self._angles = AnglesBefore(self._pathways, step)
        step.angles_before_mirror = self._angles.read
        step.predicted_angles["mirror"] = self._predicted_angles
        if fit_hooks.was_restored(self.model):
            self._skip_fired_noise(epoch=0)
        self._run(self.schedule.warm_up_steps)
        self._begins = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Mirror mode at the begin of the epoch, if scheduled."""
        # Callbacks behind this one may have restored in their `on_train_begin`.
        if self._begins and (epoch > 0 or fit_hooks.was_restored(self.model)):
            self._skip_fired_noise(epoch)
        if self._begins and self._step.monitored:
            self._angles.read()
        self._angles.forget_begin()
        self._begins = False
        self._run(self.schedule.epoch_begin_steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Mirror mode at the end of the epoch, if scheduled."""
        self._run(self.schedule.epoch_end_steps)

    def on_train_end(self, logs: Any = None) -> None:
        """Give the model its own train step back."""
        if self._step is not None:
            self._step.remove("mirror", self._around_step)
        self._step, self._pathways, self._activations = None, [], {}

    def _leave(self, step: TrainStep) -> None:
        """The variables of the step are those of the next training, under whatever callback."""
        if step is self._step and self._batches is not None:
            self._batches_done = int(self._batches.numpy())
        step.angles_before_mirror = None

    def _skip_fired_noise(self, epoch: int) -> None:
        """Count on behind what an interrupted training has fired, if its count is lost."""
        updates, accumulated = 0, 1
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if optimizer is not None:
            updates = int(tf.convert_to_tensor(optimizer.iterations))  # of replicas, too
            accumulated = optimizer.gradient_accumulation_steps or 1
        if self.mirror_steps.numpy() < self.schedule.mirror_steps(updates, epoch):
            # Twice: batches may have had no update, and each restore has a warm-up of its own.
            self.mirror_steps.assign(2 * self.schedule.mirror_steps(updates * accumulated, epoch))

    def _predicted_angles(self) -> dict[str, float]:
        """Where the angles settle while W stands still, for pathways with a law."""
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        angles = {p.name: self.mode.predicted_angle_deg(p, replicas) for p in self._pathways}
        return {name: angle for name, angle in angles.items() if angle is not None}

    def _run(self, steps: int) -> None:
        """`steps` mirror steps now, outside the train step."""
        if not steps:
            return
        self._check_layers()
        if self._step.monitored:
            self._angles.measure()
        run = compiled_mirror(self.model, self._pathways, self.mode)
        run(tf.cast(self.mirror_steps, tf.int32), tf.constant(steps), tf.constant(self._seed))
        self.mirror_steps.assign_add(steps)

    def _check_layers(self) -> None:
        """Refuse to teach feedback kernels that the model has no longer, or to leave new ones out.

        Layers may be converted or stripped in mid-training, which traces the step anew.
        """
        changes = MirrorMemory.of(self.model).changes
        if changes == self._changes:
            return
        with tf.init_scope():  # may be within the traced step
            now = [p for p in pathways(self.model) if p.rule.learns_by == "mirror"]
        if {id(p.feedback_kernel) for p in now} != {id(p.feedback_kernel) for p in self._pathways}:
            raise ValueError(
                f"The 'weight_mirror' layers of '{self.model.name}' were converted or stripped in "
                "the middle of a training under WeightMirror, which teaches those that it found "
                "at the begin. Let this fit end, change the layers, and begin another."
                + see("converted-in-the-middle-of-a-training")
            )
        self._changes = changes

    def _read_by_trace(self) -> list[Any]:
        """All that `_around_step` makes of a trace what it is."""
        return [
            type(self),
            (self.mode, dict(getattr(self.mode.noise, "__dict__", {}))),  # it may change in place
            (self.schedule.every_batches, self.schedule.steps),
            self._activations,
            self._step.monitored,
            [read_of(pathway) for pathway in self._pathways],
            [self.mirror_steps, self._batches, self._angles.variable],
        ]

    @contextlib.contextmanager
    def _around_step(self) -> Iterator[None]:
        """The train step, then mirror mode if it is due: traced, in replica context."""
        with mirror_attends():
            yield
        self._check_layers()
        every = self.schedule.every_batches
        if every is None:
            return
        batches = tf.convert_to_tensor(self._batches) + 1
        done = tf.convert_to_tensor(self.mirror_steps)
        due = None if every == 1 else tf.equal(batches % every, 0)
        if self._step.monitored:
            self._angles.measure_in_step(due)
        steps = self.schedule.steps
        mirror_step(self._pathways, self.mode, self._activations, done, steps, due)
        fired = steps if due is None else tf.where(due, steps, 0)
        assign_on_replicas(
            [self.mirror_steps, self._batches], [done + tf.cast(fired, tf.int64), batches]
        )
