"""Several processes: descriptions of clusters, and the loss of a worker."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from train import local_cluster
from train.config import ClusterConfig, FitConfig
from train.devices import cluster
from train.devices.cluster import WORKER_LOST, meet, notes_of
from train.devices.resolver import resolve_cluster
from train.errors import DivergedError, UserError
from train.local_cluster import free_ports, start
from train.parsing.command_line import parse
from train.parts import models

REPOSITORY = Path(__file__).parents[2]

RUN = [
    "fit",
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[8]",
    "--feedback.rule=kp",
    "--optimizer.weight_decay=0.1",
    "--training.progress=none",
    "--checkpoint.every_steps=2",
]


def test_workers_by_hand() -> None:
    addresses = ("localhost:1111", "localhost:1112")
    resolver, workers, index = resolve_cluster(ClusterConfig(workers=addresses, index=1))
    assert (workers, index) == (addresses, 1)
    assert resolver.cluster_spec().as_dict() == {"worker": list(addresses)}


@pytest.mark.parametrize(("task", "expected"), [("chief", 0), ("worker", 2)])
def test_tf_config_with_a_chief(monkeypatch: pytest.MonkeyPatch, task: str, expected: int) -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    described = {"cluster": cluster, "task": {"type": task, "index": 0 if task == "chief" else 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    _, workers, index = resolve_cluster(ClusterConfig())
    assert workers == ("a:1", "b:1", "c:1")
    assert index == expected


def test_slurm_job_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What srun puts into the environment of the third of four tasks, two a node."""
    step = {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_STEP_NODELIST": "n[1-2]",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    _, workers, index = resolve_cluster(ClusterConfig(port=7000))
    assert workers == ("n1:7000", "n1:7001", "n2:7000", "n2:7001")
    assert index == 2


def at_once(*functions: Callable[[], object]) -> list[object]:
    """What functions that wait for each other give back, or the user errors they raise."""

    def caught(function: Callable[[], object]) -> object:
        try:
            return function()
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(caught, functions))


def meeting(*notes: dict[str, str], timeout_s: float = 20.0) -> list[object]:
    """What a worker for each of `notes` is told."""
    workers = [f"localhost:{port}" for port in free_ports(len(notes))]
    there = functools.partial(meet, workers, timeout_s=timeout_s)
    return at_once(*(functools.partial(there, i, note) for i, note in enumerate(notes)))


def test_workers_with_the_same_to_do_meet() -> None:
    notes = notes_of(FitConfig())
    assert meeting(notes, notes, notes) == [None, None, None]


def test_key_that_differs_is_named_on_all_workers() -> None:
    configs = [FitConfig(), FitConfig(), FitConfig(seed=7)]
    told = meeting(*map(notes_of, configs))
    assert len(set(told)) == 1
    assert told[0] == (
        "The workers have not the same to do: seed is 0 on worker 0 and 7 on worker 2. Expected "
        "the same command and the same code on every worker."
    )


def test_options_code_and_versions_must_be_the_same_but_not_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = notes_of(parse(["fit", "--optimizer.options.momentum=0.9", "--run_directory=/a"])[0])
    parts = ["--optimizer.options.momentum=0.8", "--run_directory=/b", "--cluster.timeout_s=9"]
    monkeypatch.setattr(tf, "__version__", "0.1")
    other = notes_of(parse(["fit", *parts])[0])
    other["the code of train"] = "of another commit"
    (sentence, _) = meeting(one, other)
    for part in (
        "the code of train is",
        "tensorflow is",
        "optimizer.options.momentum is 0.9 on worker 0",
    ):
        assert part in str(sentence)
    assert str(sentence).count(" on worker 1") == 3


def test_strangers_at_the_port_are_not_taken_for_workers() -> None:
    workers = [f"localhost:{port}" for port in free_ports(2)]
    port = int(workers[0].rpartition(":")[2])

    def knock() -> None:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"7\n", b"[1, 7]\n", b"\xff\n"):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    with socket.create_connection(("localhost", port), timeout=5) as connection:
                        connection.sendall(said)
                    break
        meet(workers, 1, {"seed": "7"}, timeout_s=20.0)

    chief = functools.partial(meet, workers, 0, {"seed": "0"}, timeout_s=20.0)
    told = at_once(chief, knock)
    assert told[0] == told[1]
    assert "seed is 0 on worker 0 and 7 on worker 1." in str(told[0])


@pytest.mark.parametrize(("here", "missing"), [(0, 1), (1, 0)])
def test_cluster_that_does_not_come_together_ends_in_the_stated_time(
    here: int, missing: int
) -> None:
    workers = [f"localhost:{port}" for port in free_ports(2)]
    with pytest.raises(UserError) as caught:
        meet(workers, here, {}, timeout_s=0.3)
    assert "did not come together within 0.3 s (cluster.timeout_s): " in str(caught.value)
    assert f": {workers[missing]} did not answer." in str(caught.value)


def test_all_who_came_are_told_who_did_not() -> None:
    workers = [f"localhost:{port}" for port in free_ports(3)]
    told = at_once(*(functools.partial(meet, workers, i, {}, timeout_s=1.0) for i in (0, 1)))
    assert told[0] == told[1]
    assert f": {workers[2]} did not answer." in str(told[0])


def test_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be listened at: Address already"):
            meet([f"localhost:{port}"], 0, {}, timeout_s=1.0)


@pytest.mark.parametrize(("said", "agreed"), [("a a a", True), ("a b b", False), ("a a c", False)])
def test_workers_that_find_other_checkpoints_all_know_it(
    monkeypatch: pytest.MonkeyPatch, said: str, agreed: bool
) -> None:
    texts = said.split()
    heard: list[int] = []
    barrier = threading.Barrier(len(texts))

    def total(mine: int) -> int:
        heard.append(mine)
        barrier.wait()
        result = sum(heard)
        if barrier.wait() == 0:
            heard.clear()
        barrier.wait()
        return result

    monkeypatch.setattr(cluster, "_sum_over_workers", lambda _: total)
    asked = [lambda text=text: cluster.agree(None, text) for text in texts]
    assert at_once(*asked) == [agreed] * len(texts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_cluster_passes_signals_on_to_its_workers(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    default = f"signal.signal({number}, signal.SIG_DFL)"  # it may be ignored here
    code = f"import signal, time; {default}; print('here', flush=True); time.sleep(60)"
    sleep = [sys.executable, "-c", code]
    workers = [subprocess.Popen(sleep, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    monkeypatch.setattr(local_cluster, "start", lambda *_: workers)

    def terminate() -> None:
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
            worker.stdout.close()
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.default_int_handler)
    try:
        threading.Thread(target=terminate).start()
        assert local_cluster.main(["--", "fit"]) == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert all(worker.returncode != 0 for worker in workers)


def test_local_cluster_shows_what_its_workers_say_and_ends_with_their_status(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert local_cluster.main(["--workers", "2", "--", "fti"]) == 2
    for thread in threading.enumerate():
        if thread.name.startswith("worker "):
            thread.join(timeout=20)
    out, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert "'fti' is not a command" in err
    assert out == f"[worker 1] {err}"


def finish(workers: list[subprocess.Popen[str]], within_s: float) -> list[tuple[int, str]]:
    ended = [(worker.communicate(timeout=within_s)[0], worker) for worker in workers]
    return [(worker.returncode, text) for text, worker in ended]


def start_two(directory: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [*RUN, f"--run_directory={directory}", *arguments]
    return start(2, command, cwd=REPOSITORY, **pipes)


@pytest.mark.slow
def test_loss_that_is_not_finite_ends_all_workers_at_the_same_step(tmp_path: Path) -> None:
    """Each sees the loss of its own images; one that went on alone would wait for ever."""
    options = ["--training.epochs=2", "--optimizer.learning_rate=1e30"]
    ended = finish(start_two(tmp_path / "run", *options), within_s=120)
    for status, said in ended:
        assert status == DivergedError.status, said
        assert "error: The loss" in said
        assert "training step 2" in said


@pytest.mark.slow
@pytest.mark.always
def test_worker_that_dies_between_the_meeting_and_tensorflows_own_ends_the_others(
    tmp_path: Path,
) -> None:
    """The second worker meets the first, and is gone before TensorFlow's has registered."""
    workers = [f"localhost:{port}" for port in free_ports(2)]
    keys = [
        *(*RUN, f"--run_directory={tmp_path / 'run'}", "--strategy=multi_worker"),
        *(f"--cluster.workers=[{','.join(workers)}]", "--cluster.timeout_s=4"),
    ]
    chief = subprocess.Popen(
        [sys.executable, "-m", "train", *keys, "--cluster.index=0"],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    config = parse([*keys, "--cluster.index=1"])[0]
    filled = dataclasses.replace(config, model=models.filled(config.model))
    meet(workers, 1, notes_of(filled), timeout_s=120.0)
    said = chief.communicate(timeout=120)[1]
    assert chief.returncode == WORKER_LOST
    assert "error: A worker is lost: all have met, but TensorFlow's workers did not come" in said
    assert "Traceback" not in said
