"""Runs of `python -m train fit` and what they leave behind."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import tfweightmirror as tfwm
from train.__main__ import main
from train.data import datasets
from train.devices.strategy import place
from train.parsing.command_line import parse
from train.run.directory import next_free
from train.run.phases import Phases
from train.run.telemetry import MEASURES

SMALL = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[16]",
    "--training.epochs=2",
    "--training.progress=none",
]


def run(directory: Path, *arguments: str) -> Path:
    assert main(["fit", *SMALL, f"--run_directory={directory}", *arguments]) == 0
    return directory


def measures(directory: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl, without what differs between two runs of equal numbers."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert all(line["seconds"] > 0 and line["images_per_second"] > 0 for line in lines)
    return [
        {name: value for name, value in line.items() if name not in ("seconds", *MEASURES)}
        for line in lines
    ]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under balanced mirror mode."""
    return run(tmp_path_factory.mktemp("fit") / "nested" / "run", "--feedback.rule=wm")


def test_run_directory_holds_the_resolved_config(mirrored: Path) -> None:
    written = yaml.safe_load((mirrored / "config.yaml").read_text())
    assert written["feedback"]["rule"] == {"name": "weight_mirror", "options": {}}
    assert written["training"]["epochs"] == 2
    assert written["optimizer"]["learning_rate"] == 0.05  # a default


def test_metrics_file_has_one_json_line_an_epoch_with_angles(mirrored: Path) -> None:
    lines = measures(mirrored)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(line["weight_angle/head"] < 0.01 for line in lines)
    assert {"loss", "val_loss", "val_accuracy", "weight_angle_before_mirror/head"} <= set(lines[0])


def test_event_files_hold_the_same_angles(mirrored: Path) -> None:
    events = EventAccumulator(str(mirrored / "events"))
    events.Reload()
    written = [
        float(make_ndarray(event.tensor_proto)) for event in events.Tensors("weight_angle/head")
    ]
    expected = [line["weight_angle/head"] for line in measures(mirrored)]
    np.testing.assert_allclose(written, expected, rtol=1e-6)


def test_saved_model_scores_what_the_last_epoch_says(mirrored: Path) -> None:
    config, _ = parse(["fit", *SMALL])
    images = datasets.load(config.data)
    model = keras.models.load_model(mirrored / "model.keras")
    assert images.test.count == 100
    pixels, labels = images.test.arrays
    normalized = images.normalization(pixels)
    scores = np.argmax(model.predict(normalized, verbose=0), axis=-1) == labels
    assert scores.mean() == pytest.approx(measures(mirrored)[-1]["val_accuracy"])


def prepared(directory: Path, *arguments: str) -> tuple[keras.Model, list[Any]]:
    """What would be trained: the model, and the library's callbacks."""
    config, _ = parse(["fit", *SMALL, f"--run_directory={directory}", *arguments])
    phases = Phases(config, place(config), datasets.load(config.data))
    return phases.model, phases.make_ready(0, begins=True)


@pytest.mark.slow
@pytest.mark.always
def test_same_seed_gives_the_same_numbers_and_another_seed_others(
    mirrored: Path, tmp_path: Path
) -> None:
    again = run(tmp_path / "again", "--feedback.rule=wm")
    assert measures(again) == measures(mirrored)
    model, _ = prepared(tmp_path / "other", "--feedback.rule=wm", "--seed=1")
    begin, _ = prepared(tmp_path / "again", "--feedback.rule=wm")
    for name in ("kernel", "feedback_kernel"):
        one, other = (getattr(m.get_layer("head"), name).numpy() for m in (begin, model))
        assert not np.array_equal(one, other)


def test_backprop_alone_leaves_the_stock_keras_model(tmp_path: Path) -> None:
    model, callbacks = prepared(tmp_path / "bp")
    assert type(model.get_layer("head")) is keras.layers.Dense
    assert callbacks == []


def test_rules_by_layer_pattern_and_last_layer(tmp_path: Path) -> None:
    rules = ["--feedback.rule=fa", "--feedback.layers.hidden_1=ss", "--feedback.last_layer=bp"]
    model, _ = prepared(tmp_path / "run", "--model.options.units=[8,8]", *rules)
    named = {pathway.name: pathway.rule.name for pathway in tfwm.pathways(model)}
    assert named == {"hidden_1": "sign_symmetry", "hidden_2": "feedback_alignment"}


@pytest.mark.slow
@pytest.mark.always
def test_first_layer_of_a_run_keeps_no_b(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ["--feedback.rule=fa", "--feedback.first_layer=no_feedback"]
    folder = run(tmp_path / "run", *rules)
    line = measures(folder)[-1]
    assert {n for n in line if n.startswith("weight_angle/")} == {"weight_angle/head"}
    assert "kurtosis/hidden_1" in line
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    histograms = {tag for tag in events.Tags()["tensors"] if tag[:2] in ("W/", "B/")}
    assert histograms == {"W/hidden_1", "W/head", "B/head"}
    out = [f"--out={tmp_path / 'plain.keras'}", f"--feedback={tmp_path / 'chip.npz'}"]
    assert main(["export", str(folder), *out]) == 0
    assert "2 pathways, W of each and B of 1" in capsys.readouterr().out
    with np.load(tmp_path / "chip.npz") as arrays:
        assert set(arrays) == {"hidden_1/W", "head/W", "head/B"}
    assert main(["list", "rules"]) == 0
    assert "  no_feedback: " in capsys.readouterr().out


def test_papers_mirror_mode_takes_its_noise_options(tmp_path: Path) -> None:
    mode = ["--mirror.mode=akrout2019", "--mirror.noise.options.samples=32"]
    model, callbacks = prepared(tmp_path / "run", "--feedback.rule=wm", *mode)
    (mirror,) = [c for c in callbacks if isinstance(c, tfwm.callbacks.WeightMirror)]
    assert set(mirror.samples_per_step(model).values()) == {32}
    assert mirror.mode.through_activation


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.name=mnits"], "data.name=mnits is not known."),
        (["--data.test_split=tets"], "data.test_split is 'tets', which holds nothing."),
        (
            ["--model.name=smal_conv"],
            "model is 'smal_conv', which is not known. Expected one of small_conv, mlp",
        ),
        (["--model.options.activation=rellu"], "model.options.activation=rellu is not known."),
        (["--optimizer.name=sdg"], "Did you mean 'sgd'?"),
        (["--optimizer.options.momentun=0.9"], "Did you mean 'momentum'?"),
        (["--optimizer.options.momentum=7"], "optimizer sgd refuses its options"),
        (["--training.batch_size=500"], "digits has 256 training examples."),
        (["--feedback.rule=wmm"], "feedback.rule is 'wmm', which is not known."),
        (["--feedback.rule=wm", "--feedback.layers.hed=fa"], "'hed' matches no layer"),
        (["--feedback.rule=wm", "--mirror.noise.options.blok=3"], "Did you mean 'block'?"),
        (["--feedback.rule=wm", "--mirror.noise.options.std=-1"], "Received: std=-1"),
        (["--feedback.rule=wm", "--mirror.steps=0"], "must be at least 1"),
        (["--feedback.rule=kp"], "weight decay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_run_gets_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    directory = tmp_path / "run"
    assert main(["fit", *SMALL, f"--run_directory={directory}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1
    assert not directory.exists()


def test_existing_folder_that_is_no_run_is_refused_and_untouched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["fit", *SMALL, f"--run_directory={tmp_path}"]) == 2
    assert f"run_directory={tmp_path} exists and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_run_directory_is_numbered_behind_the_last_one(tmp_path: Path) -> None:
    assert next_free(tmp_path / "runs" / "a") == tmp_path / "runs" / "a-1"
    for name in ("a-1", "a-9", "a-x", "ab-20"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_free(tmp_path / "runs" / "a") == tmp_path / "runs" / "a-10"
