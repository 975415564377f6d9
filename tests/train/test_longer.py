"""Runs that are trained longer than they were started for, or stop before their end."""

import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import yaml

from train.__main__ import main
from train.report.frames import gather
from train.run.directory import RunDirectory
from train.run.files import BestModel

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


@pytest.mark.slow
@pytest.mark.always
def test_longer_run_is_the_one_that_was_meant_to_be_so_long(tmp_path: Path) -> None:
    runs = {}
    for name, lengths in (("longer", (1, 2)), ("meant", (2,))):
        runs[name] = tmp_path / name
        for epochs in lengths:
            line = [*TINY, f"--training.epochs={epochs}", f"--run_directory={runs[name]}"]
            assert main(line) == 0
    config = yaml.safe_load((runs["longer"] / "config.yaml").read_text())
    assert config["training"]["epochs"] == 2
    lines, expected = (RunDirectory(path).metrics() for path in runs.values())
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    for name, value in weights(runs["meant"]).items():
        np.testing.assert_array_equal(weights(runs["longer"])[name], value, err_msg=name)


@pytest.mark.slow
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


def test_best_epoch_before_its_model_was_asked_for_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    best = BestModel(directory)
    best.set_model(SimpleNamespace(save=lambda path: path.write_text(f"of epoch {len(lines)}")))
    lines: list[str] = []
    kept = []
    for epoch, accuracy in enumerate([0.5, 0.8, 0.6, 0.7, 0.9, 0.9, 0.4]):
        if epoch >= 2:  # it is asked for when two epochs are done
            best.on_epoch_end(epoch, {"val_accuracy": accuracy})
            kept.append(directory.best_file.read_text() if directory.best_file.exists() else None)
        lines.append(json.dumps({"epoch": epoch + 1, "val_accuracy": accuracy}))
        directory.metrics_file.write_text("\n".join(lines) + "\n")
    assert kept == [None, None, *["of epoch 4"] * 3]
    said = capsys.readouterr().out
    assert said.startswith(
        "checkpoint.best: epoch 2 is the best so far, and its model was not kept."
    )
    assert said.count("\n") == 1
