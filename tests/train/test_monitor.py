"""What a run measures of its feedback, and the baseline that it is compared with."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.train.test_fit import SMALL, run
from train.__main__ import main
from train.parsing.command_line import parse
from train.run.directory import RunDirectory
from train.run.fit import fit
from train.run.terminal import last_lines

WATCHED = ["--feedback.rule=fa", "--monitor.delta_angles=true", "--monitor.gradient_angles=true"]
MEASURES = [
    "weight_angle",
    "norm_ratio",
    "predicted_weight_angle",
    "sign_angle",
    "sign_agreement",
    "correlation",
    "kurtosis",
    "magnitude",
    "sparsity",
]
ALL = f"--monitor.measures=[{','.join(MEASURES)}]"


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def keys(line: dict[str, Any], measure: str) -> list[str]:
    return [key for key in line if key.startswith(f"{measure}/")]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("watched") / "run", *WATCHED)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of a run under balanced mirror mode, in batches of 32."""
    folder = tmp_path_factory.mktemp("mirrored") / "run"
    return lines(run(folder, "--feedback.rule=wm", "--training.batch_size=32", ALL))[-1]


def test_backprop_may_share_a_file_that_asks_for_angles(tmp_path: Path) -> None:
    file = tmp_path / "angles.yaml"
    file.write_text("monitor: {delta_angles: true, gradient_angles: true}\n")
    done = run(tmp_path / "run", f"--config={file}", "--feedback.rule=bp")
    assert keys(lines(done)[-1], "gradient_angle") == []


def test_delta_and_gradient_angles_of_a_run(watched: Path, tmp_path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        plain = run(tmp_path / "plain", WATCHED[0])
    # --training.progress=none
    assert printed.getvalue() == last_lines(RunDirectory(plain)) + "\n"
    for line in lines(watched):
        assert line["delta_angle/hidden_1"] > 1
        assert line["delta_angle/head"] == 0
        assert line["gradient_angle/whole_network"] > 1
    for one, other in zip(lines(watched), lines(plain), strict=True):
        assert one["loss"] == other["loss"]  # measuring moved nothing
        assert one["val_loss"] == other["val_loss"]
    assert not keys(lines(plain)[0], "delta_angle")


@pytest.mark.slow
def test_two_replicas_have_delta_angles(watched: Path, tmp_path: Path) -> None:
    two = run(tmp_path / "two", *WATCHED, "--strategy=mirrored", "--replicas=2")
    for line, other in zip(lines(two), lines(watched), strict=True):
        for key in keys(line, "delta_angle"):
            assert line[key] == pytest.approx(other[key], abs=0.05)


@pytest.mark.slow
@pytest.mark.always
def test_every_measure_of_a_rule_and_of_backprop(mirrored: dict[str, Any], tmp_path: Path) -> None:
    for measure in MEASURES:
        assert keys(mirrored, measure) == [f"{measure}/hidden_1", f"{measure}/head"]
    assert mirrored["predicted_weight_angle/hidden_1"] == 0
    backprop = lines(run(tmp_path / "bp", ALL, "--monitor.backprop=true"))
    assert backprop[-1]["weight_angle/hidden_1"] == 0
    assert 20 < backprop[-1]["sign_angle/hidden_1"] < 60
    stock = lines(run(tmp_path / "stock"))
    assert not keys(stock[-1], "kurtosis")
    # Measured or not, backprop is backprop.
    losses = [line["loss"] for line in stock]
    assert losses == pytest.approx([line["loss"] for line in backprop], rel=1e-6)


def test_a_measure_that_does_not_exist_is_the_users_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--feedback.rule=fa", "--monitor.measures=[curtosis]"]
    assert main(["fit", *SMALL, f"--run_directory={tmp_path / 'run'}", *arguments]) == 2
    assert "monitor.measures: measures of FeedbackMonitor is" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_mirror_cost_is_fan_in_over_batch_for_a_sweep_after_every_batch(
    mirrored: dict[str, Any],
) -> None:
    # Digits have 8x8 pixels; balanced noise fires every input cell of a layer once a sweep: after
    # each of 2 x 8 batches of 32, and once before them.
    expected = {"hidden_1": 64 / 32 * 17 / 16, "head": 16 / 32 * 17 / 16}
    for name, samples in expected.items():
        assert mirrored[f"mirror_samples_per_image/{name}"] == pytest.approx(samples)
    assert mirrored["mirror_samples_per_image"] == pytest.approx(sum(expected.values()))


def test_layers_that_fire_at_once_take_the_time_of_one(tmp_path: Path) -> None:
    options = "--mirror.noise=gaussian", "--mirror.options.simultaneous=true"
    line = lines(run(tmp_path / "run", "--feedback.rule=wm", *options))[-1]
    each = {line[f"mirror_samples_per_image/{name}"] for name in ("hidden_1", "head")}
    assert each == {line["mirror_samples_per_image"]}


@pytest.mark.parametrize(("noise", "fired"), [("gaussian", 2), ("orthogonal", 1)])
def test_replicas_fire_independent_noise_each_and_balanced_noise_together(
    two_replicas: tf.distribute.Strategy, noise: str, fired: int
) -> None:
    mirror = tfwm.callbacks.WeightMirror(noise)
    with two_replicas.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        tfwm.convert_model(model, "weight_mirror")
    (pathway,) = tfwm.pathways(model)
    assert mirror.samples_per_step(model) == {"head": fired * mirror.mode.samples(pathway)}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "kolen_pollack"])
def test_the_baseline_trains_the_last_layer_alone(tmp_path: Path, rule: str) -> None:
    seen: list[dict[str, np.ndarray]] = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append({v.path: v.numpy() for v in self.model.weights})

    options = ["--model.name=small_conv", f"--feedback.rule={rule}", "--optimizer.weight_decay=0.1"]
    options += ["--feedback.only_last_layer_learns=true", f"--run_directory={tmp_path / 'run'}"]
    history = fit(parse(["fit", *SMALL, *options])[0], [Keep()]).history
    first, last = seen
    moved = {
        name for name in first if not np.array_equal(first[name], last[name]) and "seed" not in name
    }
    still = set(first) - moved
    assert any("kernel" in name for name in still)
    learnt = {name for name in moved if "moving" not in name}
    assert learnt
    assert all("head" in name for name in learnt), learnt
    # Feedback has its pathways, but for backprop.
    angles = {name: a for name, a in history.items() if name.startswith("weight_angle/")}
    assert bool(angles) == (rule != "backprop")
    for name, (before, after) in angles.items():
        assert (before == after) == ("head" not in name)
