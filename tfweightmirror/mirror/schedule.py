"""When mirror mode runs."""

import dataclasses
import numbers


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When the callback runs mirror mode, and for how many mirror steps.

    The default is one step before the first batch and one after every batch.

    Args:
        every_batches: Run `steps` mirror steps after every so many batches; None: never.
        steps: Mirror steps each time.
        warm_up_steps: Mirror steps before the first batch of `fit`.
        epoch_begin_steps: Mirror steps at the begin of every epoch.
        epoch_end_steps: Mirror steps at the end of every epoch.

    Raises:
        ValueError: A number is out of range, or the schedule never runs.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> tfwm.convert_model(model, "weight_mirror").compile("sgd", "mse")
        >>> schedule = tfwm.mirror.Schedule(every_batches=2, warm_up_steps=20)
        >>> x, y, mirror = np.eye(4), np.eye(4, 3), tfwm.callbacks.WeightMirror(schedule=schedule)
        >>> history = model.fit(x, y, batch_size=1, callbacks=[mirror], verbose=0)
        >>> int(mirror.mirror_steps)  # 20, and one after every second of four batches
        22
    """

    every_batches: int | None = 1
    steps: int = 1
    warm_up_steps: int = 1
    epoch_begin_steps: int = 0
    epoch_end_steps: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, numbers.Integral) and (name, value) != ("every_batches", None):
                raise ValueError(
                    f"{name} of a mirror schedule must be a whole number. Received: {value!r}."
                )
        if self.every_batches is not None:
            for name in ("every_batches", "steps"):
                if getattr(self, name) < 1:
                    raise ValueError(
                        f"{name} of a mirror schedule must be at least 1. "
                        f"Received: {getattr(self, name)!r}. For no mirror mode after batches, "
                        "use every_batches=None."
                    )
        around = ("warm_up_steps", "epoch_begin_steps", "epoch_end_steps")
        for name in around:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} of a mirror schedule must not be negative. "
                    f"Received: {getattr(self, name)!r}."
                )
        if self.every_batches is None and not any(getattr(self, name) for name in around):
            raise ValueError(
                "This mirror schedule never runs: every_batches is None and all steps are 0. "
                "Give it something to do, or leave the callback out."
            )

    def mirror_steps(self, batches: int, epochs: int) -> int:
        """Mirror steps of a training that has gone through so many batches and epochs in all.

        Args:
            batches: Batches, of all epochs.
            epochs: Epochs.

        Examples:
            >>> schedule = tfwm.mirror.Schedule(every_batches=10, epoch_end_steps=5)
            >>> schedule.mirror_steps(batches=1_000, epochs=2)  # 1 before, 100 between, 10 at ends
            111
        """
        around = epochs * (self.epoch_begin_steps + self.epoch_end_steps)
        after = 0 if self.every_batches is None else batches // self.every_batches * self.steps
        return self.warm_up_steps + around + after
