"""What a run says on the terminal, in at most 100 columns."""

import json
from pathlib import Path

import keras
import pytest

from train.__main__ import main
from train.run.directory import RunDirectory
from train.run.terminal import EpochLines, last_lines

RUN = [
    "fit",
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[8,8]",
    "--feedback.rule=fa",
    "--training.epochs=2",
]


def table_of(shown: str) -> list[str]:
    lines = shown.splitlines()
    (begin,) = [number for number, line in enumerate(lines) if line.split()[:1] == ["epoch"]]
    return lines[begin:]


def test_epoch_is_a_line_of_a_table_and_the_run_says_what_it_came_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*RUN, f"--run_directory={run}"]) == 0
    head, *rows = table_of(capsys.readouterr().out)
    assert " ".join(head.split()) == (
        "epoch loss accuracy test loss accuracy worst angle mean angle images/s time left"
    )
    logs = RunDirectory(run).metrics()
    assert len(logs[-1]) > 20  # which stay in the files
    for number, (row, line) in enumerate(zip(rows[:2], logs, strict=True), start=1):
        assert len(row) <= 100
        angles = [value for name, value in line.items() if name.startswith("weight_angle/")]
        assert len(angles) == 3
        angles = angles[1:]  # the layer at the input sends no error back
        epoch, loss, accuracy, test_loss, test_accuracy, worst, mean, *_, left = row.split()
        assert epoch == f"{number}/2"
        assert float(loss) == pytest.approx(line["loss"], abs=1e-4)
        assert float(accuracy) == pytest.approx(line["accuracy"], abs=1e-4)
        assert float(test_loss) == pytest.approx(line["val_loss"], abs=1e-4)
        assert float(test_accuracy) == pytest.approx(line["val_accuracy"], abs=1e-4)
        assert float(worst) == pytest.approx(max(angles), abs=0.01)
        assert float(mean) == pytest.approx(sum(angles) / 2, abs=0.01)
        assert left == "0:00:00" or number < 2
    assert rows[2:] == last_lines(RunDirectory(run)).splitlines()


def test_bar_grows_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("train.run.terminal.REDRAW_S", 0)
    epoch_lines = EpochLines(3, bar=True)
    epoch_lines.set_model(keras.Sequential())
    epoch_lines.set_params({"steps": 4 * 10**12})  # as long as it gets
    logs = {"loss": 2000.0, "accuracy": 0.5}
    epoch_lines.on_train_begin()
    for epoch in range(3):
        epoch_lines.on_epoch_begin(epoch)
        for batch in (1, 3):
            epoch_lines.on_train_batch_end(batch, logs)
        epoch_lines.on_epoch_end(epoch, logs | {"val_loss": 1.0, "weight_angle/a": 90.0})
    shown = capsys.readouterr().out
    drawn = shown.replace("\r", "\n").splitlines()
    assert max(len(line) for line in drawn if "/3 " in line) <= 100
    assert sum("step 2 of 4" in line for line in drawn) == 3
    assert sum("time left" not in line and ":0" in line for line in drawn) == 3
    # What is drawn over is gone from the terminal.
    for line in shown.split("\n"):
        seen = ""
        for text in line.split("\r"):
            seen = text + seen[len(text) :]
        assert seen == text


def finished(path: Path, *accuracies: float) -> RunDirectory:
    path.mkdir()
    lines = [{"epoch": n, "val_accuracy": a} for n, a in enumerate(accuracies, start=1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunDirectory(path)


def test_best_epoch_is_told_apart_from_the_last(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", 0.5, 0.9, 0.8)
    first, model, *following = last_lines(run).splitlines()
    assert first == (
        "test accuracy 0.8000 after epoch 3 (best on test, chosen on the test images: 0.9000 "
        "after 2)"
    )
    assert model.endswith(f"{tmp_path / 'run' / 'model.keras'}")
    assert [" ".join(line.split()[-4:-1]) for line in following[:1]] == ["-m train evaluate"]
