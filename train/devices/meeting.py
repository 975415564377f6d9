"""Workers meet at their addresses before TensorFlow's do, and see that all have the same to do."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
import train
from train.config import FitConfig
from train.errors import UserError

ANSWER_WITHIN_S = 2.0
MAY_DIFFER = ("run_directory", "training.progress", "cluster.", "data.data_dir", "import_from")


def notes_of(config: FitConfig) -> dict[str, str]:
    """What must be the same on all workers: name to value."""
    code = hashlib.sha256()
    for package in (tfwm, train):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            code.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    versions = {"the code": code.hexdigest()[:12], "tensorflow": tf.__version__}
    keys = _flat(dataclasses.asdict(config))
    return versions | {
        "keras": keras.__version__,
        **{key: repr(value) for key, value in keys if not key.startswith(MAY_DIFFER)},
    }


def meet(
    workers: Sequence[str], worker: int, notes: Mapping[str, str], *, timeout_s: float
) -> None:
    """Returns when every worker has heard of every other, and all have the same notes.

    TensorFlow's strategy waits for all workers when it is made, up to an hour, and cannot be
    interrupted then.

    Args:
        workers: host:port of all workers.
        worker: Which of them this process is.
        notes: As `notes_of` gives them.
        timeout_s: How long to wait.

    Raises:
        UserError: If a worker did not come in time, or has other notes; on all workers.
    """
    message = json.dumps([worker, dict(notes)]).encode() + b"\n"
    give_up = time.monotonic() + timeout_s
    with _listener(int(workers[worker].rpartition(":")[2]), message) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        heard = server.heard
        heard[worker] = dict(notes)
        while (silent := set(range(len(workers))) - heard.keys()) and time.monotonic() < give_up:
            for other in silent:
                _exchange(workers[other], message, heard)
            time.sleep(0.05)
        server.shutdown()
    if silent:
        raise UserError(
            f"The cluster did not come together within {timeout_s:g} s (cluster.timeout_s): "
            f"{', '.join(workers[other] for other in sorted(silent))} did not answer. Expected the "
            f"same command on every worker."
        )
    differing = _differences(heard)
    if differing:
        raise UserError(
            f"The workers have not the same to do: {'; '.join(differing[:5])}. Expected the same "
            f"command and the same code on every worker."
        )


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, message: bytes) -> None:
        self.message = message
        self.heard: dict[int, dict[str, str]] = {}
        super().__init__(("", port), _Ear)


class _Ear(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        with contextlib.suppress(OSError, ValueError, TypeError):  # a stranger at the port
            worker, notes = json.loads(self.rfile.readline())
            self.wfile.write(server.message)
            server.heard[worker] = notes  # not before the answer: this process may end on it


def _listener(port: int, message: bytes) -> _Server:
    try:
        return _Server(port, message)
    except OSError as error:
        raise UserError(
            f"This worker's port {port} cannot be listened at: {error.strerror}. Expected a free "
            f"port of this machine."
        ) from error


def _exchange(address: str, message: bytes, heard: dict[int, dict[str, str]]) -> None:
    """Tells another worker the notes and hears its own, if it is there."""
    host, _, port = address.rpartition(":")
    with (
        contextlib.suppress(OSError, ValueError, TypeError),
        socket.create_connection((host, int(port)), timeout=ANSWER_WITHIN_S) as connection,
        connection.makefile("rwb") as stream,
    ):
        stream.write(message)
        stream.flush()
        worker, notes = json.loads(stream.readline())
        heard[worker] = notes


def _differences(notes: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Names whose values are not the same on all workers, with these."""
    found = []
    for name in dict.fromkeys(name for worker in sorted(notes) for name in notes[worker]):
        values: dict[str, list[int]] = {}
        for worker in sorted(notes):
            values.setdefault(notes[worker].get(name, "not there"), []).append(worker)
        if len(values) > 1:
            said = [f"{value} on worker {who[0]}" for value, who in values.items()]
            found.append(f"{name} is {' and '.join(said)}")
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
