"""Angles that have no effect, since their layers send no error back: told apart everywhere."""

import json
from pathlib import Path

import keras
import pytest

import tfweightmirror as tfwm
from tests.train.written_runs import GOOD, lines, tree, write_run
from train.config import FitConfig
from train.report import tables
from train.report.figures import draw_layers
from train.report.frames import gather
from train.report.published import beside
from train.run.directory import RunDirectory
from train.run.files import RunFiles
from train.run.terminal import EpochLines


def two_inputs() -> keras.Model:
    inputs = [keras.Input((4,)), keras.Input((5,))]
    read = [keras.layers.Dense(3, name=f"reads_{n}")(x) for n, x in zip("ab", inputs, strict=True)]
    hidden = keras.layers.Dense(3, name="hidden")(keras.layers.Add()(read))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    tfwm.convert_model(model, "fa")
    return model


def test_terminal_leaves_out_layers_that_send_no_error_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, epoch_lines = two_inputs(), EpochLines(2, bar=False)
    epoch_lines.set_model(model)
    angles = {"reads_a": 91.0, "reads_b": 10.0, "hidden": 80.0, "head": 40.0}
    for epoch in range(2):
        epoch_lines.on_train_begin()
        epoch_lines.on_epoch_begin(epoch)
        epoch_lines.on_epoch_end(epoch, {f"weight_angle/{name}": a for name, a in angles.items()})
        for name in ("reads_a", "reads_b", "hidden"):  # now the head alone learns
            model.get_layer(name).trainable = False
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "/2 " in line]
    assert [row[1:3] for row in rows] == [["80.00", "60.00"], ["-", "-"]]


def test_setup_names_layers_that_send_no_error_back(tmp_path: Path) -> None:
    files = RunFiles(RunDirectory(tmp_path), FitConfig(), {})
    files.set_model(two_inputs())
    files.on_train_begin()
    setup = json.loads((tmp_path / "setup.json").read_text())
    assert setup["sends_no_error_back"] == ["reads_a", "reads_b"]


def test_report_marks_them_and_has_them_in_no_mean(tmp_path: Path) -> None:
    angles = {"weight_angle/a": 90.0, "weight_angle/b": 80.0, "weight_angle/c": 60.0}
    values = lines(GOOD, **angles, **{"delta_angle/a": 10.0, "delta_angle/b": 20.0})
    for rule, silent in (("fa", ["a"]), ("kp", ["a", "b", "c"]), ("urfb", None)):
        run = write_run(tmp_path / "runs" / rule, tree(rule), values)
        setup = {} if silent is None else {"sends_no_error_back": silent}
        (run / "setup.json").write_text(json.dumps(setup))
    groups, _ = gather([str(tmp_path / "runs")])
    assert tables.layers(groups, "weight_angle").to_numpy().tolist() == [
        ["a", "90.00 (no effect)", "90.00 (no effect)", "90.00"],
        ["b", "80.00", "80.00 (no effect)", "80.00"],
        ["c", "60.00", "60.00 (no effect)", "60.00"],
        ["mean over layers", "70.00", "-", "76.67"],
    ]
    # The error that arrives at a layer moves its weights, whether or not it is sent on.
    assert tables.layers(groups, "delta_angle").to_numpy().tolist()[2][1:] == ["15.00"] * 3
    assert draw_layers(groups, "weight_angle", beside(groups, []), tmp_path / "weight_angle")


def test_one_seed_tells_of_the_older_ones(tmp_path: Path) -> None:
    values = lines(GOOD, **{"weight_angle/a": 90.0, "weight_angle/b": 80.0})
    for seed, setup in enumerate(({}, {"sends_no_error_back": ["a"]})):
        run = write_run(tmp_path / f"fa-{seed}", {**tree("fa"), "seed": seed}, values)
        (run / "setup.json").write_text(json.dumps(setup))
    (group,), _ = gather([str(tmp_path)])
    assert len(group.runs) == 2
    assert tables.layers([group], "weight_angle").to_numpy().tolist() == [
        ["a", "90.00 (0.00) (no effect)"],
        ["b", "80.00 (0.00)"],
        ["mean over layers", "80.00 (0.00)"],
    ]
