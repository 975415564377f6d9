"""Run directories: whose they are, what is found in them, and what cannot be one."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.config import FitConfig, TrainingConfig
from train.errors import UserError
from train.parsing.config_file import config_of
from train.parsing.yaml_file import to_yaml
from train.run.directory import RunDirectory


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


CONFIG = FitConfig()
NAMED = FitConfig(run_directory="run")
STEM = Path("runs/digits-small_conv-backprop")


def begin(directory: RunDirectory, config: FitConfig, *, finish: bool = False) -> None:
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.config_file.write_text(to_yaml(config))
    if finish:
        directory.model_file.write_text("model")


def test_two_unnamed_runs_take_two_folders() -> None:
    one, other = RunDirectory.of(CONFIG), RunDirectory.of(CONFIG)
    assert (one.path, other.path) == (Path(f"{STEM}-1"), Path(f"{STEM}-2"))
    for directory in (other, one):
        directory.release()  # nothing has been written
    assert not STEM.parent.exists()


def meanwhile(patch: pytest.MonkeyPatch, act: Callable[[RunDirectory], None]) -> None:
    """Another process acts between the choice of a folder and its lock."""
    lock = RunDirectory._lock_it

    def late(self: RunDirectory) -> bool:
        patch.setattr(RunDirectory, "_lock_it", lock)
        act(self)
        return self._lock_it()

    patch.setattr(RunDirectory, "_lock_it", late)


def test_slow_starter_leaves_a_run_alone_that_came_before_its_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = dataclasses.replace(CONFIG, seed=7)
    meanwhile(monkeypatch, lambda directory: begin(directory, other, finish=True))
    directory = RunDirectory.of(CONFIG)
    assert directory.path == Path(f"{STEM}-2")
    directory.release()
    assert Path(f"{STEM}-1/model.keras").read_text() == "model"
    assert RunDirectory(Path(f"{STEM}-1"))._lock_it()  # it holds no lock there


def test_named_folder_is_looked_at_again_behind_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda directory: begin(directory, dataclasses.replace(NAMED, seed=7)))
    with pytest.raises(UserError, match="of another configuration: seed is 7 there and 0 here"):
        RunDirectory.of(NAMED)


def test_folder_that_a_refused_run_has_removed_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = RunDirectory.of(NAMED)
    opened = os.open

    def open_then_lose(path: Any, *more: Any) -> int:
        descriptor = opened(path, *more)
        monkeypatch.setattr(os, "open", opened)
        refused.release()
        return descriptor

    monkeypatch.setattr(os, "open", open_then_lose)
    with pytest.raises(UserError, match="is in use by another process"):
        RunDirectory.of(NAMED)
    directory = RunDirectory.of(NAMED)
    assert (directory.path / ".lock").exists()
    directory.release()


LEFT = [(), (".lock",), (".lock", ".config.yaml.writing"), (".lock", "setup.json")]


@pytest.mark.parametrize("config", [CONFIG, NAMED], ids=["unnamed", "named"])
@pytest.mark.parametrize("left", LEFT, ids="+".join)
def test_folder_of_a_run_killed_before_it_began_is_taken(
    config: FitConfig, left: tuple[str, ...]
) -> None:
    path = Path(config.run_directory or f"{STEM}-4")
    path.mkdir(parents=True)
    for name in left:
        (path / name).write_text("")
    directory = RunDirectory.of(config)
    assert directory.path == path
    directory.release()
    assert path.exists()  # it was not made here


def test_unfinished_run_comes_before_an_empty_folder() -> None:
    begin(RunDirectory(Path(f"{STEM}-1")), CONFIG)
    Path(f"{STEM}-2").mkdir()
    directory = RunDirectory.of(CONFIG)
    assert directory.path == Path(f"{STEM}-1")
    directory.release()


def test_finished_run_and_one_of_other_epochs_are_left_alone() -> None:
    begin(RunDirectory(Path(f"{STEM}-1")), CONFIG, finish=True)
    longer = dataclasses.replace(CONFIG, training=TrainingConfig(epochs=99))
    begin(RunDirectory(Path(f"{STEM}-2")), longer)
    directory = RunDirectory.of(CONFIG)
    assert directory.path == Path(f"{STEM}-3")
    directory.release()


def test_unfinished_run_that_is_named_becomes_one_of_more_epochs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin(RunDirectory(Path("run")), NAMED)
    longer = dataclasses.replace(NAMED, training=TrainingConfig(epochs=99))
    directory = RunDirectory.of(longer)
    directory.lengthen(longer)
    assert config_of(directory.config_file) == longer
    assert capsys.readouterr().out == "run: 0 epochs done, now 99 instead of 20\n"
    directory.release()
    with pytest.raises(UserError, match="is 99 there and 20 here, and no run gets shorter"):
        RunDirectory.of(NAMED)


CONFIGS = {
    "not UTF-8": (b"\xff\xfe", "can't decode byte 0xff"),
    "no table": (b"- 1", "is damaged"),
    "no YAML": (b"seed: [", "is damaged"),
    "an entry that is no table": (b"training: 3", "training is 3. Expected a table"),
}


@pytest.mark.parametrize(("content", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_damaged_configuration_is_told_and_an_unnamed_run_goes_elsewhere(
    content: bytes, expected: str
) -> None:
    for path in (Path("run"), Path(f"{STEM}-1")):
        path.mkdir(parents=True)
        (path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match="config.yaml.*" + expected):
        RunDirectory.of(NAMED)
    directory = RunDirectory.of(CONFIG)
    assert directory.path == Path(f"{STEM}-2")
    directory.release()


def test_read_only_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    begin(RunDirectory(Path("run")), NAMED)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UserError, match="run_directory=run cannot be written: Read-only file"):
        RunDirectory.of(NAMED)


def test_worker_that_only_reads_makes_nothing() -> None:
    assert RunDirectory.of(NAMED, writes=False).path == Path("run")
    assert not Path("run").exists()
