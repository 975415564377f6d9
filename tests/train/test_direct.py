"""Direct feedback alignment in the launcher: it trains, and no weight angle is made up."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.train.test_fit import SMALL, run
from train.__main__ import main

DFA = "--feedback.rule=dfa"


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.always
def test_a_run_measures_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", DFA, "--monitor.delta_angles=true", "--training.progress=none")
    line = lines(folder)[-1]
    assert line["delta_angle/head"] == pytest.approx(0, abs=1e-2)
    assert 0 < line["delta_angle/hidden_1"] < 180
    assert not [name for name in line if "weight_angle" in name or "norm_ratio" in name]
    assert np.isfinite(line["kurtosis/hidden_1"])
    capsys.readouterr()
    assert main(["angles", str(folder)]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert ["head", "direct_feedback_alignment", "none", "none", "yes"] in rows
    out = [f"--out={tmp_path / 'plain.keras'}", f"--feedback={tmp_path / 'chip.npz'}"]
    assert main(["export", str(folder), *out]) == 0
    model = keras.models.load_model(folder / "model.keras")
    with np.load(tmp_path / "chip.npz") as arrays:
        for pathway in tfwm.pathways(model):
            np.testing.assert_array_equal(arrays[f"{pathway.name}/B"], pathway.feedback_kernel)
    assert main(["list", "rules"]) == 0
    assert "  direct_feedback_alignment (dfa)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--feedback.last_layer=backprop"], "feedback.rule: The last layer of model"),
        pytest.param(
            ["--constraints={hidden_1: sparse}"],
            "constraints: Layer 'hidden_1'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_the_rule_cannot_do_is_refused_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["fit", *SMALL, DFA, f"--run_directory={tmp_path / 'run'}", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_it_learns_more_than_a_network_with_frozen_lower_layers(tmp_path: Path) -> None:
    """On the digits, two hidden layers of 16 cells, 10 epochs."""
    options = ["--model.options.units=[16, 16]", "--training.epochs=10"]
    options += ["--data.train_split=train", "--data.test_split=test"]
    frozen = "--feedback.only_last_layer_learns=true"
    runs = [run(tmp_path / "dfa", DFA, *options), run(tmp_path / "frozen", DFA, frozen, *options)]
    dfa, baseline = (lines(folder)[-1] for folder in runs)
    assert dfa["val_accuracy"] > baseline["val_accuracy"] + 0.05
    assert dfa["loss"] < baseline["loss"]
