"""Runs that are trained longer than they were started for, or stop before their end."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from train.__main__ import main
from train.report.frames import gather
from train.run.directory import RunDirectory

TINY = [
    "fit",
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model=mlp",
    "--model.options.units=[8]",
    "--feedback.rule=wm",
    "--optimizer.options.momentum=0.9",
    "--optimizer.schedule.name=piecewise",
    "--optimizer.schedule.boundaries_epochs=[1.5]",
    "--training.progress=none",
]


def weights(run: Path) -> dict[str, np.ndarray]:
    model = keras.models.load_model(run / "model.keras", compile=False)
    return {variable.path: variable.numpy() for variable in model.variables}


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    assert main([*TINY, "--training.epochs=2", f"--run_directory={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    assert main([*TINY, "--training.epochs=1", f"--run_directory={run}"]) == 0
    return run


@pytest.mark.parametrize("finished", [True, False])
def test_longer_run_is_the_one_that_was_meant_to_be_so_long(
    finished: bool, one_epoch: Path, two_epochs: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(one_epoch, tmp_path / "run"))
    if not finished:
        (run / "model.keras").unlink()
    assert main([*TINY, "--training.epochs=2", f"--run_directory={run}"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 2
    lines, expected = (RunDirectory(path).metrics() for path in (run, two_epochs))
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    for name, value in weights(two_epochs).items():
        np.testing.assert_array_equal(weights(run)[name], value, err_msg=name)


def test_unnamed_run_of_more_epochs_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for epochs in (1, 2):
        assert main([*TINY, f"--training.epochs={epochs}"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_run_that_stops_early_has_finished_and_keeps_its_best_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No epoch is better by 100 than the first.
    stop = "{name: EarlyStopping, options: {monitor: val_loss, min_delta: 100.0, patience: 1}}"
    run = tmp_path / "run"
    line = [*TINY, "--training.epochs=9", f"--callbacks=[{stop}]", "--checkpoint.best=true"]
    assert main([*line, f"--run_directory={run}"]) == 0
    accuracies = [line["val_accuracy"] for line in RunDirectory(run).metrics()]
    assert len(accuracies) == 2
    groups, left_out = gather([str(run)])
    assert (len(groups), left_out) == (1, {})
    best = int(np.argmax(accuracies))
    shown = capsys.readouterr().out
    assert f"chosen on the test images: {accuracies[best]:.4f} after {best + 1})" in shown
    assert f"and of the best epoch {run / 'best.keras'}\n" in shown
    config = f"--config={run / 'config.yaml'}"
    assert main(["evaluate", str(run / "best.keras"), config]) == 0
    assert f"accuracy        {accuracies[best]:.4f}" in capsys.readouterr().out
    assert main([*line, f"--run_directory={run}"]) == 0
    assert "has finished" in capsys.readouterr().out
