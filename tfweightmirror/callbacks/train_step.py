"""How callbacks put work into a model's compiled train step, and take it out again."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfweightmirror._internals import fit_hooks, tensorflow_hooks
from tfweightmirror._internals.docs import see
from tfweightmirror.callbacks.train_functions import TrainFunctions

Around = Callable[[], contextlib.AbstractContextManager[None]]


class TrainStep:
    """The extended train step of one model.

    A callback after the batch would be late whenever `steps_per_execution > 1`, so work is put
    around `model.train_step` itself, in replica context. There it survives whatever makes the train
    function anew: `train_on_batch`, `compile`, a conversion. Everything is undone when the last
    callback leaves, and, since Keras does not call `on_train_end` after an exception, at the latest
    when the next `fit` begins, or when `train_on_batch` is called after a `fit` that failed.

    Attributes:
        monitored: Whether somebody asks for `angles_before_mirror`.
        angles_before_mirror: Gives the weight angles in degrees just before the last mirror step,
            by pathway name; None if no mirror runs.
        predicted_angles: By stage: gives the weight angles in degrees that a law predicts now.
    """

    # Where in the step a kind of work stands: the later number ends first.
    STAGES: ClassVar[dict[str, int]] = {"mirror": 0, "kolen_pollack": 1}

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.monitored = False
        self.angles_before_mirror: Callable[[], dict[str, float]] | None = None
        self.predicted_angles: dict[str, Callable[[], dict[str, float]]] = {}
        self._around: dict[str, Around] = {}
        self._reads: dict[str, Callable[[], Any]] = {}
        self._cleanups: dict[str, Callable[[], None]] = {}
        self._used: set[str] = set()
        self._extended = False
        self._began_in_fit = fit_hooks.is_fitting(model)
        names = ("train_step", "make_train_function", "fit")
        self._own = {name: model.__dict__.get(name) for name in names}
        step, make, fit = (getattr(model, name) for name in names)
        self.own_train_step, self.own_make_train_function = step, make

        @functools.wraps(step)
        def train_step(*args: Any, **kwargs: Any) -> Any:
            self.begins()
            with contextlib.ExitStack() as stack:
                for stage in sorted(self._around, key=self.STAGES.__getitem__):
                    stack.enter_context(self._around[stage]())
                return step(*args, **kwargs)

        @functools.wraps(make)
        def make_train_function(force: bool = False) -> Any:
            if self.has_failed():
                self.undo()
            if not self._around:
                return make(force=force)
            if force or model.train_function is None:
                model.train_function = TrainFunctions(model)
            return model.train_function

        @functools.wraps(fit)
        def new_fit(*args: Any, **kwargs: Any) -> Any:
            if not fit_hooks.is_fitting(model):  # not one within a callback of another
                self.undo()  # whoever extended the step before has ended, or has failed
            return fit(*args, **kwargs)

        train_step.extension = self  # type: ignore[attr-defined]  # found again by `of`
        model.train_step = train_step
        model.make_train_function = make_train_function
        model.fit = new_fit

    @classmethod
    def of(cls, model: keras.Model) -> "TrainStep":
        """The extended train step of `model`, made if there is none. Not in replica context."""
        step = cls.existing(model)
        if step is not None and step.has_failed():
            step.undo()
            step = None
        return step or cls(model)

    @classmethod
    def existing(cls, model: keras.Model) -> "TrainStep | None":
        """The extended train step of `model`, or None."""
        return getattr(model.train_step, "extension", None)

    def has_failed(self) -> bool:
        """Whether the `fit` that extended the step is over, without having undone it."""
        return self._began_in_fit and not fit_hooks.is_fitting(self.model)

    def add(
        self,
        stage: str,
        around: Around,
        cleanup: Callable[[], None] | None = None,
        reads: Callable[[], Any] = object,
    ) -> None:
        """Put `around` (a context around every step) into the compiled step.

        It takes the place of one that has begun again, or whose step has been used already: that
        one's training has failed before its end.

        Args:
            stage: A kind of work, one of `STAGES`.
            around: Entered in replica context, where the step is traced.
            cleanup: Called once, when the work leaves.
            reads: Gives all that a trace of `around` reads. Where it is what it was, an earlier
                trace is used again. By default that is never so.

        Raises:
            ValueError: Another callback of this kind has just begun.
        """
        present = self._around.get(stage)
        if present is not None and present != around and stage not in self._used:
            raise ValueError(
                f"'{self.model.name}' is already trained with a {stage} callback: pass one only."
                + see("two-mirror-callbacks")
            )
        self._clean_up(stage)
        self._used.discard(stage)
        self._around[stage], self._reads[stage] = around, reads
        self._extended = True
        if cleanup is not None:
            self._cleanups[stage] = cleanup
        self._retrace()

    def remove(self, stage: str, around: Around | None = None) -> None:
        """Take it out again, unless another than `around` has its place by now."""
        if stage in self._around and around in (None, self._around[stage]):
            del self._around[stage]
            self.predicted_angles.pop(stage, None)
            self._clean_up(stage)
            self._retrace()
        self.undo_if_unused()

    def undo_if_unused(self) -> None:
        """Undo everything if no callback is left."""
        if not self._around and not self.monitored:
            self.undo()

    def undo(self) -> None:
        """Give the model its own train step back."""
        if TrainStep.existing(self.model) is not self:
            return
        for stage in list(self._cleanups):
            self._clean_up(stage)
        for name, own in self._own.items():
            delattr(self.model, name)
            if own is not None:
                setattr(self.model, name, own)
        if self._extended:
            self._retrace()
            tensorflow_hooks.let_go_of_graphs()

    def begins(self) -> None:
        """A step begins, or is traced."""
        self._used |= set(self._around)

    def reads(self) -> dict[str, Any]:
        """What a trace reads of the work around the step, by stage."""
        return {stage: self._reads[stage]() for stage in self._around}

    def variable(self, name: str, value: Any) -> tf.Variable:
        """A variable for the work around the step, set to `value`: the one of earlier traces."""
        return TrainFunctions.of(self.model).variable(name, value)

    @property
    def notes(self) -> dict[str, Any]:
        """What work has noted while the step in use was traced, by stage: to be written and read.

        (Lost where the step is not traced by `model.train_function`.)
        """
        return TrainFunctions.of(self.model).notes

    def _clean_up(self, stage: str) -> None:
        self._cleanups.pop(stage, lambda: None)()

    def _retrace(self) -> None:
        TrainFunctions.of(self.model).choose_again()
