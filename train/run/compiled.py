"""The compiled calls of the loop: many training steps in one, and a pass of the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import keras
import tensorflow as tf

from train.data.plan import Share
from train.devices.replicas import replica_seeds


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


def training_call(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    *,
    seed: int,
    steps_per_call: int,
    jit_compile: bool,
    times_input: bool,
) -> Any:
    """`call(iterator, first_step, steps) -> (logs, first step of no finite loss or -1, seconds)`.

    The seconds are those in which the next batch was waited for. The arguments are those of
    `train.run.loop.Loop`.
    """
    some_bad = _checked_step(model, strategy, seed=seed, jit_compile=jit_compile)

    def now(*behind: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies(behind):
            return tf.timestamp() if times_input else tf.constant(0.0, tf.float64)

    def fetched(iterator: Any) -> tuple[Any, tf.Tensor]:
        """The next batch, and the seconds that it took."""
        asked, data = now(), next(iterator)
        return data, now(*_tensors(strategy, data)) - asked

    @tf.function(autograph=False)
    def call(iterator: Any, first_step: tf.Tensor, steps: tf.Tensor) -> Any:
        def marked(done: Any, first_bad: Any, bad: Any) -> Any:
            is_first = tf.logical_and(first_bad < 0, bad)
            return tf.where(is_first, first_step + done, first_bad)

        def in_turn(done: Any, first_bad: Any, waited_s: Any) -> Any:
            data, seconds = fetched(iterator)
            bad = some_bad(first_step + done, data)
            return done + 1, marked(done, first_bad, bad), waited_s + seconds

        def ahead(done: Any, first_bad: Any, waited_s: Any, data: Any) -> Any:
            """Fetches the next batch while the step runs on this one."""
            following = tf.cond(done + 1 < steps, lambda: next(iterator), lambda: data)
            bad = some_bad(first_step + done, data)
            late_s = now(*tf.nest.flatten(following)) - now(bad)
            waited_s += tf.maximum(late_s, tf.zeros_like(late_s))
            return done + 1, marked(done, first_bad, bad), waited_s, following

        def unfinished(done: Any, *_: Any) -> Any:
            return done < steps

        none, nowhere = tf.constant(0, tf.int64), tf.constant(-1, tf.int64)
        begin = (none, nowhere, tf.constant(0.0, tf.float64))
        if steps_per_call == 1:
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
) -> Callable[[tf.Tensor, Any], tf.Tensor]:
    """One training step on all replicas, by number and batch; whether a loss is not finite."""
    train_step = model.train_step  # what callbacks have put around it included
    if jit_compile:
        train_step = tf.function(train_step, jit_compile=True, autograph=False)
    reseed = replica_seeds(model, seed=seed)
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

    return some_bad


class Evaluation:
    """Loss and metrics over every image of a set, each counted once.

    Padding has weight 0 in the metrics. Keras' mean loss counts it as images of loss 0, which one
    factor undoes. Pipeline and iterator are made once, and begin again by themselves: making them
    takes longer than a pass over few images.

    Args:
        model: Compiled with `weighted_metrics`.
        strategy: Under which it was built.
        batches: The data.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        batches: Batches,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.batches = batches
        self._pass = self._compiled_pass()
        self._iterator: Any = None

    def __call__(self) -> dict[str, float]:
        """One pass. The model's metrics are left as they stand at its end."""
        batches = self.batches
        iterator, self._iterator = self._iterator, None  # one that is left in mid-pass is no good
        if iterator is None:
            iterator = iter(
                distributed(self.strategy, lambda share: batches.evaluation(share).repeat())
            )
        self.model.reset_metrics()
        logs = floats(self._pass(iterator, tf.constant(batches.evaluation_steps)))
        self._iterator = iterator
        logs["loss"] *= batches.evaluation_padding
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

    def _compiled_pass(self) -> Any:
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


def distributed(strategy: tf.distribute.Strategy, make: Callable[[Share], tf.data.Dataset]) -> Any:
    """The dataset of a strategy, made for every process' share of the batch."""

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        here = context.num_replicas_in_sync // context.num_input_pipelines
        return make(
            Share(
                first_replica=context.input_pipeline_id * here,
                replicas=here,
                replicas_in_all=context.num_replicas_in_sync,
            )
        )

    return strategy.distribute_datasets_from_function(of_process)


def floats(logs: dict[str, Any]) -> dict[str, float]:
    """Logs as numbers."""
    return {name: float(value) for name, value in logs.items()}


def _tensors(strategy: tf.distribute.Strategy, data: Any) -> list[tf.Tensor]:
    return [
        tensor
        for part in tf.nest.flatten(data)
        for tensor in strategy.experimental_local_results(part)
    ]
