"""The one training loop, for every strategy: Keras' train step, callbacks and metrics.

Keras' own `fit` fails under `MultiWorkerMirroredStrategy` (keras issue 20585) and cannot be entered
in the middle of an epoch. This loop runs `model.train_step` by `strategy.run`, many steps in one
compiled call, and tells Keras' callbacks what `fit` would tell them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from train.data.batches import Share
from train.devices.replicas import averaging_of_replicas
from train.run.compiled import Batches, Evaluation, distributed, floats, training_call


class NotFiniteError(Exception):
    """A loss or weights that are not finite.

    Args:
        step: The first training step after which it was seen, counted from 1 over the training.
        what: Was seen: `The loss of training step 3 is`, `Weights after training step 3 are`.
    """

    def __init__(self, step: int, what: str = "The loss of training step {step} is") -> None:
        super().__init__(f"{what.format(step=step)} not finite")
        self.step = step


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a training stands: what has been done.

    Args:
        epoch: Finished epochs, evaluation and callbacks included.
        step_in_epoch: Training steps of the epoch after these.
        phase: Of the run, from 0.
        phase_epoch: Epochs before the phase.
        phase_step: Training steps before the phase.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    phase: int = 0
    phase_epoch: int = 0
    phase_step: int = 0


class Guest:
    """Somebody who looks in between calls of the compiled step."""

    def before_first(self, position: Position) -> None:
        """All state is that of `position`; the first call comes."""

    def due_in(self, position: Position) -> int | None:
        """Training steps of this epoch after which it must look in; None: whenever a call ends."""

    def after_call(self, position: Position, steps: int) -> None:
        """`steps` training steps were done since the last call."""

    def after_epoch(self, position: Position) -> None:
        """An epoch has ended, with evaluation and callbacks."""


class Loop:
    """Trains and evaluates a compiled model.

    Args:
        model: Compiled with `weighted_metrics`, built in the strategy's scope.
        strategy: Any synchronous strategy.
        batches: The data.
        train_error: Batches whose evaluation is a pass over the training images: its results join
            the logs of every epoch as `train_...`; None: they do not.
        seed: Of dropout, which is a function of (seed, step, replica).
        steps_per_call: Training steps in one compiled call.
        jit_compile: Whether XLA compiles the step.
        times_input: Whether to measure how long batches are waited for, which TensorFlow refuses
            under deterministic operations.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        batches: Batches,
        *,
        seed: int,
        train_error: Batches | None = None,
        steps_per_call: int = 1,
        jit_compile: bool = False,
        times_input: bool = True,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.batches = batches
        self.seed = seed
        self.steps_per_call = steps_per_call
        self.jit_compile = jit_compile
        self.times_input = times_input
        self.position = Position()
        self.steps_done = 0
        # Of the epoch that runs.
        self.steps_trained = 0
        self.training_s = 0.0
        self.waiting_s = 0.0
        self._average_statistics = averaging_of_replicas(model, strategy)
        self.test_images = Evaluation(model, strategy, batches)
        self._train_error = None
        if train_error is not None:
            self._train_error = Evaluation(model, strategy, train_error)

    def prepare(self) -> None:
        """Makes the variables of optimizer and metrics, which no compiled step may make.

        They would be made in replica context there (keras issue 23085, and the metrics likewise).
        """
        images, labels = _zeros(self.batches.training(0, Share()).element_spec)
        with self.strategy.scope():
            self.model.optimizer.build(self.model.trainable_variables)
            predictions = self.model(images, training=False)
            self.model.compute_loss(images, labels, predictions, training=False)
            self.model.compute_metrics(images, labels, predictions)
            self.model.reset_metrics()

    def run(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        epochs: int,
        last_epoch_steps: int | None = None,
        guests: Sequence[Guest] = (),
        restore: Callable[[], None] | None = None,
        start: Position = Position(),
        steps_done: int | None = None,
    ) -> dict[str, list[float]]:
        """Trains until `epochs` are finished, as `fit` would.

        Args:
            callbacks: Keras callbacks.
            epochs: Finished epochs at the end, those before `start` included.
            last_epoch_steps: Training steps of the last of them; None: as many as of the others.
            guests: Called between compiled calls.
            restore: Puts all state where it was at `start`. Callbacks have begun by then, so that
                what they did at the begin of the training, or of an entered epoch, is overwritten
                and not done twice.
            start: Where to begin.
            steps_done: Training steps so far; None: those of whole epochs.

        Returns:
            Name of a measure to its values, one for each epoch of this call.

        Raises:
            NotFiniteError: At the end of the call in which it happened.
        """
        model = self.model
        model.stop_training = False
        steps = self.batches.steps_per_epoch
        told = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, model=model, verbose=0, epochs=epochs, steps=steps
        )
        self.position, self.steps_done = start, self._number(start)
        if steps_done is not None:
            self.steps_done = steps_done
        try:
            told.on_train_begin()
        except BaseException:
            for callback in told.callbacks:
                with contextlib.suppress(Exception):  # some may not have begun
                    callback.on_train_end()
            raise
        try:
            if start.step_in_epoch:
                told.on_epoch_begin(start.epoch)
            if restore is not None:
                restore()
            for guest in guests:
                guest.before_first(start)
            self._epochs(told, guests, epochs, last_epoch_steps or steps)
        finally:
            # Whatever ended the training: files are closed, the model gets its own step back.
            told.on_train_end()
        return dict(model.history.history)

    def evaluate(self, callbacks: Any = None) -> dict[str, float]:
        """Loss and metrics over every test image, each counted once."""
        if callbacks is not None:
            callbacks.on_test_begin()
        logs = self.test_images()
        if callbacks is not None:
            callbacks.on_test_end(logs)
        return logs

    def _epochs(
        self,
        told: keras.callbacks.CallbackList,
        guests: Sequence[Guest],
        epochs: int,
        last_epoch_steps: int,
    ) -> None:
        """The epochs from the position on."""
        model = self.model
        train = training_call(
            model,
            self.strategy,
            seed=self.seed,
            steps_per_call=self.steps_per_call,
            jit_compile=self.jit_compile,
            times_input=self.times_input,
        )
        first = self._number(self.position)
        iterator = iter(
            distributed(self.strategy, lambda share: self.batches.training(first, share))
        )
        while self.position.epoch < epochs and not model.stop_training:
            epoch = self.position.epoch
            if not self.position.step_in_epoch:
                model.reset_metrics()
                told.on_epoch_begin(epoch)
            is_last = epoch + 1 == epochs
            steps = last_epoch_steps if is_last else self.batches.steps_per_epoch
            logs = self._epoch(train, iterator, told, guests, steps)
            self._average_statistics()
            logs |= {f"val_{name}": value for name, value in self.evaluate(told).items()}
            if self._train_error is not None:
                logs |= {f"train_{name}": value for name, value in self._train_error().items()}
            told.on_epoch_end(epoch, logs)
            self.position = dataclasses.replace(self.position, epoch=epoch + 1, step_in_epoch=0)
            for guest in guests:
                guest.after_epoch(self.position)
        model.optimizer.finalize_variable_values(model.trainable_weights)

    def _epoch(
        self,
        train: Any,
        iterator: Any,
        told: keras.callbacks.CallbackList,
        guests: Sequence[Guest],
        last: int,
    ) -> dict[str, float]:
        """The rest of an epoch of `last` steps; its logs."""
        logs = None
        self.steps_trained, self.training_s, self.waiting_s = 0, 0.0, 0.0
        while self.position.step_in_epoch < last and not self.model.stop_training:
            step = self.position.step_in_epoch
            due = [guest.due_in(self.position) or last for guest in guests]
            steps = min(self.steps_per_call, last - step, *due)
            number = self._number(self.position)
            told.on_train_batch_begin(step)
            begin_s = time.perf_counter()
            logs, first_bad, waited_s = train(
                iterator, tf.constant(number, tf.int64), tf.constant(steps, tf.int64)
            )
            bad = int(first_bad)  # waits for the call to end
            self.training_s += time.perf_counter() - begin_s
            self.waiting_s += float(waited_s)
            if bad >= 0:
                raise NotFiniteError(self.steps_done + bad - number + 1)
            self.position = dataclasses.replace(self.position, step_in_epoch=step + steps)
            self.steps_trained += steps
            self.steps_done += steps
            told.on_train_batch_end(step + steps - 1, logs)
            for guest in guests:
                guest.after_call(self.position, steps)
        return floats(self.model.get_metrics_result() if logs is None else logs)

    def _number(self, position: Position) -> int:
        """Of the next step, by which batches and dropout are drawn: epochs are whole passes."""
        return position.epoch * self.batches.steps_per_epoch + position.step_in_epoch


def _zeros(spec: Any) -> Any:
    """One row of zeros for every tensor of a batch."""
    return tf.nest.map_structure(lambda one: tf.zeros([1, *one.shape[1:]], one.dtype), spec)
