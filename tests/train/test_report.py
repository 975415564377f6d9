"""The command `report`: what is read, and what is written."""

import contextlib
import dataclasses
import io
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.train.written_runs import GOOD, lines, tree, write_run, write_xiao
from train.__main__ import main
from train.config import FitConfig
from train.disk import to_json
from train.report.frames import TEST_ERROR, TRAIN_ERROR, gather
from train.report.published import beside
from train.report.write import BALANCED, results
from train.run.directory import RunDirectory
from train.run.files import RunFiles

METRICS, CONFIG = "metrics.jsonl", "config.yaml"
FIRST, SECOND, THIRD = lines(GOOD).splitlines()
NO_EPOCH = "metrics.jsonl has at line 1 no table with epoch 1 and a loss"
NO_NUMBER = "metrics.jsonl holds a value that is no number: could not convert string to float: 'x'"
NEAR = "a known key. Did you mean 'seed'? See docs/guides/troubleshooting.md#an-unknown-key"
# What stands in a file of a run instead, and why the run is left out.
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "unfinished": (METRICS, lines(GOOD[:2]), "unfinished: 2 of 3 epochs"),
    "half": (METRICS, f"{FIRST}\n{SECOND}\n{THIRD[:20]}", "unfinished: 2 of 3 epochs"),
    "empty": (METRICS, "", "unfinished: metrics.jsonl has no epoch"),
    "nan": (METRICS, lines(GOOD, loss=[1, math.nan, 1]), "loss is nan at epoch 2"),
    "null": (METRICS, lines(GOOD, loss=[1, 1, None]), "loss is nan at epoch 3"),
    "torn": (METRICS, f"{FIRST}\n{SECOND[:20]}\n{THIRD}", "metrics.jsonl is damaged at line 2"),
    "gap": (METRICS, f"{FIRST}\n{THIRD}", NO_EPOCH.replace("1", "2")),
    "no_loss": (METRICS, '{"epoch": 1}', NO_EPOCH),
    "no_epoch": (METRICS, '{"loss": 1}', NO_EPOCH),
    "no_table": (METRICS, "[1, 2]", NO_EPOCH),
    "word": (METRICS, lines(GOOD, accuracy="x"), NO_NUMBER),
    "latin": (METRICS, b'{"\xe4": 1}\n', "metrics.jsonl is not a text in UTF-8"),
    "too_many": (CONFIG, yaml.dump(tree(epochs=2)), "3 epochs, but 2 were planned"),
    "twin": (
        CONFIG,
        yaml.dump(tree("backprop")),
        "configuration and seed are those of {runs}/a_good, which is in the report",
    ),
    "yaml": (CONFIG, "a: [", "config.yaml is not YAML"),
    "list": (CONFIG, "- 1", "config.yaml holds no table of keys and values"),
    "key": (CONFIG, "sed: 1", f"config.yaml: sed is not {NEAR}"),
    "utf_16": (CONFIG, "seed: 1".encode("utf-16"), "config.yaml is not a text in UTF-8"),
    "no_config": (CONFIG, b"", "config.yaml cannot be read: No such file or directory"),
    "setup": ("setup.json", "{", "setup.json is not JSON"),
}


def write_broken(runs: Path) -> None:
    write_run(runs / "a_good", tree("bp"), lines(GOOD))
    for seed, (name, (file, content, _)) in enumerate(BROKEN.items(), 1):
        path = write_run(runs / name, tree(seed=seed), lines(GOOD)) / file
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if not content and file == CONFIG:
            path.unlink()


def write_digits(runs: Path) -> None:
    """Three seeds, under two names of the rule and one of them in the old form; a rule with angles
    that have no value; a run of one epoch; ten layers.
    """
    for seed, (rule, last) in enumerate((("fa", 0.90), ("feedback_alignment", 0.92), ("fa", 0.97))):
        config = tree(rule, seed=seed)
        if seed == 2:
            config["feedback"] = {"rule": rule}
            config["model"] = {"name": "small_conv", "small_conv": {}, "mlp": {"units": [9]}}
            config["training"]["loss"] = "softmax"
        angles = {"weight_angle/conv": 10.0 + seed, "weight_angle/head": 1.0}
        angles["norm_ratio/head"] = None if seed == 1 else 1.0
        write_run(runs / "seeds" / f"seed_{seed}", config, lines([0.5, 0.99, last], **angles))
    values = {"weight_angle/a": [None, 3.0, 5.0], "weight_angle/b": [1.0, math.nan, None]}
    write_run(runs / "urfb", tree("urfb"), lines(GOOD, **values, **{"norm_ratio/a": math.inf}))
    write_run(runs / "kp <b>|" / "run", tree("kp", epochs=1), lines([0.5], **values))
    kurtosis = {f"kurtosis/layer_{number}": 4.0 + number for number in range(10)}
    write_run(runs / "wm", tree("wm"), lines(GOOD, mirror_samples_per_image=4.0, **kurtosis))


@dataclasses.dataclass
class Report:
    folder: Path
    terminal: str
    page: str  # with single spaces

    @property
    def content(self) -> Any:
        text = (self.folder / "report.json").read_text()
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))

    def row(self, group: str) -> dict[str, Any]:
        (row,) = (row for row in self.content["results"] if row["group"] == group)
        return dict(row)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One report for many tests: drawing takes seconds."""
    folder = tmp_path_factory.mktemp("reports")
    runs, out = folder / "runs", folder / "out"
    write_broken(runs)
    write_digits(runs)
    write_xiao(runs)
    (runs / "link").symlink_to(runs, target_is_directory=True)  # leads back to itself
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["report", str(runs), "--out", str(out)]) == 0
    return Report(out, printed.getvalue(), re.sub(" +", " ", (out / "report.md").read_text()))


def test_seeds_are_one_row_with_mean_and_standard_error(report: Report) -> None:
    group = "digits, small_conv, feedback alignment"
    row = report.row(group)
    assert (row["runs"], row["seeds"], row["epoch"]) == (3, "0 1 2", 3)
    # The last epoch, not the best one: mean of 10, 8 and 3; deviations 3, 1 and -4.
    assert row[TEST_ERROR] == pytest.approx(7.0)
    assert row[f"{TEST_ERROR} (s.e.)"] == pytest.approx((26 / 2 / 3) ** 0.5)
    assert row["weight_angle/conv"] == pytest.approx(11.0)
    assert row["mean_over_layers/weight_angle"] == pytest.approx(6.0)
    assert row["norm_ratio/head"] is None  # one of the runs has no value
    assert report.row("digits, small_conv, backprop")[f"{TEST_ERROR} (s.e.)"] is None
    assert f"| {group} | 3 | 3 | 7.00 (2.08) |" in report.page
    curves = pd.read_csv(report.folder / "curves.csv").set_index(["group", "epoch"])
    assert curves.at[(group, 2), TEST_ERROR] == 1.0


def test_what_cannot_be_used_is_named_and_left_out(report: Report) -> None:
    runs = report.folder.parent / "runs"
    reasons = {f"{runs / name}": why.format(runs=runs) for name, (_, _, why) in BROKEN.items()}
    assert {row["run"]: row["why"] for row in report.content["left_out"]} == reasons
    assert f"runs found: {len(reasons) + 10}, in the report: 10" in report.terminal
    for path, reason in reasons.items():
        assert f"left out: {path}: {reason}" in report.terminal
        assert f"| {path} | {reason} |" in report.page


def test_a_measure_without_a_value_leaves_the_run_in(report: Report) -> None:
    kp, urfb = "digits, small_conv, Kolen-Pollack", "digits, small_conv, updated random feedback"
    row = report.row(urfb)
    assert (row["weight_angle/a"], row["weight_angle/b"], row["norm_ratio/a"]) == (5.0, None, None)
    assert row["mean_over_layers/weight_angle"] is None
    table = report.page.partition("Weight angle at the last epoch:")[2]
    assert re.search(rf"\| layer \| {kp} \|.* \| {urfb} \|", table)
    assert re.search(r"\n\| a \| NaN \|.* 5.00 \|", table)


def test_the_metrics_file_has_null_where_a_measure_has_no_value(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    logs = {"loss": 1.0, "weight_angle/a": math.nan, "norm_ratio/a": math.inf}
    RunFiles(directory, FitConfig(), {}).on_epoch_end(0, logs)
    text = directory.metrics_file.read_text()
    assert '"weight_angle/a": null, "norm_ratio/a": null' in text
    assert math.isnan(directory.metrics()[0]["weight_angle/a"])
    directory.keep_epochs(1)
    assert directory.metrics_file.read_text() == text
    assert to_json({"a": [math.inf, (math.nan, 1.5)]}) == '{"a": [null, [null, 1.5]]}'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["nowhere"],
            "nowhere does not exist. Expected a run directory, which has a config.yaml, or",
        ),
        (["empty"], "empty holds no run. Expected a run directory, which has a config.yaml, or a"),
        (["unfinished"], "No run is left to report on: unfinished: unfinished: 1 of 3 epochs."),
        (["unfinished", "--out=empty/.."], "Nothing is overwritten: remove it, or give another."),
        (["unfinished", "--out=unfinished/setup.json"], "Nothing is overwritten: remove it, or"),
    ],
)
def test_without_a_run_or_a_free_folder_there_is_one_sentence(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_run(Path("unfinished"), tree(), lines([0.5]))
    before = sorted(Path().rglob("*"))
    assert main(["report", *arguments, *["--out=out"] * (len(arguments) == 1)]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_a_run_that_a_callback_ended_has_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tree(), lines(GOOD[:2]))
    (run / "model.keras").write_bytes(b"")
    (group,), left_out = gather([str(tmp_path)])
    assert (group.epochs, left_out) == (2, {})


def test_before_the_first_step_is_epoch_0_and_a_whole_pass_is_the_training_error(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", tree(), lines(GOOD, accuracy=0.8, train_accuracy=0.9))
    steps = '{"step": 0, "epoch": 0, "val_accuracy": 0.1}\n{"step": 3, "epoch": 1}\n'
    (run / "steps.jsonl").write_text(steps)
    (group,), _ = gather([str(tmp_path)])
    assert list(group.mean[TEST_ERROR]) == pytest.approx([90, 50, 40, 30])
    assert list(group.mean[TRAIN_ERROR])[1:] == pytest.approx([10, 10, 10])
    (run / "steps.jsonl").write_text("[1]")
    assert gather([str(tmp_path)]) == ([], {run: "steps.jsonl is damaged at line 1"})


def test_zero_by_construction_is_said_of_balanced_noise_alone(tmp_path: Path) -> None:
    for noise in ("gaussian", "impulse"):
        mirror = {"noise": {"name": noise, "options": {}}}
        write_run(tmp_path / noise, tree("wm") | {"mirror": mirror}, lines(GOOD))
    write_run(tmp_path / "bp", tree("bp"), lines(GOOD))
    groups, _ = gather([str(tmp_path)])
    of = {group.label: BALANCED in results([group], beside([group], [])) for group in groups}
    balanced = {"weight mirror (gaussian)": False, "weight mirror (impulse)": True}
    assert of == {"backprop": False} | balanced
    assert BALANCED not in results(groups[:2], beside(groups[:2], []))


def test_html_needs_no_other_file_and_its_text_is_escaped(report: Report) -> None:
    html = (report.folder / "report.html").read_text()
    sources = re.findall(r'src="([^"]{22})', html)
    assert sources == ["data:image/png;base64,"] * 5
    assert "href=" not in html
    assert "<b>" not in html
    assert "kp &lt;b&gt;|" in html
    assert "kp &lt;b>\\|" in report.page


def test_pictures_are_drawn_of_what_the_logs_have(report: Report) -> None:
    out, page = report.folder, report.page
    names = {path.stem for path in out.glob("*.png")}
    assert names == {path.stem for path in out.glob("*.svg")}
    assert names == {"learning_curves", "weight_angle", "sign_angle", "norm_ratio", "kurtosis"}
    for name in names:
        width, height = struct.unpack(">II", (out / f"{name}.png").read_bytes()[16:24])
        assert min(width, height) > 200
        assert f"]({name}.png)" in page
    mirror = "digits, small_conv, weight mirror (orthogonal)"
    table = page.partition("Kurtosis at the last epoch:")[2].partition("#")[0].split("\n")
    assert table[2] == f"| layer | {mirror} |"
    assert table[4::9] == ["| layer_0 | 4.00 |", "| layer_9 | 13.00 |"]
    assert "| mean over layers | 8.50 |" in table
    assert re.search(rf"\| {re.escape(mirror)} \| 1 \| 3 \| 30.00 .*\| 4.00 \|\n", page)
    assert "the weight angle is 0 by construction" in page


def test_report_and_compare_do_without_tensorflow(tmp_path: Path) -> None:
    values = '{"epoch": 1, "loss": 2.0, "val_loss": 1.5}\n'  # of a run without classes
    run = str(write_run(tmp_path / "run", tree(epochs=1), values))
    commands = [["report", run, f"--out={tmp_path / 'out'}"], ["compare", run, run]]
    code = (
        "import sys; sys.modules.update({'tensorflow': None, 'keras': None})\n"
        f"from train.__main__ import main; sys.exit(any(map(main, {commands!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8"
    )
    page = (tmp_path / "out" / "report.md").read_text()
    assert "No published number is of one of these configurations." in page
    assert "source" not in page
    assert re.sub(" +", " ", page).count("| backprop | 1 | 1 | 1.50 |") == 1
    assert done.stdout.count("no difference") == 2
