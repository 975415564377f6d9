"""Workers meet before TensorFlow's do, agree, and notice when one of them is gone."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from train.config import FitConfig
from train.errors import UserError, see
from train.parsing.phases import leaves
from train.parts.named import code_hash, own_code

WORKER_LOST = 3
"""Exit status when another worker went silent."""
ANSWER_WITHIN_S = 2.0
WORKERS_OWN = ("run_directory", "training.progress", "cluster.", "data.data_dir", "import_from")


def notes_of(config: FitConfig) -> dict[str, str]:
    """What must be the same on all workers: name to value."""
    notes = {f"the code of {name}": code_hash(name) for name in ("tfweightmirror", "train")}
    notes |= {f"the code of {name}": code for name, code in own_code(config).items()}
    notes |= {"tensorflow": tf.__version__, "keras": keras.__version__}
    values = leaves(config).items()
    return notes | {key: repr(value) for key, value in values if not key.startswith(WORKERS_OWN)}


def meet(
    workers: Sequence[str], worker: int, notes: Mapping[str, str], *, timeout_s: float
) -> None:
    """Returns when all workers are there with the same notes; else all raise UserError.

    TensorFlow's strategy waits for all workers when it is made, up to an hour, and cannot be
    interrupted then. So each tells its notes to the first, which answers when it has heard all.

    Args:
        workers: host:port of all workers.
        worker: Which of them this process is.
        notes: As `notes_of` gives them.
        timeout_s: How long to wait.
    """
    port = int(workers[worker].rpartition(":")[2])
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise UserError(
            f"This worker's port {port} cannot be listened at: {error.strerror}. Expected a free "
            f"port of this machine."
        ) from error
    give_up = time.monotonic() + timeout_s
    with server:
        if worker == 0:
            silent, differing = _hear_all(server, len(workers), notes, give_up)
        else:
            message = json.dumps([worker, dict(notes)]).encode() + b"\n"
            silent, differing = _ask(workers[0], message, give_up, timeout_s)
    if silent:
        raise UserError(
            f"The cluster did not come together within {timeout_s:g} s (cluster.timeout_s): "
            f"{', '.join(workers[other] for other in silent)} did not answer. Expected the "
            f"same command on every worker." + see("workers-that-do-not-meet")
        )
    if differing:
        raise UserError(
            f"The workers have not the same to do: {'; '.join(differing[:5])}. Expected the same "
            f"command and the same code on every worker."
        )


def _hear_all(
    server: socket.socket, count: int, notes: Mapping[str, str], give_up: float
) -> tuple[list[int], list[str]]:
    """The workers that did not come, and what differs between those that did, who are told, too."""
    heard, callers = {0: notes}, []
    with contextlib.ExitStack() as connections:
        while len(heard) < count and (left_s := give_up - time.monotonic()) > 0:
            server.settimeout(left_s)
            with contextlib.suppress(OSError, ValueError, TypeError):  # nobody, or a stranger
                caller = connections.enter_context(server.accept()[0])
                caller.settimeout(ANSWER_WITHIN_S)
                number, told = json.loads(caller.makefile("rb").readline())
                heard[int(number)] = dict(told)
                callers.append(caller)
        verdict = [n for n in range(count) if n not in heard], _differences(heard)
        for caller in callers:
            with contextlib.suppress(OSError):
                caller.sendall(json.dumps(verdict).encode() + b"\n")
    return verdict


def _ask(
    chief: str, message: bytes, give_up: float, timeout_s: float
) -> tuple[list[int], list[str]]:
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError, ValueError), _connection(chief) as connection:
            connection.sendall(message)
            # The chief may begin to wait only now, and be held up by a stranger at its end.
            connection.settimeout(timeout_s + 2 * ANSWER_WITHIN_S)
            silent, differing = json.loads(connection.makefile("rb").readline())
            return silent, differing
        time.sleep(0.05)
    return [0], []


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=ANSWER_WITHIN_S)


def _differences(heard: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Names whose values are not the same on all workers, with the first worker of each value."""
    found = []
    for name in dict.fromkeys(name for notes in heard.values() for name in notes):
        values = {heard[n].get(name, "not there"): n for n in sorted(heard, reverse=True)}
        if len(values) > 1:
            in_order = sorted(values.items(), key=lambda value: value[1])
            said = " and ".join(f"{value} on worker {n}" for value, n in in_order)
            found.append(f"{name} is {said}")
    return found


@contextlib.contextmanager
def ends_after(timeout_s: float) -> Iterator[None]:
    """A context that ends this process if it lasts longer: a worker died behind the meeting.

    While TensorFlow waits for its workers no Python runs here, not even on a signal. So another
    process says the sentence and sends SIGQUIT, number 3, which `_exit` takes for the status.
    """
    code = (
        "import os, select, sys\n"
        "if not select.select([sys.stdin], [], [], float(sys.argv[1]))[0]:\n"
        "    print('error:', sys.argv[2], file=sys.stderr, flush=True)\n"
        "    os.kill(os.getppid(), int(sys.argv[3]))"
    )
    sentence = (
        f"A worker is lost: all have met, but TensorFlow's workers did not come together within "
        f"{timeout_s:g} s (cluster.timeout_s). Start the same command again on all workers."
    )
    command = [sys.executable, "-c", code, str(timeout_s), sentence, str(WORKER_LOST)]
    libc = ctypes.CDLL(None)
    libc.signal(WORKER_LOST, libc._exit)
    # In a process group of its own: Ctrl-C on the terminal does not end it. Its input does.
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0):
        yield
    libc.signal(WORKER_LOST, None)


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
        print(
            f"error: A worker is lost{names}. Start the same command again on all workers: it goes "
            f"on from the last checkpoint{f' in {where}' if where else ''}.",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(WORKER_LOST)  # an orderly end would wait for the worker that is gone


def is_lost_worker(error: Exception) -> bool:
    """Whether a collective operation failed because another worker went silent."""
    kinds = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded")
    return isinstance(error, tuple(getattr(tf.errors, f"{kind}Error") for kind in kinds))


def _answers(address: str) -> bool:
    try:
        _connection(address).close()
    except OSError:
        return False
    return True
