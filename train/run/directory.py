"""One folder for everything a run writes, which an unfinished run finds again."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from train.config import FitConfig
from train.config.data import short_name
from train.config.part import short_rule
from train.disk import GO_ON, disk_errors, to_json, write_whole
from train.errors import UserError, see
from train.parsing.config_file import config_from, config_of
from train.parsing.phases import differences as configs_differ
from train.parsing.phases import leaves
from train.parsing.yaml_file import to_yaml
from train.parts.models import filled
from train.run.checkpoint import Checkpoints

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
# What a run that was killed before it had a configuration may leave.
BEFORE_IT_BEGAN = {LOCK_FILE, "setup.json", ".setup.json.writing", f".{CONFIG_FILE}.writing"}
EPOCHS = "training.epochs"


class RunDirectory:
    """Where a run's files are.

    `config.yaml` (every value the run uses), `setup.json` (replicas, learning rate, layers that
    send no error back, versions, hardware, and of every start date, command, commit and own code),
    `metrics.jsonl` (one line an epoch), `events/` (for TensorBoard), `checkpoints/` and, when the
    run has finished, `model.keras`; with `checkpoint.best` also `best.keras`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / CONFIG_FILE
        self.setup_file = path / "setup.json"
        self.metrics_file = path / "metrics.jsonl"
        self.events = path / "events"
        self.checkpoints = path / "checkpoints"
        self.model_file = path / "model.keras"
        self.best_file = path / "best.keras"
        self._lock: int | None = None
        self._made: list[Path] = []

    @classmethod
    def of(cls, config: FitConfig, *, writes: bool = True) -> RunDirectory:
        """The folder the configuration names, or the last unfinished run's, or the next free one.

        It is made and locked, unless this process only reads.
        """
        named = None if config.run_directory is None else Path(config.run_directory)
        for directory in map(cls, _places(config) if named is None else [named]):
            refusal = directory._refusal(config)
            if refusal is None and (not writes or directory._lock_it()):
                # Again: before the lock, another process may have made and even finished a run.
                refusal = directory._refusal(config)
                if refusal is None:
                    return directory
                directory.release()
            if named is not None:
                raise UserError(
                    refusal
                    or f"run_directory={named} is in use by another process. Wait for its end, or "
                    "give another name."
                    + see("a-run-directory-in-use")
                )
        raise AssertionError  # there is always a next free one

    @classmethod
    def finished(cls, config: FitConfig) -> RunDirectory | None:
        """Where this very configuration has been trained to its end; None if nowhere."""
        named = config.run_directory
        paths = [*numbered(stem_of(config)).values()] if named is None else [Path(named)]
        for directory in map(cls, reversed(paths)):
            with contextlib.suppress(UserError):
                if directory.model_file.exists() and not differences(directory.config_file, config):
                    return directory
        return None

    def outcome(self) -> str:
        """Where a finished run is, and what it came to."""
        last = (self.metrics() or [{}])[-1]
        accuracy = f": test accuracy {last['val_accuracy']:.4f}" if "val_accuracy" in last else ""
        return f"has finished in {self.path}{accuracy}"

    def lengthen(self, config: FitConfig) -> None:
        """Makes a finished or unfinished run one of more epochs, if `config` has more.

        The model of a finished run goes: the last checkpoint holds its weights.
        """
        if not self.config_file.exists():
            return
        before, now = config_of(self.config_file).training.epochs, config.training.epochs
        if before == now:
            return
        done = len(self.metrics())
        if self.model_file.exists():
            last = next(Checkpoints(self.checkpoints, keep=1).whole(), None)
            if last is None or last.position.epoch < done:
                raise UserError(
                    f"run_directory={self.path} has finished after {done} epochs and has no "
                    f"checkpoint of its end, so it cannot be trained longer. Give another name, or "
                    f"start from its weights: init_from={self.model_file}."
                )
        with disk_errors(f"run_directory={self.path} cannot be written", GO_ON):
            self.model_file.unlink(missing_ok=True)
            write_whole(self.config_file, to_yaml(config))
        print(f"{self.path}: {done} epochs done, now {now} instead of {before}")

    def release(self) -> None:
        """Lets others have the folder, which goes if it was made for a run that never began."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if self._made and {path.name for path in self.path.iterdir()} == {LOCK_FILE}:
                    (self.path / LOCK_FILE).unlink()
                    for path in self._made:
                        path.rmdir()
            os.close(self._lock)
            self._lock = None

    def metrics(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, of epochs 1, 2 and so on; half a last one is left out.

        `epochs` of them, whatever stands behind, or all. null is read as NaN: a measure without a
        value, such as the angle of a zero vector.
        """
        with disk_errors(f"{self.metrics_file} cannot be read"):
            content = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        texts = content.splitlines()[:epochs]
        lines: list[dict[str, Any]] = []
        for text in texts:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                line = {k: math.nan if v is None else v for k, v in json.loads(text).items()}
                lines += [line] if line["epoch"] == len(lines) + 1 else []
        expected = len(texts) - (not content.endswith(b"\n")) if epochs is None else epochs
        if len(lines) < expected:
            raise UserError(
                f"{self.metrics_file} is damaged at line {len(lines) + 1}. Expected a table of "
                f"epoch {len(lines) + 1}: restore it, or train anew in another run_directory."
            )
        return lines

    def keep_epochs(self, epochs: int) -> None:
        """Drops the lines of epochs that will be done again; raises UserError as `metrics`."""
        lines = self.metrics(epochs)
        if self.metrics_file.exists():
            with disk_errors(f"{self.metrics_file} cannot be written", GO_ON):
                text = "".join(to_json(line) + "\n" for line in lines)
                write_whole(self.metrics_file, text)

    def _lock_it(self) -> bool:
        """Makes the folder, and says whether this process has it for itself, until it ends."""
        file = self.path / LOCK_FILE
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        what = "made" if self._made else "written"
        with disk_errors(f"run_directory={self.path} cannot be {what}"):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A run that was refused may have removed the file in between.
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    self._lock = descriptor
                    return True
            os.close(descriptor)
        return False

    def _refusal(self, config: FitConfig) -> str | None:
        """Why the folder cannot be taken; None if it is free or of an unfinished run of this."""
        path = self.path
        if not path.exists() or (path.is_dir() and set(os.listdir(path)) <= BEFORE_IT_BEGAN):
            return None
        if not self.config_file.is_file():
            return (
                f"run_directory={path} exists and holds no run. Nothing is overwritten: remove it, "
                f"or give another name."
            )
        try:
            differing = differences(self.config_file, config)
        except UserError as error:
            return str(error)
        if not differing:
            return f"run_directory={path} has finished." if self.model_file.exists() else None
        if config.run_directory is not None and EPOCHS in differing:
            # Who names a folder may mean its run, trained longer.
            longer = differing.pop(EPOCHS)
            if why_not := _why_not_longer(config_of(self.config_file).training.epochs, config):
                differing[EPOCHS] = f"{longer}, {why_not}"
        if not differing:
            return None
        return (
            f"run_directory={path} holds a run of another configuration: "
            f"{'; '.join(differing.values())}. Give another name, or the run's own values."
        )


def _why_not_longer(before: int | None, config: FitConfig) -> str:
    now = config.training.epochs
    if before is None or now is None or now < before:
        return "and no run gets shorter"
    if config.phases:
        return "but the run has phases, and those before the last would have been longer, too"
    if config.optimizer.schedule.name == "cosine":
        return (
            "but optimizer.schedule is cosine, which ends with the training: with more epochs all "
            "its rates would have been others"
        )
    return ""


def differences(config_file: Path, config: FitConfig) -> dict[str, str]:
    """What a run's configuration has otherwise, by key, defaults of the model's options included.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        there = config_from(yaml.safe_load(config_file.read_text()), source=str(config_file))
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise UserError(
            f"{config_file} is damaged: {getattr(error, 'problem', None) or error}. Expected what "
            f"the run was started with: restore it, or give another name."
        ) from error
    both: tuple[FitConfig, ...] = (there, config)
    if there.model.name == config.model.name:  # another may not be there any more
        both = tuple(dataclasses.replace(one, model=filled(one.model)) for one in both)
    return configs_differ(*map(leaves, both))


def next_free(stem: Path) -> Path:
    """The path `stem-<n>` with the smallest n, from 1, that is larger than every one there."""
    return stem.with_name(f"{stem.name}-{max(numbered(stem), default=0) + 1}")


def numbered(stem: Path) -> dict[int, Path]:
    """The paths `stem-<n>` that are there, by n, in order."""
    paths = {p.name.removeprefix(f"{stem.name}-"): p for p in stem.parent.glob(f"{stem.name}-*")}
    return {int(number): paths[number] for number in sorted(filter(str.isdecimal, paths), key=int)}


def stem_of(config: FitConfig) -> Path:
    """`runs/<data>-<model>-<rule>`."""
    model = str(config.model.name).rpartition(":")[2]
    return (
        Path("runs") / f"{short_name(config.data.name)}-{model}-{short_rule(config.feedback.rule)}"
    )


def _places(config: FitConfig) -> Iterable[Path]:
    """Folders for a run that names none: those with a run, the last first, then free ones."""
    stem = stem_of(config)
    there = list(reversed(numbered(stem).values()))
    there.sort(key=lambda path: not (path / CONFIG_FILE).exists())
    return itertools.chain(there, iter(lambda: next_free(stem), stem))
