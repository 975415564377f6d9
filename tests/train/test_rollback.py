"""Runs whose loss is no longer finite go back to a checkpoint and on at half the learning rate."""

import math
from pathlib import Path

import pytest

from train.__main__ import main
from train.run.checkpoint import Checkpoints
from train.run.directory import RunDirectory

# At learning rate x weight decay of 2 and more, steps overshoot zero and weights grow every step;
# halved often enough, weights shrink again.
RATE = 20.0
DIVERGING = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[8]",
    f"--optimizer.learning_rate={RATE}",
    "--training.progress=none",
    "--on_nan=rollback",
]


@pytest.mark.parametrize(
    ("rule", "weight_decay", "epochs"),
    [
        pytest.param("wm", 0.2, 8, marks=[pytest.mark.slow, pytest.mark.always]),
        pytest.param("fa", 0.25, 10, marks=pytest.mark.slow),
        pytest.param("kp", 0.1, 8, marks=pytest.mark.slow),
    ],
)
def test_run_that_diverges_goes_on_at_half_the_learning_rate_to_its_end(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rule: str,
    weight_decay: float,
    epochs: int,
) -> None:
    run = tmp_path / "run"
    arguments = [f"--optimizer.weight_decay={weight_decay}", f"--training.epochs={epochs}"]
    arguments += [f"--feedback.rule={rule}", f"--run_directory={run}"]
    assert main(["fit", *DIVERGING, *arguments]) == 0
    halved = capsys.readouterr().out.count("is not finite")
    lines = RunDirectory(run).metrics()
    assert halved >= 1
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
    assert lines[0]["learning_rate"] == RATE
    assert lines[-1]["learning_rate"] == RATE / 2**halved
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["loss"] < max(line["loss"] for line in lines)
    newest = next(Checkpoints(run / "checkpoints", keep=3).whole())
    assert newest.learning_rate_cuts == halved


@pytest.mark.slow
def test_diverged_run_of_the_weight_mirror_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--feedback.rule=wm", "--optimizer.learning_rate=1e30", "--training.epochs=1"]
    assert main(["fit", *DIVERGING, *arguments, f"--run_directory={tmp_path / 'run'}"]) == 4
    streams = capsys.readouterr()
    assert streams.out.count("The learning rate is halved.") == 3
    assert "The learning rate was halved 3 times: lower it." in streams.err
