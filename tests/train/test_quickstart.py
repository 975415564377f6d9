"""The quickstart and its report."""

import json
from pathlib import Path

import pytest

from train import quickstart
from train.report import RuleResult, plot_angles, table, write_json

RESULTS = [
    RuleResult("BP", 0.981, {}, {}, 0.0, 8.04),
    RuleResult("WM", 0.99, {"conv": [50.0, 3.456], "head": [9.0, 1e-5]}, {}, 8.6, 12.0),
]


def test_table_shows_the_last_epoch_with_units() -> None:
    lines = [line.split() for line in table(RESULTS).splitlines()]
    assert lines[0] == ["rule", "test", "accuracy", "conv", "head", "noise", "samples", "time"]
    assert lines[1] == ["%", "degrees", "degrees", "per", "image", "s"]
    assert lines[3] == ["BP", "98.1", "W", "itself", "W", "itself", "0", "8.0"]
    assert lines[4] == ["WM", "99.0", "3.46", "<", "0.01", "9", "12.0"]


def test_picture_and_json_are_written(tmp_path: Path) -> None:
    plot_angles(RESULTS, tmp_path / "angles.png")
    assert (tmp_path / "angles.png").read_bytes().startswith(b"\x89PNG")
    write_json(RESULTS, tmp_path / "results.json")
    written = [RuleResult(**entry) for entry in json.loads((tmp_path / "results.json").read_text())]
    assert written == RESULTS


@pytest.mark.slow
def test_five_rules_reach_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert quickstart.main() == 0
    folder = tmp_path / "runs" / "quickstart-1"
    results = {
        result["label"]: RuleResult(**result)
        for result in json.loads((folder / "results.json").read_text())
    }
    assert list(results) == ["BP", "FA", "KP", "WM, paper's mode", "WM, balanced"]
    for label in ("BP", "KP", "WM, balanced"):
        assert results[label].test_accuracy >= 0.96
    last = {
        label: [angles[-1] for angles in result.angles_deg.values()]
        for label, result in results.items()
    }
    assert list(results["KP"].angles_deg) == ["conv_2", "conv_3", "head"]
    assert max(last["KP"]) < 15
    assert max(last["WM, balanced"]) < 0.01
    assert max(last["WM, paper's mode"]) < 30 < min(last["FA"])
    assert (folder / "weight_angles.png").is_file()
    assert len(list(folder.glob("*/model.keras"))) == 5
    assert f"--logdir {Path('runs') / 'quickstart-1'}" in capsys.readouterr().out
