"""The one training loop, for every strategy: Keras' train step, callbacks, metrics and progress.

Keras' own `fit` fails under `MultiWorkerMirroredStrategy` (keras issue 20585) and cannot be entered
in the middle of an epoch. This loop runs `model.train_step` by `strategy.run`, many steps in one
compiled call, and tells Keras' callbacks what `fit` would tell them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from train.data.batches import Share
from train.devices.replicas import averaging_of_replicas, replica_seeds


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
    """

    epoch: int = 0
    step_in_epoch: int = 0


class Batches(Protocol):
    """Where the loop's data come from; every dataset gives whole batches of one replica."""

    @property
    def steps_per_epoch(self) -> int:
        """Global training batches."""

    @property
    def evaluation_steps(self) -> int:
        """Global batches of one evaluation."""

    @property
    def evaluation_padding(self) -> float:
        """Rows of one evaluation, padding included, over real ones."""

    def training(self, first_step: int, share: Share) -> tf.data.Dataset:
        """(images, labels) from `first_step` on, counted from 0 over the whole training."""

    def evaluation(self, share: Share) -> tf.data.Dataset:
        """(images, labels, weights), padding with weight 0."""


class Guest(Protocol):
    """Somebody who looks in between calls of the compiled step."""

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
        # Of the epoch that runs.
        self.steps_trained = 0
        self.training_s = 0.0
        self.waiting_s = 0.0
        self._evaluate: Any = None
        self._average_statistics = averaging_of_replicas(model, strategy)

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
        verbose: int = 0,
        guests: Sequence[Guest] = (),
        restore: Callable[[], None] | None = None,
        start: Position = Position(),
    ) -> dict[str, list[float]]:
        """Trains until `epochs` are finished, as `fit` would.

        Args:
            callbacks: Keras callbacks.
            epochs: Finished epochs at the end, those before `start` included.
            verbose: As in `fit`.
            guests: Called between compiled calls.
            restore: Puts all state where it was at `start`. Callbacks have begun by then, so that
                what they did at the begin of the training, or of an entered epoch, is overwritten
                and not done twice.
            start: Where to begin.

        Returns:
            Name of a measure to its values, one for each epoch of this call.

        Raises:
            NotFiniteError: At the end of the call in which it happened.
        """
        model = self.model
        model.stop_training = False
        told = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            add_progbar=verbose != 0,
            model=model,
            verbose=verbose,
            epochs=epochs,
            steps=self.batches.steps_per_epoch,
        )
        try:
            told.on_train_begin()
        except BaseException:
            for callback in told.callbacks:
                with contextlib.suppress(Exception):  # some may not have begun
                    callback.on_train_end()
            raise
        try:
            return self._epochs(told, epochs, guests, restore, start)
        finally:
            # Whatever ended the training: files are closed, the model gets its own step back.
            told.on_train_end()

    def _epochs(
        self,
        told: keras.callbacks.CallbackList,
        epochs: int,
        guests: Sequence[Guest],
        restore: Callable[[], None] | None,
        start: Position,
    ) -> dict[str, list[float]]:
        """The epochs from `start` on."""
        model = self.model
        entered = start.step_in_epoch > 0
        if entered:
            told.on_epoch_begin(start.epoch)
        if restore is not None:
            restore()
        train = self._training_function()
        iterator = self._iterator(start)
        for epoch in range(start.epoch, epochs):
            if not entered:
                model.reset_metrics()
                told.on_epoch_begin(epoch)
            first = start.step_in_epoch if entered else 0
            entered = False
            self.steps_trained, self.training_s, self.waiting_s = 0, 0.0, 0.0
            logs = self._epoch(train, iterator, told, Position(epoch, first), guests)
            self._average_statistics()
            logs |= {f"val_{name}": value for name, value in self.evaluate(told).items()}
            told.on_epoch_end(epoch, logs)
            for guest in guests:
                guest.after_epoch(Position(epoch + 1))
            if model.stop_training:
                break
        model.optimizer.finalize_variable_values(model.trainable_weights)
        return dict(model.history.history)

    def evaluate(self, callbacks: Any = None) -> dict[str, float]:
        """Loss and metrics over every test image, each counted once.

        Padding has weight 0 in the metrics. Keras' mean loss counts it as images of loss 0, which
        one factor undoes.
        """
        if self._evaluate is None:
            self._evaluate = self._evaluation_function()
        if callbacks is not None:
            callbacks.on_test_begin()
        self.model.reset_metrics()
        iterator = iter(
            self.strategy.distribute_datasets_from_function(
                lambda context: self.batches.evaluation(_share(context))
            )
        )
        steps = self.batches.evaluation_steps
        logs = _floats(self._evaluate(iterator, tf.constant(steps)))
        logs["loss"] *= self.batches.evaluation_padding
        if callbacks is not None:
            callbacks.on_test_end(logs)
        return logs

    def _epoch(
        self,
        train: Any,
        iterator: Any,
        told: keras.callbacks.CallbackList,
        start: Position,
        guests: Sequence[Guest],
    ) -> dict[str, float]:
        """The rest of an epoch; its logs."""
        steps_per_epoch = self.batches.steps_per_epoch
        step, logs = start.step_in_epoch, None
        while step < steps_per_epoch and not self.model.stop_training:
            steps = min(self.steps_per_call, steps_per_epoch - step)
            done = start.epoch * steps_per_epoch + step
            told.on_train_batch_begin(step)
            begin_s = time.perf_counter()
            logs, first_bad, waited_s = train(
                iterator, tf.constant(done, tf.int64), tf.constant(steps, tf.int64)
            )
            bad = int(first_bad)  # waits for the call to end
            self.training_s += time.perf_counter() - begin_s
            self.waiting_s += float(waited_s)
            if bad >= 0:
                raise NotFiniteError(bad + 1)
            step += steps
            self.steps_trained += steps
            told.on_train_batch_end(step - 1, logs)
            for guest in guests:
                guest.after_call(Position(start.epoch, step), steps)
        return _floats(self.model.get_metrics_result() if logs is None else logs)

    def _training_function(self) -> Any:
        """`run(iterator, first_step, steps) -> (logs, first step of no finite loss, seconds)`."""
        model, strategy = self.model, self.strategy
        train_step = model.train_step  # what callbacks have put around it included
        if self.jit_compile:
            train_step = tf.function(train_step, jit_compile=True, autograph=False)
        reseed = replica_seeds(model, seed=self.seed)
        several_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

        def replica_step(step: tf.Tensor, data: Any) -> tf.Tensor:
            reseed(step)
            loss = train_step(data)["loss"]
            bad = tf.cast(tf.math.logical_not(tf.math.is_finite(loss)), tf.int32)
            if several_workers:  # they must stop at the same step
                context = tf.distribute.get_replica_context()
                bad = context.all_reduce(tf.distribute.ReduceOp.SUM, bad)
            return bad

        def some_bad(step: tf.Tensor, data: Any) -> tf.Tensor:
            bad = strategy.run(replica_step, args=(step, data))
            return tf.add_n(strategy.experimental_local_results(bad)) > 0

        def now(*behind: tf.Tensor) -> tf.Tensor:
            with tf.control_dependencies(behind):
                return tf.timestamp() if self.times_input else tf.constant(0.0, tf.float64)

        @tf.function(autograph=False)
        def run(iterator: Any, first_step: tf.Tensor, steps: tf.Tensor) -> Any:
            start = (
                tf.constant(0, tf.int64),
                tf.constant(-1, tf.int64),
                tf.constant(0.0, tf.float64),
            )

            def in_turn(done: Any, first_bad: Any, waited_s: Any) -> Any:
                asked, data = now(), next(iterator)
                waited_s += now(*_tensors(strategy, data)) - asked
                is_first = tf.logical_and(first_bad < 0, some_bad(first_step + done, data))
                return done + 1, tf.where(is_first, first_step + done, first_bad), waited_s

            def ahead(done: Any, first_bad: Any, waited_s: Any, data: Any) -> Any:
                """Fetches the next batch while the step runs on this one."""
                following = tf.cond(done + 1 < steps, lambda: next(iterator), lambda: data)
                bad = some_bad(first_step + done, data)
                late_s = now(*tf.nest.flatten(following)) - now(bad)
                waited_s += tf.maximum(late_s, tf.zeros_like(late_s))
                is_first = tf.logical_and(first_bad < 0, bad)
                first_bad = tf.where(is_first, first_step + done, first_bad)
                return done + 1, first_bad, waited_s, following

            if self.steps_per_call == 1:
                _, first_bad, waited_s = in_turn(*start)  # without what a loop costs
            elif strategy.num_replicas_in_sync == 1:
                asked, data = now(), next(iterator)
                first_wait_s = now(*tf.nest.flatten(data)) - asked
                _, first_bad, waited_s, _ = tf.while_loop(
                    lambda done, *_: done < steps, ahead, (*start[:2], first_wait_s, data)
                )
            else:
                _, first_bad, waited_s = tf.while_loop(
                    lambda done, *_: done < steps, in_turn, start, parallel_iterations=1
                )
            return model.get_metrics_result(), first_bad, waited_s

        return run

    def _evaluation_function(self) -> Any:
        model, strategy = self.model, self.strategy

        def replica_step(data: Any) -> None:
            model.test_step(data)

        @tf.function(autograph=False)
        def run(iterator: Any, steps: tf.Tensor) -> Any:
            def body(done: tf.Tensor) -> Any:
                strategy.run(replica_step, args=(next(iterator),))
                return (done + 1,)

            tf.while_loop(lambda done: done < steps, body, (tf.constant(0),))
            return model.get_metrics_result()

        return run

    def _iterator(self, start: Position) -> Any:
        first_step = start.epoch * self.batches.steps_per_epoch + start.step_in_epoch
        return iter(
            self.strategy.distribute_datasets_from_function(
                lambda context: self.batches.training(first_step, _share(context))
            )
        )


def _share(context: tf.distribute.InputContext) -> Share:
    here = context.num_replicas_in_sync // context.num_input_pipelines
    return Share(
        first_replica=context.input_pipeline_id * here,
        replicas=here,
        replicas_in_all=context.num_replicas_in_sync,
    )


def _zeros(spec: Any) -> Any:
    """One row of zeros for every tensor of a batch."""
    return tf.nest.map_structure(lambda one: tf.zeros([1, *one.shape[1:]], one.dtype), spec)


def _tensors(strategy: tf.distribute.Strategy, data: Any) -> list[tf.Tensor]:
    return [
        tensor
        for part in tf.nest.flatten(data)
        for tensor in strategy.experimental_local_results(part)
    ]


def _floats(logs: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}
