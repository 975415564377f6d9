"""One run, or several: each in a process of its own, several at a time if asked.

What one leaves in a process (deterministic operations, split processors, memory) is not there in
the next.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import tensorflow as tf

from train.config import DataConfig
from train.data import datasets
from train.data.datasets import DataSet
from train.devices.strategy import Placement, strategy_name
from train.errors import DivergedError, TerminatedError, UserError, with_source
from train.parsing.command_line import DEBUG, Command, read_command
from train.parts.callbacks import build_callbacks
from train.parts.faults import faults_as_user_errors
from train.parts.named import import_folders
from train.run.directory import RunDirectory
from train.run.fit import fit
from train.run.phases import try_out
from train.run.terminal import last_lines
from train.signals import heard

LAUNCHER = (sys.executable, "-m", "train")
ERROR = "error: "
ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPOSITORY = str(Path(__file__).parents[2])


def fit_seeds(command: Command) -> None:
    """Trains the configuration, or one model for each of `command.seeds`, in a folder `seed_<n>`.

    What has finished is not done again, so that the same command goes on after a kill; but without
    seeds and a `run_directory` it is another run.
    """
    config, folder = command.config, command.config.run_directory
    if not command.seeds:
        finished = RunDirectory.finished(config) if folder is not None else None
        if finished is not None:
            print(f"this run {finished.outcome()}: nothing to do", flush=True)
        elif (trained := fit(config)).is_chief:
            print(last_lines(trained.directory), flush=True)
        return
    runs = {}
    for seed in command.seeds:
        own = [] if folder is None else [f"--run_directory={folder}/seed_{seed}"]
        runs[f"seed {seed}"] = with_keys(command, f"--seed={seed}", *own)
    train_all(runs, at_once=command.jobs)
    _tell_together(runs)


def _tell_together(runs: Mapping[str, Command]) -> None:
    """Where the run of each seed is, their mean, and the command that reports on them."""
    places = {title: RunDirectory.finished(run.config) for title, run in runs.items()}
    found = {title: directory for title, directory in places.items() if directory}
    for title, directory in found.items():
        print(f"{title}: {directory.path}")
    last = pd.DataFrame([directory.metrics()[-1] for directory in found.values()])
    for measure, words in (("val_accuracy", "test accuracy"), ("val_loss", "test loss")):
        if measure in last:
            mean, error = last[measure].agg(["mean", "sem"])
            print(f"{words} of {len(last)} seeds: mean {mean:.4f}, standard error {error:.4f}")
    paths = [directory.path for directory in found.values()]
    out = shlex.join(map(str, [*paths, "--out", paths[0].parent / "report"]))
    print(f"next:  python -m train report {out}", flush=True)


def with_keys(command: Command, *keys: str) -> Command:
    """One run of several: the `fit` of a command's keys and more."""
    if strategy_name(command.config) == "multi_worker":
        raise UserError(
            "strategy=multi_worker trains one run a command. Expected one command for every run, "
            "instead of --seeds or sweep."
        )
    return read_command(["fit", *command.keys, *keys, *[DEBUG] * command.debug])


def check(runs: Mapping[str, Command]) -> None:
    """Builds every run's model and callbacks once, on the processor, and trains nothing."""
    with contextlib.suppress(RuntimeError):  # this process has used them before
        tf.config.set_visible_devices([], "GPU")  # they are the runs' own
    placement = Placement("one_device", tf.distribute.get_strategy())
    loaded: tuple[DataConfig, DataSet] | None = None
    for title, run in runs.items():
        config = run.config
        try:
            import_folders(config)
            if loaded is None or loaded[0] != config.data:
                loaded = config.data, datasets.load(config.data)
            with faults_as_user_errors(config):
                build_callbacks(config.callbacks)
                try_out(config, placement, loaded[1])
        except UserError as error:
            sentence = with_source(str(error), run.sources)
            raise UserError(f"{sentence} This is of {title}.") from error


def train_all(
    runs: Mapping[str, Command],
    *,
    at_once: int = 1,
    diverged: Callable[[str], None] | None = None,
) -> None:
    """Trains what has not finished. A signal to end, or the first mistake, ends all at work.

    Several `at_once` write one line an epoch each. `diverged` is told the title of a run whose loss
    is no longer finite; without it that is a mistake.

    Raises:
        UserError: The sentence of the run that made the mistake.
        TerminatedError: After a signal; every run at work has written its checkpoint.
    """
    at_work: set[subprocess.Popen[str]] = set()
    asked: list[int] = []
    one_by_one = threading.Lock()

    def end_all(number: int, _: Any = None) -> None:
        # A run writes its checkpoint when the terminal is closed, too.
        asked.append(signal.SIGTERM if number == signal.SIGHUP else number)
        for child in list(at_work):
            child.send_signal(asked[-1])

    def train(number: int, title: str, run: Command) -> None:
        headline = f"[{number}/{len(runs)}] {title}"
        if there := RunDirectory.finished(run.config):
            print(f"{headline} {there.outcome()}: nothing to do", flush=True)
            return
        print(headline, flush=True)
        with _start(run, several=at_once > 1) as child:
            at_work.add(child)
            if asked:  # while it was started
                child.send_signal(asked[-1])
            sentence = _forward(child, f"[{number}] " if at_once > 1 else "")
        at_work.discard(child)
        status = child.returncode
        if asked or (status == 0 and RunDirectory.finished(run.config)):
            return
        if status == DivergedError.status and diverged is not None:
            print(f"{headline} diverged: {sentence}", flush=True)
            with one_by_one:
                diverged(title)
        elif status - 128 in ENDED_BY:
            raise TerminatedError(None, status - 128)
        else:
            raise UserError(sentence or f"The run of {title} {_end(status)}")

    def train_or_end_all(number: int, title: str) -> None:
        try:
            if not asked:
                train(number, title, runs[title])
        except BaseException:
            end_all(signal.SIGTERM)
            raise

    with ThreadPoolExecutor(at_once) as pool, heard(ENDED_BY, end_all):
        list(pool.map(train_or_end_all, range(1, len(runs) + 1), runs))
    if asked:
        raise TerminatedError(None, asked[0])


def _start(run: Command, *, several: bool) -> subprocess.Popen[str]:
    """In a process group of its own: Ctrl-C on the terminal reaches us alone."""
    path = os.pathsep.join(filter(None, [REPOSITORY, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    arguments = [*LAUNCHER, "fit", *run.keys, *[DEBUG] * run.debug]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE}
    if several:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment |= {"PYTHONUNBUFFERED": "1"}
        environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # they share its memory
        if run.config.training.progress != "none":
            arguments.append("--training.progress=epoch")
    return subprocess.Popen(
        arguments, text=True, stdin=subprocess.DEVNULL, env=environment, process_group=0, **pipes
    )


def _forward(child: subprocess.Popen[str], prefix: str) -> str:
    """Shows what a run writes, but for the sentence about a mistake, which it returns."""
    sentence = ""
    for line in child.stderr or child.stdout or ():
        if line.startswith(ERROR):
            sentence = line.removeprefix(ERROR).strip()
        else:
            print(f"{prefix}{line}", end="", flush=True, file=None if prefix else sys.stderr)
    return sentence


def _end(status: int) -> str:
    if status == 0:
        how = "with another configuration: a file has been changed meanwhile"
    else:
        how = f"with status {status}" if status > 0 else f"by {signal.Signals(-status).name}"
    memory = "SIGKILL mostly means that memory ran out. " * (-status == signal.SIGKILL)
    return f"ended {how}. {memory}The same command goes on."
