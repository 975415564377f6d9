"""Where a model trains: a `tf.distribute` strategy, and what every replica has of its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from train.config import FitConfig
from train.devices.cluster import ends_after, lost_workers_end_the_run, meet, notes_of
from train.devices.resolver import resolve_cluster
from train.errors import UserError, see


@dataclasses.dataclass(frozen=True)
class Placement:
    """A strategy, and this process' part in it.

    Args:
        name: As in the configuration; never `auto`.
        strategy: Synchronous; for one device TensorFlow's default one.
        worker: Which worker this process is, from 0.
        workers: Addresses host:port of all workers, this one included; empty for one process.
    """

    name: str
    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: tuple[str, ...] = ()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """Devices that train, of all workers."""
        return int(self.strategy.num_replicas_in_sync)


def place(config: FitConfig) -> Placement:
    """Makes the strategy. Must come before TensorFlow's first operation."""
    name = strategy_name(config)
    trains_on = {"one_device": "one device", "tpu": "all cores of the TPU"}.get(name)
    if trains_on and config.replicas is not None:
        raise UserError(
            f"replicas is {config.replicas} and the strategy is {name}, which trains on "
            f"{trains_on}. Expected strategy=mirrored, or replicas=null."
        )
    worker = 0
    workers: tuple[str, ...] = ()
    if name == "multi_worker":
        strategy, worker, workers = _multi_worker(config)
    elif name == "one_device":
        strategy = tf.distribute.get_strategy()  # the first GPU, or the processor
    else:
        strategy = {"mirrored": _mirrored, "tpu": _tpu}[name](config)
    placement = Placement(name, strategy, worker, workers)
    replicas = placement.replicas
    for key in ("batch_size", "test_batch_size"):
        batch_size = getattr(config.training, key)
        if batch_size % replicas:
            raise UserError(
                f"training.{key} is {batch_size}, which does not divide among {replicas} "
                f"replicas: uneven parts would change the gradient. Expected a multiple, such as "
                f"{-(-batch_size // replicas) * replicas}." + see("a-batch-that-does-not-divide")
            )
    if config.training.jit_compile and replicas > 1 and not _gpus():
        raise UserError(
            f"training.jit_compile is true on {replicas} replicas of a processor, where "
            f"XLA has no collective operations. Expected false, or strategy=one_device."
        )
    return placement


def strategy_name(config: FitConfig) -> str:
    """The strategy that the configuration names, or that the machine has; never `auto`."""
    if config.strategy != "auto":
        return config.strategy
    if config.cluster.workers or os.environ.get("TF_CONFIG"):
        return "multi_worker"
    if config.cluster.tpu or tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if _gpus() > 1 else "one_device"


def _gpus() -> int:
    return len(tf.config.list_physical_devices("GPU"))


def _wanted_gpus(config: FitConfig) -> int:
    wanted, there = config.replicas or _gpus(), _gpus()
    if there and wanted > there:
        raise UserError(
            f"replicas is {wanted}, but this machine has {there} GPUs. Expected at most that many."
        )
    return wanted if there else 0


def _mirrored(config: FitConfig) -> Any:
    if gpus := _wanted_gpus(config):
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(gpus)])
    if config.replicas is None:
        raise UserError(
            "strategy=mirrored found no GPU. Expected GPUs, or replicas=2 to split the processor "
            "into two devices, which is for trying out." + see("no-gpu")
        )
    processor = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * config.replicas
    try:
        tf.config.set_logical_device_configuration(processor, parts)
    except RuntimeError as error:  # TensorFlow has begun
        there = len(tf.config.list_logical_devices("CPU"))
        if there < config.replicas:
            raise UserError(
                f"replicas is {config.replicas}, but this process has used TensorFlow before with "
                f"{there} logical processors, which cannot be changed. Start a new process."
            ) from error
    return tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(config.replicas)],
        # The default collectives fail on processors inside a loop (keras issue 19246).
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _multi_worker(config: FitConfig) -> tuple[Any, int, tuple[str, ...]]:
    if config.replicas is not None and not _gpus():
        raise UserError(
            f"replicas is {config.replicas} under strategy=multi_worker, but this machine has no "
            f"GPU. Expected null: a worker without GPUs is one replica; start more workers."
        )
    resolver, workers, worker = resolve_cluster(config.cluster, gpus=_wanted_gpus(config))
    timeout_s = config.cluster.timeout_s
    meet(workers, worker, notes_of(config), timeout_s=timeout_s)
    with lost_workers_end_the_run(workers), ends_after(timeout_s):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    return strategy, worker, workers


def _tpu(config: FitConfig) -> Any:
    where = config.cluster.tpu
    asked = f"cluster.tpu={where}" if where else "the TPU of this machine (cluster.tpu=null)"
    if config.training.deterministic:
        raise UserError(
            "training.deterministic is true on a TPU. Expected false: TensorFlow has "
            "no deterministic mode there; XLA programs repeat themselves anyway."
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=where or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"strategy=tpu cannot use {asked}: {reason}. Expected the name or grpc:// address of a "
            f"TPU in cluster.tpu, or null on a TPU VM."
        ) from error


def replica_seeds(model: keras.Model, *, seed: int) -> Callable[[tf.Tensor], None]:
    """A function `reseed(step)`, for replica context: sets the seeds of the model's random layers.

    Keras' `SeedGenerator` counts its calls, and all replicas count alike: every replica would drop
    the same cells, and a step's numbers would depend on how the training came there.
    """
    # Keras gives this name to the state of every SeedGenerator, and to nothing else.
    states: list[Any] = [
        v for v in model.non_trainable_variables if v.name == "seed_generator_state"
    ]

    def reseed(step: tf.Tensor) -> None:
        for number, state in enumerate(states):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            key = tf.constant([seed % 2**31, number], tf.int64)
            for data in (step, tf.cast(replica, tf.int64)):
                key = tf.random.experimental.stateless_fold_in(key, data, alg="philox")
            state.assign(key)

    return reseed


def averaging_of_replicas(
    model: keras.Model, strategy: tf.distribute.Strategy
) -> Callable[[], None]:
    """A function that gives all replicas the mean of what each has gathered.

    Keras lets every replica keep statistics of its own (BatchNorm), so that a saved model would
    know a part of the images only.
    """
    own: list[Any] = [
        variable.value
        for variable in model.non_trainable_variables
        if variable.aggregation == "none" and variable.dtype.startswith("float")
    ]
    if strategy.num_replicas_in_sync == 1 or not own:
        return lambda: None

    @tf.function(autograph=False)
    def average() -> None:
        copies = strategy.run(lambda: [tf.convert_to_tensor(variable) for variable in own])
        for variable, values in zip(own, copies, strict=True):
            variable.assign(strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None))

    return average
