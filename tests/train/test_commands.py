"""The commands beside a plain `fit`: several seeds, evaluate, export, list, sweep; statuses."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

import tfweightmirror as tfwm
from tools.builder_folder import LabelledImages, write_builder_folder
from train.__main__ import main
from train.commands.sweep import Score, cut
from train.data import datasets
from train.errors import UserError
from train.parsing.command_line import parse, read_command
from train.run.directory import RunDirectory

TINY = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[8]",
    "--training.epochs=1",
    "--training.progress=none",
]


def last_line(directory: Path) -> dict[str, float]:
    return RunDirectory(directory).metrics()[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with feedback weights and a loss of our own."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    extra = ["--feedback.rule=fa", "--loss=sigmoid", "--training.test_batch_size=64"]
    assert main(["fit", *TINY, *extra, f"--run_directory={directory}"]) == 0
    return directory


def test_seeds_give_a_run_each_and_finished_ones_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", *TINY, f"--run_directory={tmp_path / 'run'}", "--seeds", "0,1"]
    assert main(command) == 0
    runs = [tmp_path / "run" / f"seed_{seed}" for seed in (0, 1)]
    assert last_line(runs[0])["loss"] != last_line(runs[1])["loss"]
    (runs[1] / "model.keras").unlink()  # as if killed before the end
    kept = (runs[0] / "model.keras").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 0
    said = f"seed 0 has finished in {runs[0]}: val_accuracy 0.\\d{{4}}: nothing to do\n"
    assert re.fullmatch(said, capsys.readouterr().out)
    assert (runs[1] / "model.keras").is_file()
    assert (runs[0] / "model.keras").stat().st_mtime_ns == kept


def test_seed_of_several_has_the_numbers_of_its_own_run(tmp_path: Path) -> None:
    assert main(["fit", *TINY, "--seeds=3,4", f"--run_directory={tmp_path / 'both'}"]) == 0
    assert main(["fit", *TINY, "--seed=4", f"--run_directory={tmp_path / 'alone'}"]) == 0
    one, other = last_line(tmp_path / "both" / "seed_4"), last_line(tmp_path / "alone")
    assert {k: one[k] for k in ("loss", "val_loss")} == {k: other[k] for k in ("loss", "val_loss")}


def test_unnamed_seeds_are_numbered_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *TINY, "--seeds=0,1"]) == 0
    assert main(["fit", *TINY, "--seeds=0,1,2"]) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == [f"digits-mlp-backprop-{number}" for number in (1, 2, 3)]
    assert capsys.readouterr().out.count(": nothing to do") == 2


def test_evaluate_says_of_a_run_what_its_last_epoch_said(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained)]) == 0
    shown = capsys.readouterr().out
    line = last_line(trained)
    assert "digits, test[:100]: 100 images" in shown  # 100 in batches of 64: padding is not counted
    assert f"{'loss':<15} {line['val_loss']:.4f}\n" in shown
    assert f"{'accuracy':<15} {line['val_accuracy']:.4f}\n" in shown


def test_evaluate_takes_a_file_with_a_config_and_other_data(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--config={trained / 'config.yaml'}", "--data.test_split=test[100:]"]
    assert main(["evaluate", str(trained / "model.keras"), *arguments]) == 0
    assert "test[100:]: 260 images" in capsys.readouterr().out


def test_top_5_accuracy_is_told_for_many_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    images = LabelledImages(
        random.integers(0, 256, (60, 4, 4, 1), np.uint8), np.arange(60, dtype=np.int64) % 30
    )
    folder = write_builder_folder(
        "many",
        "1.0.0",
        splits={"train": images, "test": images},
        class_names=[f"class_{number}" for number in range(30)],
        data_dir=tmp_path,
        description="Noise.",
        homepage="https://example.org",
        citation="",
    )
    data = [f"--data.name={folder}", "--training.batch_size=20"]
    splits = ["--data.train_split=train", "--data.test_split=test"]
    assert main(["fit", *TINY, *data, *splits, f"--run_directory={tmp_path / 'run'}"]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    line = last_line(tmp_path / "run")
    assert f"top 5 accuracy  {line['val_top_5_accuracy']:.4f}" in capsys.readouterr().out


def test_exported_model_loads_without_the_library_and_predicts_the_same(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "plain.keras"
    assert main(["export", str(trained), "--out", str(out)]) == 0
    images = datasets.load(parse(["fit", *TINY])[0].data).test.images[:5].astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys; sys.modules.update({'tfweightmirror': None, 'train': None})\n"
        "import keras, numpy as np\n"
        f"model = keras.models.load_model({str(out)!r})\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, "
        f"model.predict(np.load({str(tmp_path / 'images.npy')!r}), verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    model = keras.models.load_model(trained / "model.keras")
    assert tfwm.pathways(model)  # the run's own file is as it was
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.predict(images, verbose=0))
    assert [path.name for path in out.parent.iterdir()] == ["plain.keras"]


def test_list_names_what_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "  resnet18\n",
        "  digits: embedded\n",
        "  sign_symmetry (ss, usf, frsf, brsf)\n",
        "  rademacher\n",
        "  mnist:3.0.1\n" if "mnist:3.0.1" in shown else "  mnist\n",
        "adamw",
        "  configs/quickstart.yaml: A small convolutional network learns",
    ):
        assert line in shown


def sweep_command(folder: Path, *arguments: str) -> list[str]:
    grid = ["--grid=optimizer.learning_rate=0.05,1e30", "--grid", "model.options.units=[8,8]"]
    return ["sweep", *TINY, *grid, "--seeds=0,1", f"--run_directory={folder}", *arguments]


def test_sweep_chooses_on_training_images_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    assert main(sweep_command(folder)) == 0
    shown = capsys.readouterr().out
    result = json.loads((folder / "sweep.json").read_text())
    by_values = {tuple(cell["values"].values()): cell for cell in result["cells"]}
    assert by_values["1e30", "[8,8]"]["mean"] is None
    cell = by_values["0.05", "[8,8]"]
    runs = [
        folder / "optimizer.learning_rate=0.05,model.options.units=[8,8]" / f"seed_{s}"
        for s in (0, 1)
    ]
    accuracies = [last_line(run)["val_accuracy"] for run in runs]
    assert cell["mean"] == pytest.approx(np.mean(accuracies))
    assert cell["standard_error"] == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(2))
    data = yaml.safe_load((runs[0] / "config.yaml").read_text())["data"]
    assert (data["train_split"], data["test_split"]) == ("train[:230]", "train[230:256]")
    best = max((c for c in result["cells"] if c["mean"] is not None), key=lambda c: c["mean"])
    assert result["chosen"] == best["values"]
    assert "diverged" in shown
    assert "<- chosen" in shown
    assert result["command"] in shown
    config, _ = parse(shlex.split(result["command"])[3:])
    assert config.data.train_split == "train[:256]"
    assert config.data.test_split == "test[:100]"
    # Again: nothing is trained, the table is the same.
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("model.keras")}
    assert main(sweep_command(folder)) == 0
    again = capsys.readouterr().out
    assert again.count("finished before") == 2
    assert again.count("diverged before") == 2
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("model.keras")}
    assert json.loads((folder / "sweep.json").read_text()) == result


@pytest.mark.parametrize(
    ("split", "share", "expected"),
    [
        ("train", 0.1, ("train[:90%]", "train[90%:]")),
        ("train[:256]", 0.25, ("train[:192]", "train[192:256]")),
        ("train[10%:50%]", 0.1, ("train[10%:46%]", "train[46%:50%]")),
    ],
)
def test_training_split_is_cut_at_its_end(
    split: str, share: float, expected: tuple[str, str]
) -> None:
    assert cut(split, share) == expected


@pytest.mark.parametrize("split", ["train[100:]", "train[-100:]", "train+test", "train[:10%:]"])
def test_split_of_unknown_length_is_not_cut(split: str) -> None:
    with pytest.raises(UserError, match=r"cannot cut\. Expected the name of a whole split"):
        cut(split, 0.1)


def test_score_of_one_seed_has_no_standard_error_and_of_a_diverged_one_no_mean() -> None:
    assert str(Score.of([0.5])) == "50.00"
    assert str(Score.of([0.5, 0.7])) == "60.00 +- 10.00"
    assert str(Score.of([0.5, None])) == "diverged"


def test_debug_shows_the_traceback_of_a_mistake_anywhere_on_the_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["--debug", "fit", "--sed=1"], ["fit", "--sed=1", "--debug"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("Traceback")
        assert error.splitlines()[-1].startswith("error: command line: sed is not a known key.")


def test_unexpected_exception_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("train.commands.seeds.fit_seeds", fail)
    with pytest.raises(ZeroDivisionError):
        main(["fit", *TINY])


@pytest.mark.parametrize("command", ["", "fit", "evaluate", "export", "list", "sweep"])
def test_help_of_every_command_has_its_example_and_the_statuses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "  143  ended by SIGTERM" in shown
    assert "--debug" in shown
    assert f"python -m train {command}" in shown


def test_key_of_the_line_and_of_a_file_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("{training: {epochs: 0}, optimizer: {options: {momentum: 0.5}}}")
    with pytest.raises(UserError, match=rf"^{file}: training\.epochs has the value 0"):
        read_command(["fit", f"--config={file}"])
    with pytest.raises(UserError, match=r"^command line: training\.epochs has the value -1"):
        read_command(["fit", f"--config={file}", "--training.epochs=-1"])
