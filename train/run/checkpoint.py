"""Checkpoints: folders that hold all state of a running training, whole or not there.

A checkpoint is a folder `<number>-step-<n>` with TensorFlow's files, `state.json` (where the
training stood, what the files hold) and `sha256`: one checksum of all that and of the folder's
name. It is written aside and renamed when everything is on the disk. Numbers count up, so that no
checkpoint needs another's name and none goes before a newer one stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from train.devices.cluster import is_lost_worker
from train.disk import reason_of, rename_on_disk
from train.errors import UserError, see
from train.run.loop import Position

DIGITS = 8
CHECKSUM = "sha256"
DAMAGE = (OSError, ValueError, TypeError, KeyError)


class OtherModelError(UserError):
    """A whole checkpoint that holds other variables than the model has."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A whole checkpoint on disk."""

    folder: Path
    position: Position
    learning_rate_cuts: int  # how often the learning rate had been halved
    contents: dict[str, list[Any]]  # variable name to shape and dtype

    @property
    def checksum(self) -> str:
        return (self.folder / CHECKSUM).read_text()


class Checkpoints:
    """The checkpoints of a run; who does not write takes part in saves, as all workers must."""

    def __init__(self, folder: Path, *, keep: int, writes: bool = True) -> None:
        self.folder = folder
        self.keep = keep
        self.writes = writes
        self._known: dict[Path, Found] = {}

    def save(self, state: Mapping[str, tf.Variable], position: Position, *, cuts: int = 0) -> Path:
        """Writes a checkpoint of what `state_of` gives, and then makes way for it."""
        number = 1 + max((int(folder.name[:DIGITS]) for folder in self._folders()), default=0)
        final = self.folder / f"{number:0{DIGITS}d}-step-{position.step}"
        aside = self.folder / f".writing-{uuid.uuid4().hex}"  # several workers share the folder
        found = Found(final, position, cuts, _contents(state))
        try:
            aside.mkdir(parents=True)
            _tracker(state).write(str(aside / "variables"))
            if not self.writes:
                shutil.rmtree(aside)
                return final
            written = dataclasses.asdict(found) | {"folder": final.name}
            (aside / "state.json").write_text(json.dumps(written))
            (aside / CHECKSUM).write_text(_checksum(aside, final.name))
            rename_on_disk(aside, final)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            if is_lost_worker(error):
                raise
            last = next(self.whole(lambda _: None), None)
            kept = f"The last checkpoint is {last.folder}." if last else "There is none before it."
            raise UserError(
                f"The checkpoint of step {position.step} cannot be written to {self.folder}: "
                f"{reason_of(error)}. {kept} Make room or give rights, and start the same command "
                f"again." + see("memory-and-disk")
            ) from error
        self._known[final] = found
        self._make_way_for(found)
        return final

    def whole(self, report: Callable[[str], object] = print) -> Iterator[Found]:
        """The whole checkpoints, the newest first; damaged ones are reported."""
        for folder in self._folders():
            try:
                found = self._known[folder] = _read(folder)
            except DAMAGE as error:
                report(f"Checkpoint {folder} is damaged ({error}): the one before it is used.")
            else:
                yield found
        old = sorted(self.folder.glob("step-*"))
        if old and not self._folders():
            raise UserError(
                f"Checkpoint {old[-1]} was written by an earlier version of this code. Expected "
                f"that version to go on with it; or remove {self.folder}, and the run begins anew."
            )

    def remove_leftovers(self) -> None:
        """Removes what kills have left half-written; nobody else may be at work here."""
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Whole or damaged, the one written last first."""
        return sorted(self.folder.glob("[0-9]" * DIGITS + "-step-*"), reverse=True)

    def _make_way_for(self, written: Found) -> None:
        """Removes those of the same and of later steps: it takes their place, or the training that
        wrote them was given up. And older ones, but for the last whole `keep`.
        """
        kept = 0
        for folder in self._folders():
            found = self._known.get(folder)
            if found is None:  # of an earlier process, and not looked at yet
                with contextlib.suppress(*DAMAGE):
                    found = self._known[folder] = _read(folder)
            older = found is not None and found.position.step < written.position.step
            if found is written or (older and kept < self.keep):
                kept += 1
            else:
                shutil.rmtree(folder, ignore_errors=True)


def restore(found: Found, state: Mapping[str, tf.Variable]) -> None:
    """Puts all variables where they were."""
    there, here = found.contents, _contents(state)
    if _uncounted(there) != _uncounted(here):
        name = next(name for name in [*here, *there] if there.get(name) != here.get(name))
        what = f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here."
        raise OtherModelError(f"Checkpoint {found.folder} is of another model: {what}")
    _tracker(state).read(str(found.folder / "variables")).assert_existing_objects_matched()


def restore_model(found: Found, model: keras.Model) -> None:
    """Puts the variables of a model alone where they were, whatever trained it.

    Statistics of which every replica had its own are averaged.
    """
    reader = tf.train.load_checkpoint(str(found.folder / "variables"))
    copies: dict[str, list[Any]] = {}
    for number, name in enumerate(found.contents):
        group, place, *_ = name.split("/")
        if group == "model":
            value = reader.get_tensor(f"v{number}/.ATTRIBUTES/VARIABLE_VALUE")
            copies.setdefault(place, []).append(value)
    shapes = [tuple(values[0].shape) for values in copies.values()]
    if shapes != [tuple(variable.shape) for variable in model.variables]:
        raise OtherModelError(f"Checkpoint {found.folder} is of another model.")
    for variable, values in zip(model.variables, copies.values(), strict=True):
        mean = values[0].dtype.kind == "f"
        variable.assign(np.mean(values, axis=0) if mean else values[0])


def state_of(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    callbacks: Iterable[Any],
    others: Mapping[str, tf.Variable],
) -> dict[str, tf.Variable]:
    """Everything that a training's next step depends on, beside the data, by name.

    Variables of which every replica has a copy of its own (metrics, BatchNorm's statistics, seeds)
    are taken apart, replica by replica. Between workers TensorFlow cannot: metrics are summed
    there, and of the others the chief's copy counts. Callbacks with a method
    `state() -> {name: variable}` take part.
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
    stateful = [callback for callback in callbacks if hasattr(callback, "state")]
    for number, callback in enumerate(stateful):
        kind = type(callback).__name__
        for name, variable in callback.state().items():
            if not isinstance(variable, tf.Variable):
                raise UserError(
                    f"callbacks: state() of {kind} gives {variable!r} for {name!r}. Expected a "
                    f"tf.Variable." + see("parts-of-your-own", "own_parts")
                )
            state[f"callback/{kind}_{number}/{name}"] = variable
    return state | {f"other/{name}": variable for name, variable in others.items()}


def _tracker(state: Mapping[str, tf.Variable]) -> tf.train.Checkpoint:
    # Names may hold anything; TensorFlow's attribute names may not. A variable that has several
    # (under `KolenPollack`, state of the optimizer for W and for B) is kept by the first.
    names = {id(v): f"v{number}" for number, v in reversed(list(enumerate(state.values())))}
    return tf.train.Checkpoint(**{names[id(v)]: v for v in state.values()})


def _contents(state: Mapping[str, tf.Variable]) -> dict[str, list[Any]]:
    return {name: [list(v.shape), tf.as_dtype(v.dtype).name] for name, v in state.items()}


def _uncounted(contents: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Without the numbers by which Keras tells apart what one process has made of a kind."""
    return sorted((re.sub(r"_\d+(?=[_/]|$)", "", n), content) for n, content in contents.items())


def _read(folder: Path) -> Found:
    if (folder / CHECKSUM).read_text() != _checksum(folder, folder.name):
        raise ValueError("its checksum does not fit")
    written = json.loads((folder / "state.json").read_text())
    # Earlier versions wrote the step beside the position.
    position = {"step": written.pop("step", 0)} | written["position"]
    return Found(**written | {"folder": folder, "position": Position(**position)})


def _checksum(folder: Path, name: str) -> str:
    """Of a checkpoint's name and all of its files, with their names."""
    whole = hashlib.sha256(name.encode())
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUM:
            with path.open("rb") as file:
                part = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"\n{path.name} {part}".encode())
    return whole.hexdigest()
