"""Several processes that train one model: who they are, and which of them this one is."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from train.config import ClusterConfig
from train.errors import UserError, see

Described = tuple[dict[str, list[str]], str, int]
"""Addresses of every type of task, and the type and index of this process' task."""


def resolve_cluster(config: ClusterConfig, *, gpus: int = 0) -> tuple[Any, tuple[str, ...], int]:
    """The resolver, host:port of all workers, and which of them this process is, with `gpus`."""
    sources: dict[str, tuple[Any, Callable[[ClusterConfig], Described]]] = {
        "workers": (config.workers, _by_hand),
        "tf_config": (os.environ.get("TF_CONFIG"), _from_tf_config),
        "slurm": ("SLURM_PROCID" in os.environ, _from_slurm),
        "kubernetes": (config.kubernetes_selector, _from_kubernetes),
    }
    there = [name for name, (described, _) in sources.items() if described]
    if config.source == "auto" and not there:
        raise UserError(
            "strategy=multi_worker found no description of the cluster. Expected TF_CONFIG, a "
            "Slurm job step (srun), cluster.kubernetes_selector, or cluster.workers=[host:port,"
            "...] and cluster.index. `python -m train.local_cluster` starts several workers on "
            "this machine." + see("no-cluster")
        )
    _, describe = sources[there[0] if config.source == "auto" else config.source]
    cluster, kind, index = describe(config)
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
    chiefs = cluster.get("chief", [])
    tasks = [*chiefs, *cluster.get("worker", [])]
    addresses = tuple(task.rpartition("//")[2] for task in tasks)
    worker = index + len(chiefs) if kind == "worker" else index
    if not 0 <= worker < len(addresses):
        raise UserError(
            f"This process is worker {worker}, but the cluster has {len(addresses)}, counted from "
            f"0: {', '.join(addresses)}."
        )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster),
        task_type=kind,
        task_id=index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    return resolver, addresses, worker


def _by_hand(config: ClusterConfig) -> Described:
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
    return {"worker": list(config.workers)}, "worker", config.index


def _from_tf_config(config: ClusterConfig) -> Described:
    text = os.environ.get("TF_CONFIG", "")
    try:
        tree = json.loads(text)
        cluster = tf.train.ClusterSpec(tree["cluster"]).as_dict()
        return cluster, tree["task"]["type"], int(tree["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"TF_CONFIG is {text!r}. Expected JSON such as "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.'
        ) from error


def _from_slurm(config: ClusterConfig) -> Described:
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=config.port,
            # Slurm gives each task its GPUs; the resolver would ask nvidia-smi, and leave out tasks
            # for which it finds none.
            gpus_per_node=2**10,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        return resolver.cluster_spec().as_dict(), resolver.task_type, resolver.task_id
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"cluster.source=slurm: {' '.join(str(error).split())} Expected to be started by srun, "
            f"inside a job."
        ) from error


def _from_kubernetes(config: ClusterConfig) -> Described:
    if not config.kubernetes_selector:
        raise UserError(
            "cluster.source is kubernetes and cluster.kubernetes_selector is null. Expected the "
            "label selector of the workers' pods, such as job-name=my-job."
        )
    try:
        cluster = (
            tf.distribute.cluster_resolver.KubernetesClusterResolver(
                {"worker": [config.kubernetes_selector]}, tf_server_port=config.port
            )
            .cluster_spec()
            .as_dict()
        )
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
    pods = [re.sub("^.*//|:[0-9]+$", "", task) for task in cluster.get("worker", [])]
    index = next((index for index, pod in enumerate(pods) if pod in own), None)
    if index is None:
        raise UserError(
            f"None of the pods of {config.kubernetes_selector} ({', '.join(pods)}) has this "
            f"pod's address. Expected it among them, or its address in POD_IP."
        )
    return cluster, "worker", index
