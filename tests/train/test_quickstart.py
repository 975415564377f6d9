"""The quickstart and its table."""

import json
from pathlib import Path

import pandas as pd
import pytest

from train import quickstart
from train.report.frames import TEST_ERROR, Group, Run


def group(number: int, **last: float) -> Group:
    angles = {"weight_angle/" + name: value for name, value in last.items()}
    line = {"seconds": 8.04, TEST_ERROR: 1.9, "mirror_samples_per_image": 8.6} | angles
    epochs = pd.DataFrame([line], index=pd.Index([1], name="epoch"))
    return Group(str(number), (Run(Path(), {}, {}, epochs, True),))


def test_table_shows_the_last_epoch_in_80_columns() -> None:
    plain = [group(number) for number in range(4)]
    text = quickstart.table([*plain, group(4, conv_1=1.0, conv_2=50.0, conv_3=3.456, head=1e-5)])
    lines = [line.split() for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 80
    assert lines[0] == ["test,", "conv_2,", "conv_3,", "head,", "samples", "time,"]
    assert lines[1] == ["%", *["angle,"] * 3, "per", "seconds"]
    assert lines[2] == [*["degrees"] * 3, "image"]
    assert lines[4] == ["BP", "98.1", *["W", "itself"] * 3, "9", "8"]
    assert lines[8] == ["WM,", "balanced", "98.1", "50.00", "3.46", "<", "0.01", "9", "8"]


@pytest.mark.slow
def test_five_rules_reach_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert quickstart.main() == 0
    folder = tmp_path / "runs" / "quickstart-1"
    rows = json.loads((folder / "report" / "report.json").read_text())["results"]
    assert [row["group"] for row in rows] == [
        "backprop",
        "feedback alignment",
        "Kolen-Pollack",
        "weight mirror (akrout2019)",
        "weight mirror (orthogonal)",
    ]
    bp, fa, kp, paper, balanced = rows
    for row in (bp, kp, balanced):
        assert row[TEST_ERROR] <= 4
    last = [
        [row[f"weight_angle/{name}"] for name in ("conv_2", "conv_3", "head")]
        for row in (fa, kp, paper, balanced)
    ]
    assert max(last[1]) < 15
    assert max(last[3]) < 0.01
    assert max(last[2]) < 30 < min(last[0])
    assert (folder / "report" / "weight_angle.png").is_file()
    assert len(list(folder.glob("*/model.keras"))) == 5
    shown = capsys.readouterr().out
    assert f"--logdir {Path('runs') / 'quickstart-1'}" in shown
    # The path of TensorBoard is as long as it is.
    assert max(len(line) for line in shown.splitlines() if "--logdir" not in line) <= 80
