"""What a run writes of itself: configuration, origin, measures of epochs, models."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.disk import GO_ON, append_line, disk_errors, to_json, whole_file, write_whole
from train.errors import UserError
from train.parsing.yaml_file import to_yaml
from train.parts.named import own_code
from train.run.directory import RunDirectory

CLONE = Path(__file__).parents[2]


def write_model(model: keras.Model, path: Path) -> None:
    """Saves a model aside and renames the file: where it stands, the run has finished."""
    with whole_file(path, f"The model cannot be written to {path}", GO_ON) as aside:
        model.save(aside)


def silent_layers(model: keras.Model) -> list[str]:
    """Layers that send no error back, as those that read an input: their angles have no effect."""
    return [p.name for p in tfwm.pathways(model) if p.sends_error_back is False]


def leads_back(pathway: tfwm.Pathway) -> Any:
    """What leads the error back: what stands in W's place, or the B past layers; None: nothing."""
    return pathway.backward_kernel() if pathway.rule.has_carrier else pathway.feedback_kernel


class BestModel(keras.callbacks.Callback):
    """Keeps the model of the best epoch so far as `best.keras`.

    The best is the highest `val_accuracy`, or where there is none the lowest `val_loss`; the first
    of several. It is chosen on the test images, so what it gives on them is too good. Earlier
    epochs are those of `metrics.jsonl`: must stand before what writes there.
    """

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self.directory = directory
        self._told = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        file, now = self.directory.best_file, _goodness(logs or {})
        earlier = [_goodness(line) for line in self.directory.metrics(epoch)]
        best = max((value for value in earlier if not math.isnan(value)), default=-math.inf)
        if now > best:
            write_model(self.model, file)
        elif math.isfinite(best) and not file.exists() and not self._told:
            self._told = True
            print(
                f"checkpoint.best: epoch {earlier.index(best) + 1} is the best so far, and its "
                f"model was not kept. {file} will be there when an epoch is better.",
                flush=True,
            )


def _goodness(line: dict[str, Any]) -> float:
    return float(line["val_accuracy"] if "val_accuracy" in line else -line["val_loss"])


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
        self.start = _start(config)
        self.begin_s = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        directory, starts = self.directory, []
        with disk_errors(f"run_directory={directory.path} cannot be written", GO_ON):
            if not directory.config_file.exists():
                write_whole(directory.config_file, to_yaml(self.config))
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                starts = json.loads(directory.setup_file.read_text())["starts"]
                starts = [start for start in starts if isinstance(start, dict)]
            if starts:
                self._tell_changes(starts[-1].get("own_code"))
            starts = [one for one in starts if one != self.start] + [self.start]
            silent = {"sends_no_error_back": silent_layers(self.model)}
            setup = self.setup | silent | hardware() | {"starts": starts}
            write_whole(directory.setup_file, to_json(setup, 2) + "\n")
        self.begin_s = self.begin_s or time.perf_counter()  # of the first phase here

    def _tell_changes(self, before: Any) -> None:
        now, before = self.start.get("own_code", {}), before if isinstance(before, dict) else {}
        if changed := [name for name in before if now.get(name, before[name]) != before[name]]:
            print(
                f"{', '.join(changed)}: not the code of the run's last start. What it has trained "
                f"stays, and the rest is trained by the code of now.",
                flush=True,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        line = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - self.begin_s, 3)}
        for name, value in (logs or {}).items():
            try:
                line[name] = value if isinstance(value, int) else float(value)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"callbacks: the logs have {name}={value!r}. Expected a number."
                ) from error
        with disk_errors(f"{self.directory.metrics_file} cannot be written", GO_ON):
            append_line(self.directory.metrics_file, to_json(line))


def _start(config: FitConfig) -> dict[str, Any]:
    """Of one start: `date` (UTC), `command`, of a clone `commit` and `uncommitted_changes`, and
    `own_code`, hashes of the modules that `config` names.
    """
    own = own_code(config)
    of_train = Path(sys.argv[0]).parts[-2:] == ("train", "__main__.py")
    program = ["python", "-m", "train"] if of_train else sys.argv[:1]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*program, *sys.argv[1:]]),
        **code(CLONE),
        **({"own_code": own} if own else {}),
    }


@functools.cache
def code(clone: Path) -> dict[str, Any]:
    """`commit` and `uncommitted_changes` of a clone; empty where there is none, or no git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(clone), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    # A copy without .git may lie in somebody's own repository.
    if (clone / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            changes = git("status", "--porcelain")
            return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(changes)}
    return {}


def hardware() -> dict[str, Any]:
    """`processor`, `cpus` that this process may use, and the accelerators among `devices`."""
    details = tf.config.experimental.get_device_details
    processor = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = next(line for line in lines if line.startswith("model name"))
        processor = named.partition(":")[2].strip()
    return {
        "processor": processor,
        "cpus": len(os.sched_getaffinity(0)),
        "devices": [
            f"{device.device_type} {details(device).get('device_name', '')}".strip()
            for device in tf.config.list_physical_devices()
        ],
    }
