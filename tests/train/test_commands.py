"""The commands beside a plain `fit`: evaluate, export, list; statuses."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tools.builder_folder import LabelledImages, write_builder_folder
from train.__main__ import main
from train.commands.listing import first_sentence
from train.commands.trained import normalization_of
from train.config import FitConfig
from train.data import datasets
from train.data.source import Target
from train.errors import UserError
from train.parsing.command_line import parse, read_command
from train.parts import models
from train.parts.initial_weights import take_weights
from train.run.directory import RunDirectory
from train.run.phases import build_measures

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


@pytest.mark.slow
def test_finished_run_is_a_success_on_every_worker(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("strategy: auto", "strategy: multi_worker"))
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    command = ["fit", f"--config={config}", f"--run_directory={run}"]
    for index in (0, 1):
        # Nobody is there to meet: whoever is started again alone must not wait for the others.
        workers = ["--cluster.workers=['a:1','b:2']", f"--cluster.index={index}"]
        assert main([*command, *workers]) == 0
        said = f"this run has finished in {run}: test accuracy 0\\.\\d{{4}}: nothing to do\n"
        assert re.fullmatch(said, capsys.readouterr().out)
    assert main([*command, *workers, "--seed=7"]) == 2
    assert "holds a run of another configuration: seed is 0 there and 7" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_ctrl_c_outside_of_a_training_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.parsing.command_line.read_command", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "ended by Ctrl-C\n"


def test_evaluate_says_of_a_run_what_its_last_epoch_said(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained)]) == 0
    shown = capsys.readouterr().out
    line = last_line(trained)
    assert (
        "digits, test[:100]: 100 examples" in shown
    )  # 100 in batches of 64: padding is not counted
    assert f"{'loss':<15} {line['val_loss']:.4f}\n" in shown
    assert f"{'accuracy':<15} {line['val_accuracy']:.4f}\n" in shown


def test_unfinished_run_is_seen_at_its_last_checkpoint(
    trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "model.keras").unlink()
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr()
    assert f"accuracy        {last_line(run)['val_accuracy']:.4f}\n" in shown.out
    assert f"{run} has not finished: this is 00000002-step-4, after 1 of 1 epochs\n" in shown.err
    assert main(["export", str(run), f"--out={tmp_path / 'plain.keras'}"]) == 0
    one, other = (
        keras.models.load_model(folder / "plain.keras").get_weights()
        for folder in (tmp_path, exported)
    )
    for mine, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, expected)
    angles = []
    for path in (run, trained):
        capsys.readouterr()
        assert main(["angles", str(path), "--json"]) == 0
        angles.append(capsys.readouterr().out)
    assert angles[0] == angles[1]


def test_file_is_evaluated_with_a_config_and_its_runs_own_numbers_whatever_the_data(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--config={trained / 'config.yaml'}", "--data.train_split=train[:64]"]
    assert main(["evaluate", str(trained / "model.keras"), *arguments]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy        {last_line(trained)['val_accuracy']:.4f}" in shown
    assert "normalised by the numbers of the run's own training set" in shown


@pytest.mark.parametrize(
    ("classes", "expected"), [(20, ["accuracy"]), (21, ["accuracy", "top_5_accuracy"])]
)
def test_top_5_accuracy_is_measured_of_more_than_20_classes(
    classes: int, expected: list[str]
) -> None:
    measures = build_measures(FitConfig(), Target("classes", num_classes=classes))
    assert [getattr(measure, "name", measure) for measure in measures] == expected


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "new"
    files = ["--out", str(folder / "plain.keras"), "--feedback", str(folder / "chip.npz")]
    assert main(["export", str(trained), *files]) == 0
    return folder


def test_exported_model_has_the_runs_accuracy_on_raw_pixels(trained: Path, exported: Path) -> None:
    pixels, labels = datasets.load(parse(["fit", *TINY])[0].data).test.arrays
    plain, own = (
        keras.models.load_model(file)
        for file in (exported / "plain.keras", trained / "model.keras")
    )
    accuracy, raw = (
        (model.predict(pixels, verbose=0).argmax(-1) == labels).mean() for model in (plain, own)
    )
    assert accuracy == pytest.approx(last_line(trained)["val_accuracy"])
    assert raw != pytest.approx(accuracy)  # so it is the layer in front that matters
    assert tfwm.pathways(own)  # the run's own file is as it was
    assert {path.name for path in exported.iterdir()} == {"plain.keras", "chip.npz"}


def test_exported_model_is_made_of_keras_alone(exported: Path) -> None:
    config = zipfile.ZipFile(exported / "plain.keras").read("config.json").decode()
    modules = re.findall(r'"module": "([^"]*)"', config)
    assert {name.partition(".")[0] for name in modules} <= {"keras", "builtins"}
    assert "keras.layers" in modules
    assert "eedback" not in config


@pytest.mark.slow
def test_exported_model_is_loaded_where_the_library_is_not(exported: Path) -> None:
    code = (
        "import sys; sys.modules.update({'tfweightmirror': None, 'train': None})\n"
        f"import keras; keras.models.load_model({str(exported / 'plain.keras')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=exported, check=True, capture_output=True)


def test_exported_feedback_is_that_of_every_pathway(trained: Path, exported: Path) -> None:
    arrays = np.load(exported / "chip.npz")
    pathways = tfwm.pathways(keras.models.load_model(trained / "model.keras"))
    assert set(arrays) == {f"{p.name}/{which}" for p in pathways for which in "WB"}
    for pathway in pathways:
        np.testing.assert_array_equal(arrays[f"{pathway.name}/W"], pathway.kernel)
        np.testing.assert_array_equal(arrays[f"{pathway.name}/B"], pathway.feedback_kernel)


def test_exported_model_is_evaluated_on_inputs_as_they_are(
    trained: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = f"--config={trained / 'config.yaml'}"
    assert main(["evaluate", str(exported / "plain.keras"), config]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy        {last_line(trained)['val_accuracy']:.4f}" in shown
    assert "normalises its inputs itself, so data.normalization is not used" in shown


def test_numbers_of_a_run_that_did_not_write_them_are_measured_again(
    trained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    written = normalization_of(run / "model.keras")
    (run / "setup.json").write_text("{}")
    assert normalization_of(run / "model.keras") == written
    (run / "config.yaml").unlink()
    assert normalization_of(run / "model.keras") is None


def test_run_starts_from_an_exported_model(exported: Path) -> None:
    model = models.build(parse(["fit", *TINY])[0].model, (8, 8, 1), (10,))
    take_weights(model, exported / "plain.keras")
    expected = np.load(exported / "chip.npz")["head/W"]
    np.testing.assert_array_equal(model.get_layer("head").kernel, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Logs of Akrout et al. 2019, fig. 4.", "Logs of Akrout et al. 2019, fig. 4"),
        ("Eq. 7 of it, e.g. SGD's. `a` is next.", "Eq. 7 of it, e.g. SGD's"),
        ("One\n    line: 0.1, or 1.5.\n    Another.", "One line: 0.1, or 1.5"),
        ("No stop at all", "No stop at all"),
    ],
)
def test_first_sentence_is_whole(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


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

    monkeypatch.setattr("train.commands.runs.fit_seeds", fail)
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
