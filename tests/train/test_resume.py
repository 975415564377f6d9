"""Runs that are killed, asked to end or damaged go on to the same bits with the same command."""

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.train import killing
from train.__main__ import main
from train.errors import TerminatedError, UserError
from train.parsing.command_line import parse
from train.run import checkpoint
from train.run.checkpoint import Checkpoints, restore, state_of
from train.run.fit import fit
from train.run.loop import Position

SMALL = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[16]",
    "--training.epochs=2",
    "--training.progress=none",
    "--checkpoint.every_steps=1",
]

# 8 steps an epoch in calls of 3, 3 and 2: four places to look in, an epoch.
POINTS = [
    ("between_calls", "2", -9),
    ("variables_written", "3", -9),
    ("sigterm", "2", 128 + signal.SIGTERM),
    ("in_mirror_mode", "2", -9),
    ("before_rename", "3", -9),
    ("in_evaluation", "1", -9),
    ("epoch_written", "1", -9),
]


MIRRORED = ["--strategy=mirrored", "--replicas=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("points", "arguments"),
    [
        # test_kills.py has every step in the file system, test_strategies.py a worker killed.
        pytest.param(POINTS, [], id="all"),
        pytest.param(POINTS[:4], MIRRORED, id="two replicas"),
    ],
)
def test_run_killed_at_its_weak_points_ends_with_the_same_bits(
    tmp_path: Path, points: list[tuple[str, str, int]], arguments: list[str]
) -> None:
    assert killing.run(tmp_path / "never_killed", *arguments) == 0
    for point, count, status in points:
        assert killing.run(tmp_path / "killed", *arguments, trap=(point, count)) == status, point
    assert killing.run(tmp_path / "killed", *arguments) == 0
    killing.assert_same_bits(tmp_path / "never_killed", tmp_path / "killed")


class EndAfter(keras.callbacks.Callback):
    """Asks this process to end, as a cluster would, at the begin of a batch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self.batches -= 1
        if self.batches == 0:
            os.kill(os.getpid(), signal.SIGTERM)


RULES = {
    "brsf": ["--feedback.rule=brsf"],
    "urfb": ["--feedback.rule=urfb", "--optimizer.name=adam"],
    "kp": [
        "--feedback.rule=kp",
        "--optimizer.weight_decay=0.1",
        "--optimizer.options.momentum=0.9",
    ],
    "wm": [
        "--feedback.rule=wm",
        "--mirror.mode=akrout2019",
        "--training.precision=mixed_bfloat16",
    ],
    "fa": ["--feedback.rule=fa", "--training.precision=mixed_float16"],
    "fixed signs and masks": [
        "--feedback.rule=urfb",
        "--constraints={head: {name: sparse, options: {constraint: glorot_clip}}, '*': fixed_sign}",
        "--callbacks=[SignFlips]",
        "--optimizer.name=batchmanhattan",
        "--optimizer.options.momentum=0.9",
        "--model.options.activation=mixed_relu",
        "--model.options.batch_norm=true",
        "--model.options.batch_norm_statistics=earlier",
        "--loss=multi_class_hinge",
    ],
    # Of these two the replicas have most to agree on.
    "wm and kp": [
        "--feedback.rule=wm",
        "--feedback.layers.head=kp",
        "--mirror.mode=akrout2019",
        "--training.precision=mixed_bfloat16",
        "--optimizer.weight_decay=0.1",
        "--optimizer.options.momentum=0.9",
    ],
}


@pytest.mark.slow
@pytest.mark.always
def test_two_replicas_killed_in_mid_epoch_go_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    arguments = ["fit", *SMALL, *RULES["wm and kp"], *MIRRORED, "--checkpoint.keep=99"]
    assert main([*arguments, f"--run_directory={whole}"]) == 0
    killed = killing.killed_copy(whole, tmp_path / "killed", step=6)
    finished = fit(parse([*arguments, f"--run_directory={killed}"])[0])
    killing.assert_same_bits(whole, killed)
    assert len(finished.history["loss"]) == 2  # the epoch before the kill included


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "strategy"),
    [
        pytest.param(rule, MIRRORED if replicas == 2 else [], id=f"{rule}-{replicas}")
        for replicas in (1, 2)
        for rule in RULES
        if (rule, replicas) != ("fa", 2)  # mixed_float16 is refused on replicas
    ],
)
def test_run_asked_to_end_in_mid_epoch_goes_on_to_the_same_bits(
    tmp_path: Path, rule: str, strategy: list[str]
) -> None:
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    arguments = ["fit", *SMALL, *RULES[rule], *strategy]
    assert main([*arguments, f"--run_directory={whole}"]) == 0
    config, _ = parse([*arguments, f"--run_directory={ended}"])
    with pytest.raises(TerminatedError, match="after training step 6"):
        fit(config, extra_callbacks=[EndAfter(6)])
    fit(config)
    killing.assert_same_bits(whole, ended)


def damage(folder: Path, how: str) -> Path:
    """Where the checkpoint is then."""
    data, state = folder / "variables.data-00000-of-00001", folder / "state.json"
    if how == "bit":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "short":
        data.write_bytes(data.read_bytes()[:100])
    elif how == "position":
        state.write_text(state.read_text().replace('"step_in_epoch": ', '"step_in_epoch": 1'))
    elif how == "checksum":
        (folder / "sha256").write_bytes(b"\xff")
    elif how == "name":
        return folder.rename(folder.with_name("00000099-step-1"))
    else:
        data.unlink()
    return folder


every_damage = pytest.mark.parametrize(
    "how", ["bit", "short", "position", "checksum", "name", "gone"]
)


@every_damage
def test_damaged_checkpoint_is_reported_and_the_one_before_it_found(
    tmp_path: Path, how: str
) -> None:
    store, weight = Checkpoints(tmp_path, keep=3), tf.Variable(tf.range(100.0))
    state = {"model/0/weight": weight}
    before = store.save(state, Position(0, 1, step=1))
    weight.assign(-weight)
    newest = store.save(state, Position(0, 2, step=2))
    newest = damage(newest, how)
    reports: list[str] = []
    found = next(store.whole(reports.append))
    assert (found.folder, found.position) == (before, Position(0, 1, step=1))
    assert [f"Checkpoint {newest} is damaged" in report for report in reports] == [True]
    restore(found, state)
    np.testing.assert_array_equal(weight, np.arange(100))


@pytest.mark.slow
@every_damage
def test_run_whose_checkpoint_is_damaged_goes_on_from_the_one_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    arguments = ["fit", *SMALL, "--feedback.rule=fa"]
    assert main([*arguments, f"--run_directory={whole}"]) == 0
    config, _ = parse([*arguments, f"--run_directory={ended}"])
    with pytest.raises(TerminatedError):
        fit(config, extra_callbacks=[EndAfter(6)])
    *_, before, newest = sorted((ended / "checkpoints").iterdir())
    newest = damage(newest, how)
    capsys.readouterr()
    assert main([*arguments, f"--run_directory={ended}", "--training.progress=epoch"]) == 0
    shown = capsys.readouterr().out
    assert f"Checkpoint {newest} is damaged" in shown
    assert f"goes on from {before}" in shown
    killing.assert_same_bits(whole, ended)


def test_damaged_checkpoints_do_not_count_and_the_one_just_written_stays(tmp_path: Path) -> None:
    state = {"model/0/weight": tf.Variable(1.0)}
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 7, 8):
        store.keep = 9
        written = store.save(state, Position(0, step, step))
        if step > 1:
            damage(written, "bit")
    for step in (2, 3, 4):
        store = Checkpoints(tmp_path, keep=2)
        assert next(store.whole(lambda _: None)).position.step == step - 1
        store.save(state, Position(0, step, step))
        assert [found.position.step for found in store.whole()] == [step, step - 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_workers_of_one_process_number_write_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each container has a process 1; all of them write a share into the same folder."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    state = {"model/0/weight": tf.Variable(1.0)}
    chief = Checkpoints(tmp_path, keep=1)
    worker = Checkpoints(tmp_path, keep=1, writes=False)
    describe = checkpoint._checksum

    def meanwhile(*arguments: Any) -> str:
        worker.save(state, Position(0, 1, step=1))
        return describe(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_checksum", meanwhile)
        written = chief.save(state, Position(0, 1, step=1))
    assert list(tmp_path.iterdir()) == [written]
    assert next(chief.whole()).folder == written


def test_lost_worker_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, state = Checkpoints(tmp_path, keep=1), {"model/0/weight": tf.Variable(1.0)}
    for error, raised, said in (
        (tf.errors.UnavailableError, tf.errors.UnavailableError, "No space"),
        (tf.errors.ResourceExhaustedError, UserError, f"to {tmp_path}: No space left on device. "),
    ):

        def fail(*_: object, error: Any = error) -> None:
            raise error(None, None, "{{node}} /a/b; No space left on device [Op:SaveV2]")

        monkeypatch.setattr(checkpoint, "_tracker", fail)
        with pytest.raises(raised, match=said):
            store.save(state, Position())
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1)
    written = store.save({"model/0/weight": tf.Variable(1.0)}, Position())
    (tmp_path / ".writing-123").mkdir()
    (tmp_path / ".writing-123" / "variables.index").write_text("half")
    store.remove_leftovers()
    assert list(tmp_path.iterdir()) == [written]


def test_checkpoint_of_an_earlier_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "step-000000000004").mkdir()
    with pytest.raises(UserError, match="step-000000000004 was written by an earlier version"):
        list(Checkpoints(tmp_path, keep=1).whole())


class Counting(keras.callbacks.Callback):
    """Has state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = tf.Variable(0)

    def state(self) -> dict[str, tf.Variable]:
        return {"seen": self.seen}


def test_two_callbacks_of_a_kind_both_join_the_checkpoints() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [Counting(), Counting()]
    state = state_of(model, tf.distribute.get_strategy(), callbacks, {})
    joined = {id(variable) for variable in state.values()}
    assert all(id(callback.seen) in joined for callback in callbacks)
