"""Checkpoints: all state of a running training, written aside, checked by checksum.

A checkpoint is a folder `step-<n>` with TensorFlow's files and `state.json`: where the training
stood, what the files hold, and their SHA-256. It gets its name when everything is on disk, so that
a folder of that name is whole unless the disk damaged it, and then its checksum says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from train.errors import UserError
from train.run.loop import Position

STATE_FILE = "state.json"


@dataclasses.dataclass(frozen=True)
class Found:
    """A whole checkpoint on disk.

    Args:
        folder: Its files.
        position: Where the training stood.
        learning_rate_cuts: How often the learning rate had been halved (`on_nan: rollback`).
        contents: Variable name to shape and dtype.
    """

    folder: Path
    position: Position
    learning_rate_cuts: int
    contents: dict[str, list[Any]]


def state_of(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    callbacks: Iterable[Any],
    others: Mapping[str, tf.Variable],
) -> dict[str, tf.Variable]:
    """Everything that a training's next step depends on, beside the data, by name.

    Variables of which every replica has a copy of its own (metrics, BatchNorm's statistics, seeds)
    are taken apart, replica by replica. Between workers TensorFlow cannot: metrics are summed
    there, and of the others the chief's copy counts.

    Args:
        model: Compiled and trained; its optimizer and metrics have their variables.
        strategy: Under which it trains.
        callbacks: Those with a method `state() -> {name: variable}` take part.
        others: More variables by name.
    """
    state: dict[str, tf.Variable] = {}
    apart = not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    for group, variables in groups.items():
        for number, variable in enumerate(variables):
            # An optimizer's own name counts the optimizers of this process.
            path = variable.path.partition("/")[2] if group == "optimizer" else variable.path
            name = f"{group}/{number}/{path}"
            copies = strategy.experimental_local_results(variable.value)
            own = variable.synchronization == "on_read" or variable.aggregation == "none"
            if apart and own and len(copies) > 1 and not variable.trainable:
                state |= {f"{name}/replica_{r}": copy for r, copy in enumerate(copies)}
            else:
                state[name] = variable.value
    for callback in callbacks:
        if hasattr(callback, "state"):
            kind = type(callback).__name__
            state |= {f"callback/{kind}/{name}": v for name, v in callback.state().items()}
    return state | {f"other/{name}": variable for name, variable in others.items()}


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are; made at the first save.
        keep: How many; the oldest goes first.
        writes: False for workers that take part in a save and leave the writing to the chief.
    """

    def __init__(self, folder: Path, *, keep: int, writes: bool = True) -> None:
        self.folder = folder
        self.keep = keep
        self.writes = writes

    def save(
        self, state: Mapping[str, tf.Variable], position: Position, *, step: int, cuts: int = 0
    ) -> Path:
        """Writes a checkpoint; every worker must call it.

        Args:
            state: As `state_of` gives it.
            position: Where the training stands.
            step: Training steps done, for the name.
            cuts: How often the learning rate was halved.

        Raises:
            UserError: If the disk is full or not writable. Older checkpoints are kept.
        """
        final = self.folder / f"step-{step:012d}"
        aside = self.folder / f".writing-{os.getpid()}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _tracker(state).write(str(aside / "variables"))
            if not self.writes:
                shutil.rmtree(aside)
                return final
            _write_state_file(aside, state, position, cuts)
            shutil.rmtree(final, ignore_errors=True)  # of a step that a rollback did again
            aside.rename(final)
            _to_disk(self.folder)
        except (OSError, tf.errors.OpError) as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(aside, ignore_errors=True)
            reason = getattr(error, "strerror", None) or getattr(error, "message", error)
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {self.folder}: {reason}. "
                f"{self._kept()} Make room or give rights, and start the same command again."
            ) from error
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def newest(self, report: Any = print) -> Found | None:
        """The newest whole checkpoint; damaged ones are reported, and left where they are."""
        for folder in reversed(self._folders()):
            try:
                return _read_state_file(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                report(f"Checkpoint {folder} is damaged ({error}): the one before it is used.")
        return None

    def _folders(self) -> list[Path]:
        """Whole or damaged, oldest first; half-written ones have another name."""
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _kept(self) -> str:
        folders = self._folders()
        return f"The last checkpoint is {folders[-1]}." if folders else "There is none before it."


def restore(found: Found, state: Mapping[str, tf.Variable]) -> None:
    """Puts all variables where they were.

    Raises:
        UserError: If the checkpoint holds other variables: it is of another model.
    """
    expected = _contents(state)
    if found.contents != expected:
        what = _difference(found.contents, expected)
        raise UserError(f"Checkpoint {found.folder} is of another model: {what}")
    _tracker(state).read(str(found.folder / "variables")).assert_consumed()


def _tracker(state: Mapping[str, tf.Variable]) -> tf.train.Checkpoint:
    # Names may hold anything; TensorFlow's attribute names may not.
    return tf.train.Checkpoint(**{f"v{number}": v for number, v in enumerate(state.values())})


def _contents(state: Mapping[str, tf.Variable]) -> dict[str, list[Any]]:
    return {name: [list(v.shape), tf.as_dtype(v.dtype).name] for name, v in state.items()}


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    missing = [name for name in here if name not in there]
    extra = [name for name in there if name not in here]
    if missing or extra:
        parts = [f"it lacks {missing[0]}"] if missing else []
        parts += [f"it has {extra[0]}, which this one has not"] if extra else []
        return f"{' and '.join(parts)} ({len(missing)} and {len(extra)} such variables)."
    name = next(name for name in here if there[name] != here[name])
    return f"{name} is {there[name]} there and {here[name]} here."


def _write_state_file(
    aside: Path, state: Mapping[str, tf.Variable], position: Position, cuts: int
) -> None:
    written = {
        "position": dataclasses.asdict(position),
        "learning_rate_cuts": cuts,
        "contents": _contents(state),
        "sha256": {path.name: _sha256(path) for path in sorted(aside.iterdir())},
    }
    (aside / STATE_FILE).write_text(json.dumps(written))
    for path in [*aside.iterdir(), aside]:
        _to_disk(path)


def _read_state_file(folder: Path) -> Found:
    written = json.loads((folder / STATE_FILE).read_text())
    for name, expected in written["sha256"].items():
        if _sha256(folder / name) != expected:
            raise ValueError(f"the checksum of {name} does not fit")
    return Found(
        folder=folder,
        position=Position(**written["position"]),
        learning_rate_cuts=written["learning_rate_cuts"],
        contents=written["contents"],
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_finite(state: Mapping[str, tf.Variable]) -> Sequence[str]:
    """Names of the model's and optimizer's variables that hold NaN or infinity."""
    names = [
        name
        for name, variable in state.items()
        if name.startswith(("model/", "optimizer/")) and variable.dtype.is_floating
    ]
    return [
        name
        for name in names
        if not bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(state[name]))))
    ]
