"""The steps of a run: its batches, and the compiled calls that train and evaluate on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from train.config import FitConfig, TrainingConfig
from train.data import batches
from train.data.datasets import DataSet
from train.data.splits import Share
from train.devices.strategy import replica_seeds


class RunBatches:
    """The batches of a run, or of a phase of it; datasets give whole batches of one replica."""

    def __init__(self, data: DataSet, config: FitConfig, first_epoch: int = 0) -> None:
        training = config.training
        self.data = data
        self.config = config
        self.first_epoch = first_epoch  # epochs before the phase
        self.steps_per_epoch = batches.steps_per_epoch(data, training.batch_size)
        self.steps = training.steps or (training.epochs or 0) * self.steps_per_epoch
        # Finished epochs at the end, those before included; the last may have fewer steps.
        self.epochs = first_epoch - (-self.steps // self.steps_per_epoch)
        self.last_epoch_steps = (self.steps - 1) % self.steps_per_epoch + 1
        self.evaluation_steps = batches.evaluation_steps(data, training.test_batch_size)
        rows = self.evaluation_steps * training.test_batch_size
        self.evaluation_padding = rows / data.test.count  # rows of one evaluation over real ones

    def steps_in(self, epoch: int) -> int:
        return self.last_epoch_steps if epoch + 1 == self.epochs else self.steps_per_epoch

    def training(self, first_step: int, share: Share) -> Any:
        """(inputs, targets) from `first_step` on, counted from 0 over whole epochs."""
        return batches.training_batches(
            self.data,
            self.config.data,
            batch_size=self.config.training.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            last_step=self.first_epoch * self.steps_per_epoch + self.steps,
            share=share,
        )

    def evaluation(self, share: Share) -> Any:
        """(inputs, targets, weights), padding with weight 0."""
        return batches.evaluation_batches(self.data, self.config.training.test_batch_size, share)

    def over_training_examples(self) -> RunBatches:
        """The same, tested on the training examples: without augmentation, in their order."""
        return RunBatches(dataclasses.replace(self.data, test=self.data.train), self.config)


def training_call(
    model: keras.Model, strategy: tf.distribute.Strategy, training: TrainingConfig, seed: int
) -> Any:
    """`call(iterator, first_step, steps) -> (logs, first step of no finite loss or -1, seconds)`.

    The seconds are those in which the next batch was waited for, which TensorFlow refuses to
    measure under deterministic operations.
    """
    first_bad_of = _checked_step(model, strategy, seed=seed, jit_compile=training.jit_compile)

    def now(*behind: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies(behind):
            return tf.constant(0.0, tf.float64) if training.deterministic else tf.timestamp()

    def fetched(iterator: Any) -> tuple[Any, tf.Tensor]:
        asked, data = now(), next(iterator)
        parts = map(strategy.experimental_local_results, tf.nest.flatten(data))
        return data, now(*(tensor for part in parts for tensor in part)) - asked

    @tf.function(autograph=False)
    def call(iterator: Any, first_step: tf.Tensor, steps: tf.Tensor) -> Any:
        def in_turn(done: Any, bad: Any, waited_s: Any) -> Any:
            data, seconds = fetched(iterator)
            return done + 1, first_bad_of(first_step + done, data, bad), waited_s + seconds

        def ahead(done: Any, bad: Any, waited_s: Any, data: Any) -> Any:
            """Fetches the next batch while the step runs on this one."""
            following = tf.cond(done + 1 < steps, lambda: next(iterator), lambda: data)
            bad = first_bad_of(first_step + done, data, bad)
            late_s = now(*tf.nest.flatten(following)) - now(bad)
            return done + 1, bad, waited_s + tf.nn.relu(late_s), following

        def unfinished(done: Any, *_: Any) -> Any:
            return done < steps

        none, nowhere = tf.constant(0, tf.int64), tf.constant(-1, tf.int64)
        begin = (none, nowhere, tf.constant(0.0, tf.float64))
        if training.steps_per_call == 1:
            end = in_turn(*begin)  # without what a loop costs
        elif strategy.num_replicas_in_sync == 1:
            data, first_wait_s = fetched(iterator)
            end = tf.while_loop(unfinished, ahead, (none, nowhere, first_wait_s, data))
        else:
            end = tf.while_loop(unfinished, in_turn, begin, parallel_iterations=1)
        return model.get_metrics_result(), *end[1:3]

    return call


def _checked_step(
    model: keras.Model, strategy: tf.distribute.Strategy, *, seed: int, jit_compile: bool
) -> Callable[[tf.Tensor, Any, tf.Tensor], tf.Tensor]:
    """One training step on all replicas, by number, batch and the first bad step before (or -1).

    Returns the first step whose loss is not finite, this one included.
    """
    train_step = model.train_step  # what callbacks have put around it included
    if jit_compile:
        train_step = tf.function(train_step, jit_compile=True, autograph=False)
    reseed = replica_seeds(model, seed=seed)
    several_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def replica_step(step: tf.Tensor, data: Any) -> tf.Tensor:
        reseed(step)
        bad = tf.cast(~tf.math.is_finite(train_step(data)["loss"]), tf.int32)
        if several_workers:  # they must stop at the same step
            context = tf.distribute.get_replica_context()
            bad = context.all_reduce(tf.distribute.ReduceOp.SUM, bad)
        return bad

    def first_bad_of(step: tf.Tensor, data: Any, before: tf.Tensor) -> tf.Tensor:
        bad = strategy.run(replica_step, args=(step, data))
        some = tf.add_n(strategy.experimental_local_results(bad)) > 0
        return tf.where((before < 0) & some, step, before)

    return first_bad_of


class Evaluation:
    """Loss and metrics over every image of a set, each counted once.

    Padding has weight 0 in the metrics. Keras' mean loss counts it as images of loss 0, which one
    factor undoes. Pipeline and iterator are made once, and begin again by themselves: making them
    takes longer than a pass over few images.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, run_batches: RunBatches
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.batches = run_batches
        self._iterator: Any = None

        def replica_step(data: Any) -> None:
            model.test_step(data)

        @tf.function(autograph=False)
        def run(iterator: Any, steps: tf.Tensor) -> Any:
            def body(done: tf.Tensor) -> Any:
                strategy.run(replica_step, args=(next(iterator),))
                return (done + 1,)

            tf.while_loop(lambda done: done < steps, body, (tf.constant(0),))
            return model.get_metrics_result()

        self._pass = run

    def __call__(self) -> dict[str, float]:
        """One pass. The model's metrics are left as they stand at its end."""
        iterator, self._iterator = self._iterator, None  # one that is left in mid-pass is no good
        if iterator is None:
            iterator = distributed(self.strategy, lambda s: self.batches.evaluation(s).repeat())
        self.model.reset_metrics()
        logs = floats(self._pass(iterator, tf.constant(self.batches.evaluation_steps)))
        self._iterator = iterator
        logs["loss"] *= self.batches.evaluation_padding
        return logs

    def in_between(self) -> dict[str, float]:
        """One pass in the middle of an epoch, whose own metrics are put back to the bit."""
        copies = [
            copy
            for variable in self.model.metrics_variables
            for copy in self.strategy.experimental_local_results(variable.value)
        ]
        before = [tf.identity(copy) for copy in copies]
        try:
            return self()
        finally:
            for copy, value in zip(copies, before, strict=True):
                copy.assign(value)


def distributed(strategy: tf.distribute.Strategy, make: Callable[[Share], tf.data.Dataset]) -> Any:
    """An iterator over the dataset that is made for every process' share of the batch."""

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        every = context.num_replicas_in_sync
        here = every // context.num_input_pipelines
        return make(Share(context.input_pipeline_id * here, replicas=here, replicas_in_all=every))

    return iter(strategy.distribute_datasets_from_function(of_process))


def floats(logs: dict[str, Any]) -> dict[str, float]:
    """Logs as numbers."""
    return {name: float(value) for name, value in logs.items()}
