"""Several runs of one command, each in a process of its own, several at a time if asked.

What one run leaves in a process (deterministic operations, split processors, memory) is not there
in the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf

from train.config import DataConfig, FitConfig
from train.data import datasets
from train.data.datasets import DataSet
from train.devices.strategy import Placement, strategy_name
from train.errors import DivergedError, TerminatedError, UserError
from train.parsing.command_line import Command, read_command, with_source
from train.parts.callbacks import build_callbacks
from train.parts.feedback import refusals_as_user_errors
from train.parts.named import import_folders
from train.run.directory import RunDirectory
from train.run.phases import try_out
from train.signals import heard

LAUNCHER = (sys.executable, "-m", "train")
ERROR = "error: "
ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Run:
    """One of several.

    Args:
        title: What tells it from the others.
        command: A `fit`: its keys and what they come to.
    """

    title: str
    command: Command

    @classmethod
    def of(cls, title: str, keys: Sequence[str]) -> Run:
        """Of keys as on a command line; raises UserError if they are refused."""
        return cls(title, read_command(["fit", *keys]))

    @property
    def config(self) -> FitConfig:
        return self.command.config

    def finished(self) -> RunDirectory | None:
        """Where it has been trained to its end; None if nowhere."""
        import_folders(self.config)
        return RunDirectory.finished(self.config)


def one_process_only(config: FitConfig, what: str) -> None:
    """Raises UserError for several workers, which need one command each."""
    if strategy_name(config) == "multi_worker":
        raise UserError(
            f"strategy=multi_worker trains one run a command. Expected one command for every run, "
            f"instead of {what}."
        )


def check(runs: Sequence[Run]) -> None:
    """Builds every run's model and callbacks once, on the processor, and trains nothing.

    Raises:
        UserError: If a name, an option or a value is refused.
    """
    with contextlib.suppress(RuntimeError):  # this process has used them before
        tf.config.set_visible_devices([], "GPU")  # they are the runs' own
    placement = Placement("one_device", tf.distribute.get_strategy())
    loaded: tuple[DataConfig, DataSet] | None = None
    for run in runs:
        config = run.config
        try:
            import_folders(config)
            if loaded is None or loaded[0] != config.data:
                loaded = config.data, datasets.load(config.data)
            with refusals_as_user_errors():
                build_callbacks(config.callbacks)
                try_out(config, placement, loaded[1])
        except UserError as error:
            sentence = with_source(str(error), run.command.sources)
            raise UserError(f"{sentence} This is of {run.title}.") from error


def train_all(
    runs: Sequence[Run], *, at_once: int = 1, diverged: Callable[[Run], None] | None = None
) -> None:
    """Trains what has not finished. A signal to end, or the first mistake, ends all at work.

    Args:
        runs: In their order.
        at_once: Processes at a time. Several write one line an epoch each, behind their title.
        diverged: Told of a run whose loss is no longer finite; without it that is a mistake.

    Raises:
        UserError: The sentence of the run that made the mistake.
        TerminatedError: After a signal; every run at work has written its checkpoint.
    """
    at_work: set[subprocess.Popen[str]] = set()
    asked: list[int] = []

    def end_all(number: int, _: Any = None) -> None:
        # A run writes its checkpoint when the terminal is closed, too.
        asked.append(signal.SIGTERM if number == signal.SIGHUP else number)
        for child in list(at_work):
            child.send_signal(asked[-1])

    def train(numbered: tuple[int, Run]) -> bool:
        """Whether the run has a finite end; whatever else happens here ends all."""
        try:
            return train_one(*numbered)
        except BaseException:
            end_all(signal.SIGTERM)
            raise

    def train_one(number: int, run: Run) -> bool:
        if asked:
            return True
        title = f"[{number}/{len(runs)}] {run.title}"
        if there := run.finished():
            print(f"{title} {there.outcome()}: nothing to do", flush=True)
            return True
        print(title, flush=True)
        child = _start(run, several=at_once > 1)
        at_work.add(child)
        if asked:  # while it was started
            child.send_signal(asked[-1])
        sentence = _forward(child, f"[{number}] " if at_once > 1 else "")
        status = child.wait()
        at_work.discard(child)
        if asked:
            return True
        if status == 0 and run.finished():
            return True
        if status == DivergedError.status and diverged is not None:
            print(f"{title} diverged: {sentence}", flush=True)
            return False
        if status - 128 in ENDED_BY:
            raise TerminatedError(None, status - 128)
        raise UserError(sentence or _what_happened(run, status))

    with ThreadPoolExecutor(at_once) as pool, heard(ENDED_BY, end_all):
        for run, finite in zip(runs, pool.map(train, enumerate(runs, start=1)), strict=True):
            if not finite and diverged is not None:
                diverged(run)
    if asked:
        raise TerminatedError(None, asked[0])


def _start(run: Run, *, several: bool) -> subprocess.Popen[str]:
    """A `fit`, in a process group of its own: Ctrl-C on the terminal reaches us alone."""
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    arguments = [*LAUNCHER, "fit", *run.command.keys]
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
    stream = child.stderr or child.stdout
    assert stream is not None
    with stream:
        for line in stream:
            if line.startswith(ERROR):
                sentence = line.removeprefix(ERROR).strip()
            else:
                print(f"{prefix}{line}", end="", flush=True, file=None if prefix else sys.stderr)
    return sentence


def _what_happened(run: Run, status: int) -> str:
    if status < 0:
        reason = f"by {signal.Signals(-status).name}"
        advice = "SIGKILL mostly means that memory ran out. " if -status == signal.SIGKILL else ""
    elif status == 0:
        reason, advice = "with another configuration: a file has been changed meanwhile", ""
    else:
        reason, advice = f"with status {status}", ""
    return f"The run of {run.title} ended {reason}. {advice}The same command goes on."
