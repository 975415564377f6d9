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

from train.data.splits import Share
from train.devices.strategy import averaging_of_replicas
from train.run.steps import Evaluation, RunBatches, distributed, floats, training_call


class NotFiniteError(Exception):
    """A loss or weights that are not finite after training step `step`, counted from 1."""

    def __init__(self, step: int, what: str = "The loss of training step {step} is") -> None:
        super().__init__(f"{what.format(step=step)} not finite")
        self.step = step


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a training stands: what has been done."""

    epoch: int = 0  # finished epochs, evaluation and callbacks included
    step_in_epoch: int = 0  # training steps of the epoch after these
    step: int = 0  # in all; the last epoch of a phase may have fewer than others
    phase: int = 0  # from 0
    phase_epoch: int = 0  # before the phase
    phase_step: int = 0

    def next_phase(self) -> Position:
        """The same place, as the begin of the phase that follows."""
        return Position(self.epoch, 0, self.step, self.phase + 1, self.epoch, self.step)


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
    """Trains and evaluates a model, compiled with `weighted_metrics`, on the batches of a phase."""

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, run_batches: RunBatches
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.batches = run_batches
        self.position = Position()
        self.times_input = not run_batches.config.training.deterministic
        # Of the epoch that runs.
        self.steps_trained = 0
        self.training_s = 0.0
        self.waiting_s = 0.0
        self._make_variables()
        self._average_statistics = averaging_of_replicas(model, strategy)
        self.test_images = Evaluation(model, strategy, run_batches)
        training_images = run_batches.over_training_examples()
        self._training_images = Evaluation(model, strategy, training_images)

    def _make_variables(self) -> None:
        """Makes the variables of optimizer and metrics, which no compiled step may make.

        They would be made in replica context there (keras issue 23085, and the metrics likewise).
        """
        spec = self.batches.training(0, Share()).element_spec
        inputs, targets = tf.nest.map_structure(
            lambda one: tf.zeros([1, *one.shape[1:]], one.dtype), spec
        )
        with self.strategy.scope():
            self.model.optimizer.build(self.model.trainable_variables)
            predictions = self.model(inputs, training=False)
            self.model.compute_loss(inputs, targets, predictions, training=False)
            self.model.compute_metrics(inputs, targets, predictions)
            self.model.reset_metrics()

    def run(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        guests: Sequence[Guest] = (),
        *,
        start: Position = Position(),
        restore: Callable[[], None] = lambda: None,
    ) -> dict[str, list[float]]:
        """Trains from `start` to the last epoch, as `fit` would; returns the epochs' measures.

        `restore` puts all state where it was at `start`. Callbacks have begun by then, so that what
        they did at the begin of the training, or of an entered epoch, is not done twice.
        """
        model, steps = self.model, self.batches.steps_per_epoch
        told = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            model=model,
            verbose=0,
            epochs=self.batches.epochs,
            steps=steps,
        )
        model.stop_training = False
        self.position = start
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
            restore()
            for guest in guests:
                guest.before_first(start)
            self._epochs(told, guests)
        finally:
            # Whatever ended the training: files are closed, the model gets its own step back.
            told.on_train_end()
        return dict(model.history.history)

    def _epochs(self, told: keras.callbacks.CallbackList, guests: Sequence[Guest]) -> None:
        model, config = self.model, self.batches.config
        train = training_call(model, self.strategy, config.training, config.seed)
        first = self._number()
        iterator = distributed(self.strategy, lambda share: self.batches.training(first, share))
        while self.position.epoch < self.batches.epochs and not model.stop_training:
            epoch = self.position.epoch
            if not self.position.step_in_epoch:
                model.reset_metrics()
                told.on_epoch_begin(epoch)
            logs = self._epoch(train, iterator, told, guests)
            self._average_statistics()
            told.on_test_begin()
            results = self.test_images()
            told.on_test_end(results)
            logs |= {f"val_{name}": value for name, value in results.items()}
            if config.training.train_error:
                results = self._training_images()
                logs |= {f"train_{name}": value for name, value in results.items()}
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
    ) -> dict[str, float]:
        """The rest of an epoch; its logs."""
        batches, logs = self.batches, None
        last = batches.steps_in(self.position.epoch)
        self.steps_trained, self.training_s, self.waiting_s = 0, 0.0, 0.0
        while (here := self.position.step_in_epoch) < last and not self.model.stop_training:
            due = [guest.due_in(self.position) or last for guest in guests]
            steps = min(batches.config.training.steps_per_call, last - here, *due)
            number = self._number()
            told.on_train_batch_begin(here)
            begin_s = time.perf_counter()
            logs, first_bad, waited_s = train(
                iterator, tf.constant(number, tf.int64), tf.constant(steps, tf.int64)
            )
            bad = int(first_bad)  # waits for the call to end
            self.training_s += time.perf_counter() - begin_s
            self.waiting_s += float(waited_s)
            if bad >= 0:
                raise NotFiniteError(self.position.step + bad - number + 1)
            self.steps_trained += steps
            self.position = dataclasses.replace(
                self.position, step_in_epoch=here + steps, step=self.position.step + steps
            )
            told.on_train_batch_end(here + steps - 1, logs)
            for guest in guests:
                guest.after_call(self.position, steps)
        return floats(self.model.get_metrics_result() if logs is None else logs)

    def _number(self) -> int:
        """Of the next step, by which batches and dropout are drawn: epochs are whole passes."""
        return self.position.epoch * self.batches.steps_per_epoch + self.position.step_in_epoch
