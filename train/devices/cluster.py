"""Several processes that train one model: who they are, and noticing when one of them is gone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from train.config import ClusterConfig
from train.errors import UserError

WORKER_LOST = 3
"""Exit status when another worker went silent."""


def resolve_cluster(config: ClusterConfig) -> tuple[Any, tuple[str, ...], int]:
    """The resolver, the addresses of all workers, and which of them this process is.

    Raises:
        UserError: If the description is missing, contradicts itself or has parameter servers.
    """
    source: str = config.source
    if source == "auto":
        source = _what_there_is(config)
    resolver = {
        "workers": _by_hand,
        "tf_config": _from_tf_config,
        "slurm": _from_slurm,
        "kubernetes": _from_kubernetes,
    }[source](config)
    cluster = resolver.cluster_spec().as_dict()
    check_task_types(cluster)
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    addresses = tuple(_address(task) for task in [*chiefs, *workers])
    index = int(resolver.task_id or 0) + (len(chiefs) if resolver.task_type == "worker" else 0)
    if not 0 <= index < len(addresses):
        raise UserError(
            f"This process is worker {index}, but the cluster has {len(addresses)}, counted from "
            f"0: {', '.join(addresses)}."
        )
    return resolver, addresses, index


def check_task_types(cluster: Mapping[str, Any]) -> None:
    """Raises UserError for a cluster with parameter servers or nobody to train."""
    if "ps" in cluster:
        raise UserError(
            "The cluster has tasks of type ps. Parameter servers are not supported: Keras 3 has "
            "none (keras issue 18624), and B would meet gradients of another W. Expected chief and "
            "worker tasks alone."
        )
    unknown = sorted(set(cluster) - {"chief", "worker"})
    if unknown or not cluster:
        raise UserError(
            f"The cluster has tasks of type {', '.join(unknown) or 'none'}. Expected chief and "
            f"worker."
        )


def _what_there_is(config: ClusterConfig) -> str:
    if config.workers:
        return "workers"
    if os.environ.get("TF_CONFIG"):
        return "tf_config"
    if "SLURM_PROCID" in os.environ:
        return "slurm"
    if config.kubernetes_selector:
        return "kubernetes"
    raise UserError(
        "strategy=multi_worker found no description of the cluster. Expected TF_CONFIG, a Slurm "
        "job step (srun), cluster.kubernetes_selector, or cluster.workers=[host:port,...] and "
        "cluster.index. `python -m train.local_cluster` starts several workers on this machine."
    )


def _by_hand(config: ClusterConfig) -> Any:
    if not config.workers or config.index is None:
        raise UserError(
            f"cluster.workers is {list(config.workers)} and cluster.index is {config.index}. "
            f"Expected both: host:port of every worker, and which of them this process is."
        )
    for address in config.workers:
        host, _, port = address.rpartition(":")
        if not host or not re.fullmatch("[0-9]+", port) or not 0 < int(port) < 2**16:
            raise UserError(
                f"cluster.workers has {address!r}. Expected host:port, the port from 1 to 65535."
            )
    if not 0 <= config.index < len(config.workers):
        raise UserError(
            f"cluster.index is {config.index}, but cluster.workers has {len(config.workers)} "
            f"entries. Expected 0 to {len(config.workers) - 1}."
        )
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(config.workers)}),
        task_type="worker",
        task_id=config.index,
        rpc_layer="grpc",
    )


def _from_tf_config(config: ClusterConfig) -> Any:
    text = os.environ.get("TF_CONFIG", "")
    try:
        tree = json.loads(text)
        check_task_types(tree["cluster"])
        _ = tree["task"]["type"], int(tree["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"TF_CONFIG is {text!r}. Expected JSON such as "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.'
        ) from error
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()


def _from_slurm(config: ClusterConfig) -> Any:
    try:
        return tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=config.port,
            # Slurm gives each task its GPUs; the resolver would ask nvidia-smi, and leave out tasks
            # for which it finds none.
            gpus_per_node=2**10,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"cluster.source=slurm: {' '.join(str(error).split())} Expected to be started by srun, "
            f"inside a job."
        ) from error


def _from_kubernetes(config: ClusterConfig) -> Any:
    if not config.kubernetes_selector:
        raise UserError(
            "cluster.source is kubernetes and cluster.kubernetes_selector is null. Expected the "
            "label selector of the workers' pods, such as job-name=my-job."
        )
    try:
        resolver = tf.distribute.cluster_resolver.KubernetesClusterResolver(
            {"worker": [config.kubernetes_selector]}, tf_server_port=config.port
        )
        addresses = [_address(a) for a in resolver.cluster_spec().as_dict().get("worker", [])]
    except ImportError as error:
        raise UserError(
            "cluster.source=kubernetes needs the Python package kubernetes: pip install kubernetes."
        ) from error
    except Exception as error:  # whatever the cluster's API server answered
        raise UserError(
            f"cluster.source=kubernetes: {' '.join(str(error).split())[:200]}. Expected rights to "
            f"list the pods of {config.kubernetes_selector}."
        ) from error
    # The resolver leaves it to the caller to know which pod this is.
    own = {socket.gethostbyname(socket.gethostname()), os.environ.get("POD_IP")}
    index = next((i for i, a in enumerate(addresses) if a.rpartition(":")[0] in own), None)
    if index is None:
        raise UserError(
            f"None of the pods of {config.kubernetes_selector} ({', '.join(addresses)}) has this "
            f"pod's address. Expected it among them, or its address in POD_IP."
        )
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=index,
        rpc_layer="grpc",
    )


def _address(task: str) -> str:
    return task.rpartition("//")[2]


@contextlib.contextmanager
def lost_workers_end_the_run(
    workers: Sequence[str], *, where: Path | None = None
) -> Iterator[None]:
    """A context in which the loss of a worker ends this process with one sentence.

    TensorFlow notices a closed connection at once, and a silent worker by its heartbeat, in about
    ten seconds; collective operations then fail on all others.

    Args:
        workers: host:port of all workers; empty for one process.
        where: The checkpoints.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not workers or not is_lost_worker(error):
            raise
        silent = [address for address in workers if not _answers(address)]
        names = f" ({', '.join(silent)} does not answer)" if silent else ""
        _leave(
            f"A worker is lost{names}. Start the same command again on all workers: it goes on "
            f"from the last checkpoint{f' in {where}' if where else ''}."
        )


def anybody(strategy: tf.distribute.Strategy) -> Callable[[bool], bool]:
    """A function that says on every worker whether any worker said yes.

    All must call it, so that it is a place where they wait for each other, too.
    """
    total = _sum_over_workers(strategy)
    return lambda mine: total(int(mine)) > 0


def agree(strategy: tf.distribute.Strategy, text: str) -> bool:
    """Whether all workers say the same; all must call it, and all get the same answer."""
    total = _sum_over_workers(strategy)
    mine = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    return total(int(total(mine) != mine * total(1))) == 0


def _sum_over_workers(strategy: tf.distribute.Strategy) -> Callable[[int], int]:
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return int

    @tf.function(autograph=False)
    def total(mine: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: mine), axis=None)

    return lambda mine: int(total(tf.constant(mine, tf.int64)))


def _leave(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # An orderly end would wait for the worker that is gone.
    os._exit(WORKER_LOST)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except OSError:
        return False


def is_lost_worker(error: Exception) -> bool:
    """Whether a collective operation failed because another worker went silent."""
    errors = tf.errors
    kinds = (errors.UnavailableError, errors.AbortedError, errors.CancelledError)
    return isinstance(error, (*kinds, errors.DeadlineExceededError))
