"""One new folder for everything a run writes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import keras

from train.config import FitConfig
from train.config_file import to_yaml
from train.errors import UserError


class RunDirectory:
    """Where a run's files are.

    `config.yaml` (every value the run used), `metrics.jsonl` (one line an epoch), `events/` (for
    TensorBoard) and `model.keras` (after the last epoch).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.events = path / "events"
        self.model_file = path / "model.keras"

    @classmethod
    def of(cls, config: FitConfig) -> RunDirectory:
        """The folder the configuration names, or the next free one; not made yet.

        Raises:
            UserError: If it exists.
        """
        path = Path(config.run_directory) if config.run_directory else next_free(_stem(config))
        if path.exists():
            raise UserError(
                f"run_directory={path} exists, and a run never overwrites another. Remove it, or "
                f"give another name."
            )
        return cls(path)

    def create(self, config: FitConfig) -> None:
        """Makes the folder and writes the resolved configuration into it.

        Raises:
            UserError: If the folder exists by now, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"run_directory={self.path} cannot be made: {reason}.") from error
        self.config_file.write_text(to_yaml(config))


def next_free(stem: Path) -> Path:
    """The path `stem-<n>` with the smallest n, from 1, that is larger than every one there."""
    numbers = [0]
    for path in stem.parent.glob(f"{stem.name}-*"):
        suffix = path.name.removeprefix(f"{stem.name}-")
        if suffix.isdigit():
            numbers.append(int(suffix))
    return stem.with_name(f"{stem.name}-{max(numbers) + 1}")


def _stem(config: FitConfig) -> Path:
    """`runs/<data>-<model>-<rule>`; of a builder folder .../name/version, the name."""
    parts = Path(config.data.name).parts
    data = parts[-2] if len(parts) > 1 else config.data.name.partition(":")[0]
    return Path("runs") / f"{data}-{config.model.name}-{config.feedback.rule}"


class RunFiles(keras.callbacks.Callback):
    """Makes the run directory when the training begins, and appends every epoch's logs to it.

    Callbacks that may refuse the training, or add to the logs, must stand before it.

    Beside Keras' own logs a line of `metrics.jsonl` has `epoch`, counted from 1, and `seconds`, the
    time since the training began.
    """

    def __init__(self, directory: RunDirectory, config: FitConfig) -> None:
        super().__init__()
        self.directory = directory
        self.config = config
        self.begin_s = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.directory.create(self.config)
        self.begin_s = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = round(time.perf_counter() - self.begin_s, 3)
        line = {"epoch": epoch + 1, "seconds": seconds}
        line |= {name: float(value) for name, value in (logs or {}).items()}
        with self.directory.metrics_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
