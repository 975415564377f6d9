"""Lengths in steps; what is looked at before, between and behind steps, and leaves no trace."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tests.train import killing
from train.config import FitConfig
from train.config.data import DataConfig
from train.data import datasets
from train.devices.strategy import place
from train.errors import UserError
from train.parsing.command_line import parse
from train.report.frames import read
from train.run.fit import fit
from train.run.loop import Position
from train.run.phases import Phases

SMALL = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--data.augmentation=pad_crop_flip",
    "--data.pad=1",
    "--model.name=mlp",
    "--model.options.units=[16]",
    "--feedback.rule=kp",
    "--optimizer.weight_decay=0.1",
    "--training.steps=14",  # of 4 an epoch
    "--training.steps_per_call=3",
    "--training.progress=none",
]
LOOKS = [
    "--training.evaluate_every=3",
    "--training.evaluate_at_start=true",
    "--training.train_error=true",
    "--monitor.last_epoch_measures=2",
]


def config_of(directory: Path, *arguments: str) -> FitConfig:
    return parse(["fit", *SMALL, f"--run_directory={directory}", *arguments])[0]


def lines_of(directory: Path, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / file).read_text().splitlines()]


def by_step(directory: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in lines_of(directory, "steps.jsonl")}


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 14 steps with everything that looks in."""
    directory = tmp_path_factory.mktemp("steps") / "run"
    fit(config_of(directory, *LOOKS, "--checkpoint.every_steps=1", "--checkpoint.keep=99"))
    return directory


def weights(directory: Path) -> list[np.ndarray]:
    return list(keras.models.load_model(directory / "model.keras").get_weights())


def test_length_in_steps_ends_within_an_epoch(looked_at: Path) -> None:
    model = keras.models.load_model(looked_at / "model.keras")
    assert int(model.optimizer.iterations) == 14
    assert [line["epoch"] for line in lines_of(looked_at, "metrics.jsonl")] == [1, 2, 3, 4]
    run = read(looked_at)  # as a report does
    assert (run.planned, run.finished) == (4, True)


@pytest.mark.slow
@pytest.mark.always
def test_looks_leave_no_trace_in_the_training(looked_at: Path, tmp_path: Path) -> None:
    fit(config_of(tmp_path / "run"))
    for one, other in zip(weights(looked_at), weights(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)
    pairs = zip(
        lines_of(tmp_path / "run", "metrics.jsonl"),
        lines_of(looked_at, "metrics.jsonl"),
        strict=True,
    )
    for plain, with_looks in pairs:
        for name in plain.keys() - {"seconds", "images_per_second", "input_wait_share"}:
            assert plain[name] == with_looks[name], name
    assert not (tmp_path / "run" / "steps.jsonl").exists()


def test_step_lines_stand_at_their_steps_with_their_measures(looked_at: Path) -> None:
    lines, epochs = by_step(looked_at), lines_of(looked_at, "metrics.jsonl")
    # Every third step, the ends of epochs, and the middle of the last one.
    assert list(lines) == [0, 3, 4, 6, 8, 9, 12, 13, 14]
    assert [line["epoch"] for line in lines.values()] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    for step, line in lines.items():
        assert "weight_angle/head" in line
        assert ("val_loss" in line) == (step != 13)
    for epoch, step in enumerate((4, 8, 12, 14)):
        for name in ("val_loss", "val_accuracy", "kurtosis/hidden_1"):
            assert lines[step][name] == epochs[epoch][name]
    assert len({line["weight_angle/head"] for line in lines.values()}) == len(lines)


def test_step_zero_is_the_model_as_it_is_drawn(looked_at: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run")
    phases = Phases(config, place(config), datasets.load(config.data))
    loop, _ = phases.entered(Position(), begins=True)
    line = by_step(looked_at)[0]
    for name, value in loop.test_images().items():
        assert line[f"val_{name}"] == value


def test_train_error_is_of_all_training_images_without_augmentation(looked_at: Path) -> None:
    data = DataConfig(train_split="train[:256]", test_split="test[:100]")
    images = datasets.load(data)
    model = keras.models.load_model(looked_at / "model.keras")
    pixels, labels = images.train.arrays
    pixels = (pixels - images.normalization.offset) / images.normalization.scale
    logits = np.asarray(model.predict(pixels, verbose=0), np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -logs[np.arange(256), labels].mean()
    last = lines_of(looked_at, "metrics.jsonl")[-1]
    assert last["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert last["train_accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert last["train_loss"] != pytest.approx(last["loss"], rel=1e-3)


def test_tensorboard_has_the_lines_over_training_steps(looked_at: Path) -> None:
    events = EventAccumulator(str(looked_at / "events"))
    events.Reload()
    seen = {
        event.step: float(make_ndarray(event.tensor_proto))
        for event in events.Tensors("by_step/val_loss")
    }
    expected = {s: line["val_loss"] for s, line in by_step(looked_at).items() if s != 13}
    assert seen == pytest.approx(expected)


def test_last_line_has_mean_and_deviation_over_the_last_epoch(looked_at: Path) -> None:
    lines, epochs = by_step(looked_at), lines_of(looked_at, "metrics.jsonl")
    for measure in ("kurtosis", "magnitude", "weight_angle"):
        values = [lines[step][f"{measure}/head"] for step in (13, 14)]
        assert epochs[-1][f"{measure}_mean/head"] == pytest.approx(np.mean(values))
        assert epochs[-1][f"{measure}_std/head"] == pytest.approx(
            abs(values[0] - values[1]) / 2**0.5
        )
    assert not any("_mean/" in name for line in epochs[:-1] for name in line)


class KilledError(RuntimeError):
    pass


class DieAt(keras.callbacks.Callback):
    """Ends the process' part as a kill would, at the begin of a call or behind an epoch's files."""

    def __init__(self, batch: int | None = None, epoch: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.batch is not None:
            self.batch -= 1
            if self.batch < 0:
                raise KilledError

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            raise KilledError


def test_run_killed_between_measures_of_its_last_epoch_has_the_same_lines_and_bits(
    looked_at: Path, tmp_path: Path
) -> None:
    killed = killing.killed_copy(looked_at, tmp_path / "run", step=13)
    fit(config_of(killed, *LOOKS))
    killing.assert_same_lines_and_bits(looked_at, killed)


@pytest.mark.slow
def test_killed_run_has_the_same_lines_and_bits(looked_at: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", *LOOKS, "--checkpoint.every_steps=1")
    # At step 0, in the first epoch, behind the lines of an epoch that no checkpoint has, in the
    # last epoch behind its first measure, and behind its last line.
    for death in (DieAt(0), DieAt(1), DieAt(epoch=1), DieAt(3), DieAt(epoch=3)):
        with pytest.raises(KilledError):
            fit(config, extra_callbacks=[death])
    fit(config)
    killing.assert_same_lines_and_bits(looked_at, tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--training.epochs=3"], "training.epochs is 3 and training.steps 14. Expected one of"),
        (["--training.steps=0"], "training.steps has the value 0. Expected 1 or more."),
        (["--training.evaluate_every=0"], "training.evaluate_every has the value 0."),
        (["--monitor.last_epoch_measures=1"], "measures is 1. Expected 0, or 2 or more"),
        (["--monitor.last_epoch_measures=3"], "is 3, but the last epoch has 2 steps."),
        (
            ["--monitor.last_epoch_measures=2", "--feedback.rule=bp"],
            "is 2, but nothing is measured.",
        ),
        (
            ["--optimizer.schedule.warm_up_epochs=1", "--optimizer.schedule.warm_up_steps=1"],
            "optimizer.schedule.warm_up_epochs and warm_up_steps are both given.",
        ),
        (["--optimizer.schedule.warm_up_steps=14"], "warm_up_steps is 14, 14 of 14 training steps"),
        (
            ["--optimizer.schedule.name=piecewise", "--optimizer.schedule.boundaries_steps=[3,2]"],
            "boundaries_steps is [3, 2]. Expected steps above 0 in rising order.",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        fit(config_of(tmp_path / "run", *arguments))
    assert sentence in str(refused.value)
    assert not (tmp_path / "run").exists()
