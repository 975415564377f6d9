"""Where a model trains: a `tf.distribute` strategy from the configuration and the machine."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import tensorflow as tf

from train.config import ClusterConfig, FitConfig
from train.devices.cluster import lost_workers_end_the_run, resolve_cluster
from train.devices.meeting import meet, notes_of
from train.errors import UserError


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
    """Makes the strategy. Must come before TensorFlow's first operation.

    Raises:
        UserError: If the machine has not what the configuration asks for, or a batch does not
            divide among the replicas.
    """
    name = strategy_name(config)
    trains_on = {"one_device": "one device", "tpu": "all cores of the TPU"}.get(name)
    if trains_on and config.replicas is not None:
        raise UserError(
            f"replicas is {config.replicas} and the strategy is {name}, which trains on "
            f"{trains_on}. Expected strategy=mirrored, or replicas=null."
        )
    build = {
        "one_device": _one_device,
        "mirrored": _mirrored,
        "multi_worker": _multi_worker,
        "tpu": _tpu,
    }[name]
    placement = build(config)
    for key in ("batch_size", "test_batch_size"):
        _check_divisible(key, getattr(config.training, key), placement)
    if config.training.jit_compile and placement.replicas > 1 and not _accelerators():
        raise UserError(
            f"training.jit_compile is true on {placement.replicas} replicas of a processor, where "
            f"XLA has no collective operations. Expected false, or strategy=one_device."
        )
    return placement


def strategy_name(config: FitConfig) -> str:
    """The strategy that the configuration names, or that the machine has; never `auto`."""
    return config.strategy if config.strategy != "auto" else _what_there_is(config.cluster)


def _what_there_is(cluster: ClusterConfig) -> str:
    if cluster.workers or os.environ.get("TF_CONFIG"):
        return "multi_worker"
    if cluster.tpu or tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(_accelerators()) > 1 else "one_device"


def _accelerators() -> list[Any]:
    return list(tf.config.list_physical_devices("GPU"))


def _one_device(config: FitConfig) -> Placement:
    # The default strategy is plain TensorFlow: the first GPU, or the processor.
    return Placement("one_device", tf.distribute.get_strategy())


def _mirrored(config: FitConfig) -> Placement:
    gpus = _accelerators()
    wanted = config.replicas or len(gpus)
    if gpus:
        if wanted > len(gpus):
            raise UserError(
                f"replicas is {wanted}, but this machine has {len(gpus)} GPUs. Expected at most "
                f"that many."
            )
        devices = [f"GPU:{number}" for number in range(wanted)]
        return Placement("mirrored", tf.distribute.MirroredStrategy(devices))
    if not wanted:
        raise UserError(
            "strategy=mirrored found no GPU. Expected GPUs, or replicas=2 to split the processor "
            "into two devices, which is for trying out."
        )
    _split_processor(wanted)
    devices = [f"CPU:{number}" for number in range(wanted)]
    # The default collectives fail on processors inside a loop (keras issue 19246).
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    return Placement("mirrored", strategy)


def _split_processor(devices: int) -> None:
    processor = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * devices
        )
    except RuntimeError as error:  # TensorFlow has begun
        there = len(tf.config.list_logical_devices("CPU"))
        if there < devices:
            raise UserError(
                f"replicas is {devices}, but this process has used TensorFlow before with "
                f"{there} logical processors, which cannot be changed. Start a new process."
            ) from error


def _multi_worker(config: FitConfig) -> Placement:
    if config.replicas is not None and not _accelerators():
        raise UserError(
            f"replicas is {config.replicas} under strategy=multi_worker, but this machine has no "
            f"GPU. Expected null: a worker without GPUs is one replica; start more workers."
        )
    resolver, workers, index = resolve_cluster(config.cluster)
    meet(workers, index, notes_of(config), timeout_s=config.cluster.timeout_s)
    with lost_workers_end_the_run(workers):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    return Placement("multi_worker", strategy, worker=index, workers=workers)


def _tpu(config: FitConfig) -> Placement:
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
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"strategy=tpu cannot use {asked}: {reason}. Expected the name or grpc:// address of a "
            f"TPU in cluster.tpu, or null on a TPU VM."
        ) from error
    return Placement("tpu", strategy)


def _check_divisible(key: str, batch_size: int, placement: Placement) -> None:
    if batch_size % placement.replicas:
        nearest = -(-batch_size // placement.replicas) * placement.replicas
        raise UserError(
            f"training.{key} is {batch_size}, which does not divide among {placement.replicas} "
            f"replicas: uneven parts would change the gradient. Expected a multiple, such as "
            f"{nearest}."
        )
