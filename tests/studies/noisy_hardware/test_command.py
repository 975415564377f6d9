"""`python -m studies.noisy_hardware` measures each point once, and draws."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from studies.noisy_hardware import __main__ as command
from studies.noisy_hardware import angles, network, training
from studies.noisy_hardware.chip import Faults
from studies.noisy_hardware.points import Points
from train.errors import UserError


def test_point_is_measured_once_and_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    file, measured = tmp_path / "new" / "points.jsonl", []

    def measure() -> dict[str, Any]:
        measured.append(1)
        return {"found": len(measured)}

    points = Points(file)
    for _ in range(2):
        assert points.get({"a": 1, "b": 2}, measure)["found"] == 1
    assert points.get({"a": 2, "b": 2}, measure)["found"] == 2
    with file.open("a") as rest:
        rest.write('{"settings": {"a": 3')
    again = Points(file)
    assert again.get({"b": 2, "a": 1}, measure)["found"] == 1
    assert again.get({"a": 3, "b": 2}, measure)["found"] == 3
    assert [json.loads(line)["found"] for line in file.read_text().splitlines()] == [1, 2, 3]


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault and one way to train each."""
    condition = training.Condition(Faults(noise=0.3), "all cells", every_batches=4)
    monkeypatch.setattr(training, "conditions", lambda bases: [condition])
    monkeypatch.setattr(training, "LEARNING_RATES", (0.03,))
    monkeypatch.setattr(training, "MIRRORS", training.MIRRORS[:1])
    monkeypatch.setattr(training, "SIDE_BY_SIDE", ())
    monkeypatch.setattr(angles, "FAULTS", (Faults(noise=0.3),))
    monkeypatch.setattr(angles, "STEPS", (1, 2, 32))


@pytest.mark.slow
def test_layer_whose_angles_are_measured_was_trained_by_backprop() -> None:
    """An untaught B would be feedback alignment, whose weights are others."""
    settings = {"width": 12, "seed": 3}
    layer = angles.trained_layer(data="digits", epochs=2, learning_rate=0.03, **settings)
    data = network.images("digits", validate=False)
    model = network.network(data.shape, "backprop", **settings)
    model.compile(keras.optimizers.SGD(0.03, momentum=0.9), loss())
    examples = tf.data.Dataset.from_tensor_slices(data.train).shuffle(len(data.train[0]), seed=3)
    model.fit(
        examples.batch(network.BATCH, drop_remainder=True).repeat(2), shuffle=False, verbose=0
    )
    np.testing.assert_allclose(layer.kernel, model.get_layer("hidden_3").kernel, atol=1e-5)


def loss() -> keras.losses.Loss:
    """Of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.slow
def test_command_measures_draws_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few(monkeypatch)
    tiny = [f"--out={tmp_path}", f"--pictures={tmp_path}", "--width=16", "--epochs=2"]
    assert command.main([*tiny, "--seeds", "0", "--bases", "all cells"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line["settings"]["images"] for line in lines] == ["validation", "test"] * 3
    assert lines[0]["accuracy"] > 0.3
    assert lines[-1]["firings_per_image"] == pytest.approx((22 * 2 // 4 + 10) * 16 / (22 * 2 * 64))
    (point,) = (json.loads(line) for line in (tmp_path / "angles.jsonl").read_text().splitlines())
    assert point["angle_deg"] == pytest.approx(point["law_deg"], rel=0.3)
    assert len(list(tmp_path.glob("noisy_hardware_*.png"))) == 4
    assert "| noise 0.3 |" in capsys.readouterr().out

    # All is known now: nothing is measured again.
    before = {file: file.read_bytes() for file in tmp_path.glob("*.jsonl")}
    monkeypatch.setattr(network.Bench, "train", None)
    assert command.main([*tiny, "--seeds", "0", "--bases", "all cells"]) == 0
    assert {file: file.read_bytes() for file in tmp_path.glob("*.jsonl")} == before


def test_data_that_are_not_there_are_skipped_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str, *, validate: bool) -> network.Images:
        raise UserError("there is no copy")

    monkeypatch.setattr(network, "images", absent)
    assert command.main([f"--out={tmp_path}", "--data", "mnist"]) == 0
    assert "mnist is skipped: there is no copy" in capsys.readouterr().out


def test_unknown_basis_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--bases", "some cells"])
    assert "some cells. Known: impulse, blocks of 64" in capsys.readouterr().err
