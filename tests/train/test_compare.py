"""The commands `compare` and `angles`."""

import json
from pathlib import Path
from typing import Any

import keras
import pytest
import yaml

import tfweightmirror as tfwm
from tests.train.written_runs import GOOD, RELEASED, lines, tree, write_run
from train.__main__ import main
from train.report.frames import TEST_ERROR


def test_compare_says_what_differs_and_what_came_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", tree("fa") | {"run_directory": "one"}, lines(GOOD))
    measures = {"norm_ratio/a": 2.0, "norm_ratio/b": 4.0, "kurtosis/a": None, "kurtosis/b": 1.0}
    other = write_run(tmp_path / "other", tree("kp"), lines([0.5, 0.8], **measures))
    own_code = {"own_code": {"my_parts": "c3"}}
    starts = [{"date": "yesterday", "commit": "a1"}, {"date": "today", "commit": "b2"} | own_code]
    (other / "setup.json").write_text(
        json.dumps({"replicas": 2, "keras": "3.15.1", "starts": starts})
    )
    assert main(["compare", str(one), str(other)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["configuration:", "1", "differ"] in rows
    assert ["feedback.rule.name", "feedback_alignment", "kolen_pollack"] in rows
    assert ["set-up:", "3", "differ"] in rows
    assert ["own_code", "{'my_parts':", "'c3'}"] in rows
    assert ["replicas", "1", "2"] in rows
    assert ["commit", "b2"] in rows
    assert ["epoch", "3", "2"] in rows
    assert [TEST_ERROR, "30", "20"] in rows
    assert ["mean_over_layers/norm_ratio", "3"] in rows
    assert main(["compare", str(one), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["configuration"] == {"feedback.rule.name": ["feedback_alignment", "kolen_pollack"]}
    assert found["results at the last epoch"]["mean_over_layers/kurtosis"] == [None, None]


@pytest.mark.parametrize("starts", [3, "abc", [], [3]])
def test_compare_does_without_starts_that_nobody_can_read(starts: Any, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / rule, tree(rule), lines(GOOD)) for rule in ("fa", "kp")]
    (runs[1] / "setup.json").write_text(json.dumps({"starts": starts}))
    assert main(["compare", *map(str, runs)]) == 0


def test_compare_reads_old_and_new_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = RELEASED / "mnist_mlp_wm"
    config = yaml.safe_load((old / "config.yaml").read_text())
    config["model"] = {"name": "mlp", "options": config["model"]["mlp"]}
    config["loss"] = {"name": config["training"].pop("loss"), "options": {}}
    config["feedback"]["rule"] = {"name": "wm", "options": {}}
    config["mirror"] = {
        "mode": "akrout2019_code",
        "noise": {"name": None, "options": {}},
        "options": {"activations": {"head": "sigmoid"}},
        "warm_up_steps": 468,
    }
    new = write_run(tmp_path / "new", config, lines(GOOD))
    assert main(["compare", str(old), str(new)]) == 0
    assert "configuration: no difference" in capsys.readouterr().out


def test_compare_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "runs" / "run", tree(), lines([0.5]))
    assert main(["compare", str(run), str(tmp_path / "runs")]) == 2
    assert "is a folder of runs. Expected one run directory." in capsys.readouterr().err
    (run / "config.yaml").write_text("- 1")
    assert main(["compare", str(run), str(run)]) == 2
    assert "config.yaml holds no table of keys and values." in capsys.readouterr().err


def test_angles_are_those_of_the_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            tfwm.layers.FeedbackDense(5, rule="fa", name="hidden"),
            tfwm.layers.FeedbackDense(3, rule="fa", name="head"),
        ]
    )
    model.save(tmp_path / "model.keras")
    assert main(["angles", str(tmp_path / "model.keras")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    angle, ratio = tfwm.weight_angles(model)["head"], tfwm.norm_ratios(model)["head"]
    assert ["head", "feedback_alignment", f"{angle:.4f}", f"{ratio:.4f}", "yes"] in rows
    assert [row[-1] for row in rows if row[0] == "hidden"] == ["no"]
    tfwm.strip_feedback(model)
    model.save(tmp_path / "plain.keras")
    assert main(["angles", str(tmp_path / "plain.keras")]) == 0
    assert "has no feedback layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["report", "--out=x"], "report needs run directories, or folders that hold several."),
        (["report", "run"], "report needs --out FILE.keras, or FOLDER of a report, to write"),
        (["compare", "one"], "compare needs two run directories."),
        (["compare", "a", "b", "c"], "unrecognized arguments: c."),
        (["angles"], "angles needs a run directory or a .keras file."),
        (["report", "run", "--out=x", "--seed=1"], "seed is not a known key."),
    ],
)
def test_mistakes_on_the_line_get_a_sentence(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"error: command line: {expected}" in capsys.readouterr().err
