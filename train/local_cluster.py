"""Starts several workers on this machine, to try out `strategy: multi_worker`.

    python -m train.local_cluster --workers 2 -- fit --config configs/quickstart.yaml \\
        --run_directory=runs/two_workers

Everything behind `--` is what `python -m train` would get; every worker gets the same, with a free
port of this machine in `cluster.workers`. The chief's output is shown as it comes, the others' with
their number in front. When one worker ends with an error, the others have `cluster.timeout_s` to
notice it themselves; its status is the status of all.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from train.signals import heard


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the workers and returns the first status that is not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m train.local_cluster",
        description="Starts several workers on this machine.",
    )
    parser.add_argument("--workers", type=int, default=2, help="how many; default 2")
    parser.add_argument("command", nargs="+", help="behind --: a command of python -m train")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}. Expected 1 or more.")
    workers = start(options.workers, options.command)

    def pass_on(number: int, _: Any) -> None:
        for worker in workers:
            worker.send_signal(number)

    with heard((signal.SIGTERM, signal.SIGINT), pass_on):
        statuses = [worker.wait() for worker in workers]
    # Of a worker that had nothing to keep yet it is the signal, negative.
    return next((status if status > 0 else 128 - status for status in statuses if status), 0)


def start(count: int, command: Sequence[str], **options: Any) -> list[subprocess.Popen[str]]:
    """Starts `python -m train command` for every worker, with its place in the cluster.

    `options` are those of `subprocess.Popen`. Without `stdout`, what workers print is forwarded.
    """
    addresses = ",".join(f"localhost:{port}" for port in free_ports(count))
    cluster = ["--strategy=multi_worker", f"--cluster.workers=[{addresses}]"]
    workers = []
    for index in range(count):
        forwarded = index > 0 and "stdout" not in options
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        # In a process group of its own: Ctrl-C on the terminal reaches us alone.
        worker = subprocess.Popen(
            [sys.executable, "-m", "train", *command, *cluster, f"--cluster.index={index}"],
            text=True,
            process_group=0,
            **(pipes if forwarded else {}),
            **options,
        )
        if forwarded:
            # Not a daemon: the last lines are shown, too.
            threading.Thread(target=_forward, args=(worker, index), name=f"worker {index}").start()
        workers.append(worker)
    return workers


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _forward(worker: subprocess.Popen[str], index: int) -> None:
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            print(f"[worker {index}] {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
