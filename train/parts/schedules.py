"""Learning rates over the steps of a run, in a form that a rollback can reduce."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from train.config import ScheduleConfig
from train.errors import UserError
from train.parts.named import checked_options, classes_of, find, options_of, refusals


@keras.saving.register_keras_serializable(package="tfweightmirror_train")
class ReducibleSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A Keras schedule, or a number, with a linear warm-up, times a variable.

    `rate(step) = scale * min(step / warm_up_steps, 1) * schedule(step)`, the ramp as in Keras'
    `CosineDecay`. The steps that are already compiled see a new `scale`.
    """

    def __init__(self, schedule: Any, *, warm_up_steps: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        saved = isinstance(schedule, dict)
        self.schedule = keras.saving.deserialize_keras_object(schedule) if saved else schedule
        self.warm_up_steps = warm_up_steps
        # Assigned between steps, so replicas hold the same number; the first one's counts.
        self.scale = tf.Variable(
            scale,
            trainable=False,
            dtype=tf.float32,
            name="learning_rate_scale",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def __call__(self, step: Any) -> Any:
        """The learning rate of training step `step`, counted from 0."""
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        if self.warm_up_steps:
            risen = tf.cast(tf.convert_to_tensor(step), tf.float32) / self.warm_up_steps
            rate = rate * tf.minimum(risen, 1.0)
        return tf.convert_to_tensor(self.scale) * rate

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "warm_up_steps": self.warm_up_steps,
            "scale": float(self.scale.numpy()),
        }


def known_schedules() -> dict[str, Any]:
    """The schedules of Keras by name."""
    schedules = keras.optimizers.schedules
    return classes_of(schedules, schedules.LearningRateSchedule)


def build_schedule(
    config: ScheduleConfig, learning_rate: float, *, steps_per_epoch: int, steps: int
) -> Any:
    """The learning rate as an optimizer takes it: a number, if it never changes, or a schedule.

    Boundaries of `piecewise` count from the begin of the training, warm-up included (Goyal et al.
    2017); `cosine` (Loshchilov and Hutter 2017) falls from the end of the warm-up to that of the
    training.
    """
    warm_up_steps = config.warm_up_steps or round(config.warm_up_epochs * steps_per_epoch)
    if warm_up_steps >= steps:
        key = "warm_up_steps" if config.warm_up_steps else "warm_up_epochs"
        raise UserError(
            f"optimizer.schedule.{key} is {getattr(config, key):g}, {warm_up_steps} of {steps} "
            f"training steps. Expected a warm-up that ends before the training."
        )
    schedules = keras.optimizers.schedules
    schedule: Any = learning_rate
    if config.name == "piecewise":
        in_steps = [round(epoch * steps_per_epoch) for epoch in config.boundaries_epochs]
        # Keras' boundary is the last step of the old rate, and steps count from 0.
        boundaries = [step - 1 for step in in_steps or config.boundaries_steps]
        values = [learning_rate * config.factor**drop for drop in range(len(boundaries) + 1)]
        schedule = schedules.PiecewiseConstantDecay(boundaries, values)
    elif config.name == "cosine":
        # Keras' own warm-up is given a flat ramp: it only puts off the begin of the cosine.
        schedule = schedules.CosineDecay(
            learning_rate,
            decay_steps=steps - warm_up_steps,
            alpha=config.final_factor,
            warmup_target=learning_rate if warm_up_steps else None,
            warmup_steps=warm_up_steps,
        )
    elif config.name != "constant":
        ours = dict.fromkeys(("constant", "piecewise", "cosine"))
        target = find("optimizer.schedule.name", config.name, ours | known_schedules())
        rate = "initial_learning_rate"
        given = {rate: learning_rate} if rate in options_of(target) else {}
        key = "optimizer.schedule.options"
        options = checked_options(key, target, config.options, set_by_us=given)
        with refusals(f"optimizer.schedule.name={config.name} refuses"):
            schedule = target(**given, **options)
        if not isinstance(schedule, schedules.LearningRateSchedule):
            raise UserError(
                f"optimizer.schedule.name={config.name} is {target!r}. Expected a subclass of "
                f"keras.optimizers.schedules.LearningRateSchedule."
            )
    elif not warm_up_steps:
        return learning_rate
    return ReducibleSchedule(schedule, warm_up_steps=warm_up_steps)


def learning_rate_now(optimizer: Any) -> float:
    """The learning rate of the next step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def reduce_learning_rate(optimizer: Any, factor: float) -> None:
    """Multiplies the learning rate of all steps to come by `factor`.

    Compiled steps see it; a checkpoint keeps it if it holds the optimizer's variables and
    `rate_variables`.
    """
    variable, *_ = rate_variables(optimizer) or [optimizer.learning_rate]
    variable.assign(variable * factor)


def rate_variables(optimizer: Any) -> list[Any]:
    """What a checkpoint must hold of the learning rate beyond `optimizer.variables`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # below loss scaling
    # Keras gives a schedule's value in public, the schedule only so.
    schedule = inner._learning_rate
    return [schedule.scale] if isinstance(schedule, ReducibleSchedule) else []
