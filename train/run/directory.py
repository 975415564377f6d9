"""One folder for everything a run writes, which an unfinished run finds again."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import keras
import yaml

from train.config import FitConfig
from train.errors import UserError
from train.parsing.config_file import flatten, to_yaml

# A run goes on although these have changed: they do not touch its numbers.
MAY_DIFFER = ("run_directory", "on_nan", "training.progress", "checkpoint.", "cluster.")

LOCK_FILE = ".lock"


class RunDirectory:
    """Where a run's files are.

    `config.yaml` (every value the run uses), `setup.json` (replicas, learning rate, versions),
    `metrics.jsonl` (one line an epoch), `events/` (for TensorBoard), `checkpoints/` and, when the
    run has finished, `model.keras`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.setup_file = path / "setup.json"
        self.metrics_file = path / "metrics.jsonl"
        self.events = path / "events"
        self.checkpoints = path / "checkpoints"
        self.model_file = path / "model.keras"
        self._lock: int | None = None

    @classmethod
    def of(cls, config: FitConfig, *, writes: bool = True) -> RunDirectory:
        """The folder the configuration names, or the last unfinished run's, or the next free one.

        It is not made yet. A run that is to go on is locked, unless this process only reads.

        Raises:
            UserError: If the folder holds a finished run, a run of another configuration, one that
                is running, or something else.
        """
        if config.run_directory is None:
            stem = stem_of(config)
            for path in reversed(numbered(stem)):
                directory = cls(path)
                if directory._is_unfinished(config) and directory.lock():
                    return directory
            return cls(next_free(stem))
        directory = cls(Path(config.run_directory))
        directory._check_may_use(config)
        if writes and directory.config_file.exists() and not directory.lock():
            raise UserError(
                f"run_directory={directory.path} is in use by another process. Wait for its end, "
                f"or give another name."
            )
        return directory

    @classmethod
    def finished(cls, config: FitConfig) -> RunDirectory | None:
        """Where this very configuration has been trained to its end; None if nowhere."""
        path = config.run_directory
        paths = [Path(path)] if path is not None else reversed(numbered(stem_of(config)))
        for directory in map(cls, paths):
            if directory.model_file.exists() and directory._is_of(config):
                return directory
        return None

    def create(self, config: FitConfig, setup: dict[str, Any]) -> None:
        """Makes the folder and writes the resolved configuration into it, unless they are there.

        Raises:
            UserError: If it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.lock():
                raise UserError(f"run_directory={self.path} is in use by another process.")
            write_whole(self.setup_file, json.dumps(setup, indent=2) + "\n")
            if not self.config_file.exists():
                write_whole(self.config_file, to_yaml(config))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"run_directory={self.path} cannot be made: {reason}.") from error

    def lock(self) -> bool:
        """Whether this process has the folder for itself, until it ends."""
        if self._lock is not None:
            return True
        descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def release(self) -> None:
        """Lets others have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a half-written last line is left out."""
        lines: list[dict[str, Any]] = []
        if self.metrics_file.exists():
            for text in self.metrics_file.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(text))
        return lines

    def forget_epochs_after(self, epoch: int) -> None:
        """Drops the lines of epochs that will be done again."""
        if self.metrics_file.exists():
            kept = [line for line in self.metrics() if line["epoch"] <= epoch]
            write_whole(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))

    def _check_may_use(self, config: FitConfig) -> None:
        path = self.path
        if not path.exists() or (path.is_dir() and {p.name for p in path.iterdir()} <= {LOCK_FILE}):
            return
        if not self.config_file.is_file():
            raise UserError(
                f"run_directory={path} exists and holds no run. Nothing is overwritten: remove it, "
                f"or give another name."
            )
        differing = differences(self.config_file, config)
        if differing:
            raise UserError(
                f"run_directory={path} holds a run of another configuration: "
                f"{'; '.join(differing)}. Give another name, or the run's own values."
            )
        if self.model_file.exists():
            raise UserError(
                f"run_directory={path} holds this run, and it has finished. Nothing is "
                f"overwritten: remove it, or give another name."
            )

    def _is_unfinished(self, config: FitConfig) -> bool:
        return not self.model_file.exists() and self._is_of(config)

    def _is_of(self, config: FitConfig) -> bool:
        if not self.config_file.is_file():
            return False
        with contextlib.suppress(UserError):
            return not differences(self.config_file, config)
        return False


def differences(config_file: Path, config: FitConfig) -> list[str]:
    """What a run's configuration has otherwise than `config`, key by key.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        tree = yaml.safe_load(config_file.read_text())
        there = flatten(tree, FitConfig, source=str(config_file))
    except (OSError, yaml.YAMLError, AttributeError) as error:
        reason = getattr(error, "problem", None) or error
        raise UserError(
            f"{config_file} is damaged: {reason}. Expected the configuration that the run was "
            f"started with: restore it, or give another name."
        ) from error
    here = flatten(yaml.safe_load(to_yaml(config)), FitConfig, source="")
    return [
        f"{key} is {there.get(key)!r} there and {value!r} here"
        for key, value in here.items()
        if not key.startswith(MAY_DIFFER) and there.get(key, dataclasses.MISSING) != value
    ]


def write_whole(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that nobody ever sees half of it."""
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def write_model(model: keras.Model, path: Path) -> None:
    """Saves a model aside and renames the file: where it stands, the run has finished."""
    aside = path.with_name(f".writing-{path.name}")
    try:
        model.save(aside)
        aside.rename(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"The model cannot be written to {path}: {reason}. The checkpoints are kept: make room "
            f"or give rights, and start the same command again."
        ) from error


def next_free(stem: Path) -> Path:
    """The path `stem-<n>` with the smallest n, from 1, that is larger than every one there."""
    numbers = [_number(path, stem) for path in numbered(stem)]
    return stem.with_name(f"{stem.name}-{max(numbers, default=0) + 1}")


def numbered(stem: Path) -> list[Path]:
    paths = [path for path in stem.parent.glob(f"{stem.name}-*") if _number(path, stem) >= 0]
    return sorted(paths, key=lambda path: _number(path, stem))


def _number(path: Path, stem: Path) -> int:
    suffix = path.name.removeprefix(f"{stem.name}-")
    return int(suffix) if suffix.isdigit() else -1


def stem_of(config: FitConfig) -> Path:
    """`runs/<data>-<model>-<rule>`; of a builder folder .../name/version, the name."""
    parts = Path(config.data.name).parts
    data = parts[-2] if len(parts) > 1 else config.data.name.partition(":")[0]
    return Path("runs") / f"{data}-{config.model.name}-{config.feedback.rule}"


class RunFiles(keras.callbacks.Callback):
    """Makes the run directory when the training begins, and appends every epoch's logs to it.

    Callbacks that may refuse the training, or add to the logs, must stand before it.

    Beside Keras' own logs a line of `metrics.jsonl` has `epoch`, counted from 1, and `seconds`, the
    time since the training began or went on.
    """

    def __init__(self, directory: RunDirectory, config: FitConfig, setup: dict[str, Any]) -> None:
        super().__init__()
        self.directory = directory
        self.config = config
        self.setup = setup
        self.begin_s = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.directory.create(self.config, self.setup)
        self.begin_s = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = round(time.perf_counter() - self.begin_s, 3)
        line = {"epoch": epoch + 1, "seconds": seconds}
        line |= {name: float(value) for name, value in (logs or {}).items()}
        try:
            append_line(self.directory.metrics_file, json.dumps(line))
        except OSError as error:
            raise UserError(
                f"{self.directory.metrics_file} cannot be written: {error.strerror or error}. The "
                f"checkpoints are kept: make room or give rights, and start the same command again."
            ) from error
