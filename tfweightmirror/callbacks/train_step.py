"""How callbacks put work into a model's compiled train step, and take it out again."""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import keras

Around = Callable[[], contextlib.AbstractContextManager[None]]


class TrainStep:
    """The extended train step of one model.

    A callback after the batch would be late whenever `steps_per_execution > 1`, so work is put
    around `model.train_step` itself, in replica context. Everything is undone when the last
    callback leaves, and, since Keras does not call `on_train_end` after an exception, at the latest
    when the next `fit` asks for its train function.

    Attributes:
        monitored: Whether somebody reads `angles_before_mirror`.
        angles_before_mirror: Pathway names and a float32 vector variable of their weight angles in
            degrees just before the last mirror step; None if no mirror runs.
        predicted_angles: By stage: gives the weight angles in degrees that a law predicts now.
    """

    # Where in the step a kind of work stands: the later number ends first.
    STAGES: ClassVar[dict[str, int]] = {"mirror": 0, "kolen_pollack": 1}

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.monitored = False
        self.angles_before_mirror: Any = None
        self.predicted_angles: dict[str, Callable[[], dict[str, float]]] = {}
        self._around: dict[str, Around] = {}
        self._cleanups: list[Callable[[], None]] = []
        self._extended = False
        self._own_step = model.__dict__.get("train_step")
        step = model.train_step

        def train_step(*args: Any, **kwargs: Any) -> Any:
            with contextlib.ExitStack() as stack:
                for stage in sorted(self._around, key=self.STAGES.__getitem__):
                    stack.enter_context(self._around[stage]())
                return step(*args, **kwargs)

        def make_train_function(force: bool = False) -> Any:
            # A new fit begins: whoever extended the step before has ended, or has failed.
            self.undo()
            return model.make_train_function(force=force)

        train_step.extension = self  # type: ignore[attr-defined]  # found again by `of`
        model.train_step = train_step
        model.make_train_function = make_train_function

    @classmethod
    def of(cls, model: keras.Model) -> "TrainStep":
        """The extended train step of `model`, made if there is none."""
        return getattr(model.train_step, "extension", None) or cls(model)

    @classmethod
    def existing(cls, model: keras.Model) -> "TrainStep | None":
        """The extended train step of `model`, or None."""
        return getattr(model.train_step, "extension", None)

    def add(self, stage: str, around: Around, cleanup: Callable[[], None] | None = None) -> None:
        """Put `around` (a context around every step) into the compiled step."""
        if stage in self._around:
            raise ValueError(
                f"'{self.model.name}' is already trained with a {stage} callback: pass one only."
            )
        self._around[stage] = around
        self._extended = True
        if cleanup is not None:
            self._cleanups.append(cleanup)
        self._retrace()

    def remove(self, stage: str) -> None:
        """Take it out again; undo everything if nothing is left."""
        self._around.pop(stage, None)
        self.predicted_angles.pop(stage, None)
        self.undo_if_unused()

    def undo_if_unused(self) -> None:
        """Undo everything if no callback is left."""
        if not self._around and not self.monitored:
            self.undo()

    def undo(self) -> None:
        """Give the model its own train step back."""
        if TrainStep.existing(self.model) is not self:
            return
        for cleanup in self._cleanups:
            cleanup()
        del self.model.train_step, self.model.make_train_function
        if self._own_step is not None:
            self.model.train_step = self._own_step
        if self._extended:
            self._retrace()

    def _retrace(self) -> None:
        # Lazy: the function is traced at its next call.
        type(self.model).make_train_function(self.model, force=True)
