"""Runs that are killed at each step in the file system, one by one, go on to the same end."""

import contextlib
import dataclasses
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from train.config import CheckpointConfig, FitConfig, TrainingConfig
from train.errors import DivergedError, TerminatedError, UserError
from train.run.checkpoint import Checkpoints
from train.run.directory import RunDirectory
from train.run.files import RunFiles, write_model
from train.run.loop import NotFiniteError, Position
from train.run.resume import Training


class Killed(BaseException):
    """Like SIGKILL, nobody handles it."""


class Trap:
    """Ends this process' work at a step in the file system: before a file or folder is made,
    renamed or removed, and when a file is half-written.

    Args:
        at: Which step, from 1; 0: none, they are only counted.
    """

    armed: "Trap | None" = None

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.steps = 0

    def __enter__(self) -> "Trap":
        Trap.armed = self
        return self

    def __exit__(self, *_: object) -> None:
        Trap.armed = None

    def see(self, event: str, arguments: Sequence[Any]) -> None:
        writes = event == "open" and set(arguments[1] or "") & set("wax")
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            self._step()
        if writes:
            self._step(half=Path(arguments[0]))

    def _step(self, half: Path | None = None) -> None:
        self.steps += 1
        if self.steps == self.at and half is not None:
            Trap.armed = None
            with half.open("ab") as file:
                file.write(b'{"epoch": ')
            Trap.armed = self
        if 0 < self.at <= self.steps:  # the dead tidy nothing up
            raise Killed


def _hook(event: str, arguments: Sequence[Any]) -> None:
    # The hook cannot be taken away, and when the interpreter ends there is no Trap any more.
    if Trap is not None and Trap.armed is not None:
        Trap.armed.see(event, arguments)


sys.addaudithook(_hook)


def at(epoch: int, step: int = 0) -> Position:
    """A place of a training of two steps an epoch."""
    return Position(epoch, step, step=2 * epoch + step)


class TinyLoop:
    """A loop whose one weight tells all steps that it was trained by.

    Args:
        diverges: Says of (steps done, position to begin from) whether the loss is not finite.
    """

    def __init__(self, diverges: Callable[[int, Position], bool] = lambda *_: False) -> None:
        self.epochs = 0
        self.position = Position()
        self.model = SimpleNamespace(optimizer=None, save=lambda path: path.write_bytes(b"model"))
        self.weight = tf.Variable(1, dtype=tf.int64)
        self.diverges = diverges
        self.starts: list[Position] = []

    def run(
        self,
        callbacks: Sequence[Any],
        guests: Sequence[Any],
        *,
        start: Position,
        restore: Callable[[], None],
    ) -> None:
        for callback in callbacks:
            callback.on_train_begin()
        self.weight.assign(-1)
        restore()
        self.starts.append(start)
        for epoch in range(start.epoch, self.epochs):
            for step in range(start.step_in_epoch if epoch == start.epoch else 0, 2):
                self.weight.assign(3 * self.weight + step + 2 * epoch)
                self.position = at(epoch, step + 1)
                if self.diverges(self.position.step, start):
                    raise NotFiniteError(self.position.step)
                guests[0].after_call(self.position, 1)
            logs = {"loss": float(self.weight), "val_accuracy": 0.5}
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs)
            self.position = at(epoch + 1)
            guests[0].after_epoch(self.position)


@pytest.fixture(autouse=True)
def a_tiny_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What takes time and is not looked at here.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("train.run.directory.differences", differences)
    monkeypatch.setattr(Training, "_state", lambda self: {"model/0/weight": self.loop.weight})
    monkeypatch.setattr(Training, "_explain", lambda self, error: f"{error}.")
    monkeypatch.setattr("train.run.files.silent_layers", lambda _: [])
    monkeypatch.setattr("train.run.resume.reduce_learning_rate", lambda *_: None)


def config(**changes: Any) -> FitConfig:
    defaults: dict[str, Any] = {
        "training": TrainingConfig(epochs=2),
        "checkpoint": CheckpointConfig(every_steps=1, keep=1),
    }
    return FitConfig(**defaults | changes)


def differences(file: Path, config: FitConfig) -> dict[str, str]:
    is_same = f"epochs: {config.training.epochs}," in file.read_text()
    return {} if is_same else {"training.epochs": "is another"}


def run(config: FitConfig, loop: TinyLoop) -> RunDirectory:
    """What `fit` does with the files."""
    directory = RunDirectory.of(config)
    placement = SimpleNamespace(is_chief=True, workers=(), strategy=tf.distribute.get_strategy())
    files = RunFiles(directory, config, {})
    loop.epochs = config.training.epochs or 0
    phases = SimpleNamespace(configs=[config], entered=lambda *_, **__: (loop, []))
    training = Training(
        config,
        placement,  # type: ignore[arg-type]
        directory,
        phases,  # type: ignore[arg-type]
        lambda *_: ([files], []),
    )
    try:
        training.train()
        write_model(loop.model, directory.model_file)  # type: ignore[arg-type]
    finally:
        directory.release()  # as the end of a process does
    return directory


def losses(directory: RunDirectory) -> list[float]:
    return [line["loss"] for line in directory.metrics()]


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def close_locks() -> None:
    """A kill would: whoever held them has not let go."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".lock"):
                os.close(int(descriptor))


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Position]:
    """Positions of the checkpoints that stand."""
    positions: list[Position] = []
    save = Checkpoints.save

    def note(self: Checkpoints, state: Any, position: Position, **more: Any) -> Path:
        path = save(self, state, position, **more)
        positions.append(position)
        return path

    monkeypatch.setattr(Checkpoints, "save", note)
    return positions


# Seven checkpoints are written in the same steps: every third of all are steps of each kind.
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_run_killed_at_any_step_in_the_file_system_goes_on_to_the_same_end(
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved: list[Position],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Trap() as trap:
        whole = run(config(), TinyLoop())
    expected = losses(whole)
    files = {re.sub("0000000.", "", name) for name in listing(whole.path)}
    assert trap.steps > 60
    for step in range(1, trap.steps + 1, every):
        (tmp_path / str(step)).mkdir()
        monkeypatch.chdir(tmp_path / str(step))
        saved.clear()
        with pytest.raises(Killed), Trap(step):
            run(config(), TinyLoop())
        close_locks()
        last = saved[-1] if saved else Position()
        directory = RunDirectory.finished(config())
        if directory is None:
            loop = TinyLoop()
            directory = run(config(), loop)
            assert dataclasses.astuple(loop.starts[0]) >= dataclasses.astuple(last), step
        assert losses(directory) == expected, step
        assert os.listdir("runs") == [directory.path.name], step
        # The checkpoint before the last may be left.
        names = {name for name in listing(directory.path) if "step-3" not in name}
        assert {re.sub("0000000.", "", name) for name in names} == files, step
    assert "damaged" not in capsys.readouterr().out


def test_rollback_goes_further_back_each_time() -> None:
    options: dict[str, Any] = {"checkpoint": CheckpointConfig(every_steps=1, keep=3)}
    loop = TinyLoop(lambda step, start: step == 4 and start != at(0, 1))
    directory = run(config(on_nan="rollback", **options), loop)
    assert loop.starts == [at(0), at(1, 1), at(1), at(0, 1)]
    assert [line["epoch"] for line in directory.metrics()] == [1, 2]
    assert next(Checkpoints(directory.checkpoints, keep=3).whole()).learning_rate_cuts == 3


def test_killed_rollback_is_gone_on_with() -> None:
    def diverge_and_be_killed(step: int, start: Position) -> bool:
        if start != at(0):
            raise Killed
        return step == 4

    named = config(on_nan="rollback", run_directory="run")
    with pytest.raises(Killed):
        run(named, TinyLoop(diverge_and_be_killed))
    found = next(Checkpoints(Path("run/checkpoints"), keep=1).whole())
    assert (found.position, found.learning_rate_cuts) == (at(1, 1), 1)
    close_locks()
    with pytest.raises(DivergedError, match="The learning rate was halved 3 times"):
        run(named, loop := TinyLoop(lambda *_: True))
    assert len(loop.starts) == 3  # and one before the kill


def killed_in_epoch(epoch: int, **options: Any) -> RunDirectory:
    """A run of three epochs, killed at the end of the first step of one, counted from 0."""

    def kill(step: int, _: Position) -> bool:
        if step == 2 * epoch + 1:
            raise Killed
        return False

    with pytest.raises(Killed):
        run(three_epochs(**options), TinyLoop(kill))
    close_locks()
    return RunDirectory(Path("run"))


def three_epochs(**options: Any) -> FitConfig:
    return config(run_directory="run", training=TrainingConfig(epochs=3), **options)


def test_metrics_do_not_keep_epochs_when_no_checkpoint_is_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = killed_in_epoch(2)
    for file in directory.checkpoints.glob("*/sha256"):
        file.write_text("")
    directory = run(three_epochs(), loop := TinyLoop())
    assert loop.starts == [Position()]
    assert [line["epoch"] for line in directory.metrics()] == [1, 2, 3]
    said = capsys.readouterr().out
    assert "is damaged (its checksum does not fit)" in said
    assert f"No checkpoint in {directory.checkpoints} is whole: begins anew" in said


def test_checkpoint_of_another_model_hides_no_older_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = killed_in_epoch(2, checkpoint=CheckpointConfig(keep=3))
    store = Checkpoints(directory.checkpoints, keep=9)
    other = store.save({"model/0/bias": tf.Variable(0.0)}, at(9))
    run(three_epochs(), loop := TinyLoop())
    assert loop.starts == [at(2)]
    assert f"Checkpoint {other} is of another model: model/0/weight is missing there" in (
        capsys.readouterr().out
    )


LINES = {
    "not UTF-8": (b"\xff\xfe\n", "is damaged at line 1. Expected a table of epoch 1"),
    "no table": (b'{"epoch": 1}\n[2]\n', "is damaged at line 2."),
    "no epoch": (b'{"epoch": 1}\n{"loss": 2}\n', "is damaged at line 2."),
    "a hole": (b'{"epoch": 2}\n', "is damaged at line 1."),
    "half a line in the middle": (b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n', "is damaged at line 2."),
    "an end that is missing": (b'{"epoch": 1}\n{"epo', "is damaged at line 2."),
    "nothing": (b"", "is damaged at line 1."),
}


@pytest.mark.parametrize(("content", "expected"), LINES.values(), ids=LINES)
def test_metrics_that_lack_an_epoch_before_the_checkpoint_are_told(
    content: bytes, expected: str
) -> None:
    directory = killed_in_epoch(2)
    directory.metrics_file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{directory.metrics_file} {expected}")):
        run(three_epochs(), TinyLoop())
    assert directory.metrics_file.read_bytes() == content


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_signal_to_end_waits_for_a_checkpoint(number: int, status: int) -> None:
    def ask(step: int, _: Position) -> bool:
        if step == 3:
            os.kill(os.getpid(), number)
        return False

    with pytest.raises(TerminatedError, match="after training step 3") as caught:
        run(three_epochs(checkpoint=CheckpointConfig()), TinyLoop(ask))
    assert caught.value.status == status
    run(three_epochs(), loop := TinyLoop())
    assert loop.starts == [at(1, 1)]


def test_second_ctrl_c_does_not_wait() -> None:
    def ask(*_: Any) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        run(three_epochs(), TinyLoop(ask))
    run(three_epochs(), loop := TinyLoop())
    assert loop.starts == [Position()]
