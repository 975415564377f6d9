"""One folder for everything a run writes, which an unfinished run finds again."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import yaml

from train.config import FitConfig
from train.config.part import short_rule
from train.disk import GO_ON, append_line, disk_errors, to_json, whole_file, write_whole
from train.errors import UserError
from train.parsing.phases import config_from, leaves
from train.parsing.phases import differences as configs_differ
from train.parsing.yaml_file import to_yaml
from train.parts.models import filled
from train.run.longer import KEY, why_not
from train.run.origin import start

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
# What a run that was killed before it had a configuration may leave.
BEFORE_IT_BEGAN = {LOCK_FILE, "setup.json", ".setup.json.writing", f".{CONFIG_FILE}.writing"}


class RunDirectory:
    """Where a run's files are.

    `config.yaml` (every value the run uses), `setup.json` (replicas, learning rate, versions,
    hardware, and of every start date, command and commit),
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

        Raises:
            UserError: If the folder holds a finished run, a run of another configuration, one that
                is running, or something else, or cannot be made or written.
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
                in_use = "is in use by another process. Wait for its end, or give another name"
                raise UserError(refusal or f"run_directory={named} {in_use}.")
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
        accuracy = f": val_accuracy {last['val_accuracy']:.4f}" if "val_accuracy" in last else ""
        return f"has finished in {self.path}{accuracy}"

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

        null is read as NaN: a measure without a value, such as the angle of a zero vector.

        Args:
            epochs: So many, whatever stands behind them; None: all.

        Raises:
            UserError: If one is damaged or missing.
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
            # Who names a folder may mean its run, trained longer.
            longer = config.run_directory is not None
            differing = differences(self.config_file, config, may_be_longer=longer)
        except UserError as error:
            return str(error)
        if differing:
            return (
                f"run_directory={path} holds a run of another configuration: "
                f"{'; '.join(differing)}. Give another name, or the run's own values."
            )
        done = self.model_file.exists() and not differences(self.config_file, config)
        return f"run_directory={path} has finished." if done else None


def differences(config_file: Path, config: FitConfig, *, may_be_longer: bool = False) -> list[str]:
    """What a run's configuration has otherwise than `config`, key by key.

    Args:
        config_file: Of the run.
        config: To compare with.
        may_be_longer: Whether more epochs are no difference where the run can go on with them.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        tree = yaml.safe_load(config_file.read_text())
        there = with_defaults(config_from(tree, source=str(config_file)))
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise UserError(
            f"{config_file} is damaged: {getattr(error, 'problem', None) or error}. Expected what "
            f"the run was started with: restore it, or give another name."
        ) from error
    here = with_defaults(config)
    found = configs_differ(there, here)
    if may_be_longer and KEY in found:
        found[KEY] = why_not(there, here)
    return [sentence for sentence in found.values() if sentence]


def with_defaults(config: FitConfig) -> dict[str, Any]:
    """Dotted name to value of a configuration, defaults of the model's options included."""
    return leaves(dataclasses.replace(config, model=filled(config.model)))


def write_model(model: keras.Model, path: Path) -> None:
    """Saves a model aside and renames the file: where it stands, the run has finished."""
    with whole_file(path, f"The model cannot be written to {path}", GO_ON) as aside:
        model.save(aside)


def next_free(stem: Path) -> Path:
    """The path `stem-<n>` with the smallest n, from 1, that is larger than every one there."""
    return stem.with_name(f"{stem.name}-{max(numbered(stem), default=0) + 1}")


def numbered(stem: Path) -> dict[int, Path]:
    """The paths `stem-<n>` that are there, by n, in order."""
    paths = {p.name.removeprefix(f"{stem.name}-"): p for p in stem.parent.glob(f"{stem.name}-*")}
    return {int(number): paths[number] for number in sorted(filter(str.isdecimal, paths), key=int)}


def stem_of(config: FitConfig) -> Path:
    """`runs/<data>-<model>-<rule>`; of a builder folder .../name/version, the name."""
    path = Path(config.data.name)
    versioned = len(path.parts) > 1 and re.fullmatch(r"[\d.]+", path.name)
    data = path.parent.name if versioned else path.name.removesuffix(".npz").partition(":")[0]
    data = config.data.name.rpartition(":")[2] if config.data.is_function else data
    model = str(config.model.name).rpartition(":")[2]
    return Path("runs") / f"{data}-{model}-{short_rule(config.feedback.rule)}"


def _places(config: FitConfig) -> Iterable[Path]:
    """Folders for a run that names none: those with a run, the last first, then free ones."""
    stem = stem_of(config)
    there = list(reversed(numbered(stem).values()))
    there.sort(key=lambda path: not (path / CONFIG_FILE).exists())
    return itertools.chain(there, iter(lambda: next_free(stem), stem))


def _starts(setup_file: Path) -> list[Any]:
    """What setup.json says of earlier starts of the run."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return list(json.loads(setup_file.read_text())["starts"])
    return []


class RunFiles(keras.callbacks.Callback):
    """Describes the run in its directory when it begins, and appends every epoch's logs there.

    Callbacks that may refuse the training, or add to the logs, must stand before it.

    Beside Keras' own logs a line of `metrics.jsonl` has `epoch`, counted from 1, and `seconds`, the
    time since the training began or went on.
    """

    def __init__(self, directory: RunDirectory, config: FitConfig, setup: dict[str, Any]) -> None:
        super().__init__()
        self.directory = directory
        self.config = config
        self.setup = setup
        self.start = start()
        self.begin_s = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        directory = self.directory
        with disk_errors(f"run_directory={directory.path} cannot be written", GO_ON):
            if not directory.config_file.exists():
                write_whole(directory.config_file, to_yaml(self.config))
            starts = [one for one in _starts(directory.setup_file) if one != self.start]
            setup = self.setup | {"starts": [*starts, self.start]}
            write_whole(directory.setup_file, to_json(setup, 2) + "\n")
        self.begin_s = self.begin_s or time.perf_counter()  # of the first phase here

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        line = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - self.begin_s, 3)}
        values = (logs or {}).items()
        line |= {name: v if isinstance(v, int) else float(v) for name, v in values}
        with disk_errors(f"{self.directory.metrics_file} cannot be written", GO_ON):
            append_line(self.directory.metrics_file, to_json(line))
