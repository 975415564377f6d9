"""The commands `report`, `compare` and `angles`."""

import contextlib
import dataclasses
import io
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import tfweightmirror as tfwm
from train.__main__ import main
from train.config import FitConfig
from train.report import configs, published
from train.report.frames import TEST_ERROR, gather
from train.report.write import results
from train.run import directory as run_directory

RELEASED = Path(__file__).parents[2] / "reports" / "akrout2019"
LAYERS = tuple(f"layer_{number}" for number in range(10))


def tree(
    rule: str = "backprop",
    *,
    seed: int = 0,
    epochs: int = 3,
    data: str = "digits",
    model: str = "small_conv",
    **options: Any,
) -> dict[str, Any]:
    return {
        "seed": seed,
        "data": {"name": data},
        "model": {"name": model, "options": options},
        "feedback": {"rule": {"name": rule, "options": {}}},
        "training": {"epochs": epochs},
    }


def lines(accuracies: Sequence[float], **measures: Any) -> list[dict[str, Any]]:
    """A line an epoch; a measure is one number for all epochs, or one for each."""
    return [
        {"epoch": at + 1, "seconds": at + 1, "loss": 1.0, "accuracy": 1.0, "val_accuracy": accuracy}
        | {name: v[at] if isinstance(v, list) else v for name, v in measures.items()}
        for at, accuracy in enumerate(accuracies)
    ]


def write_run(path: Path, config: Mapping[str, Any], lines: Sequence[Any]) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    (path / "setup.json").write_text(json.dumps({"replicas": 1, "keras": "3.15.1"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@dataclasses.dataclass
class Report:
    folder: Path
    terminal: str
    rows: dict[str, dict[str, Any]]  # data, model and rule to the measures of the last epoch
    left_out: dict[str, str]
    page: str  # with single spaces

    @classmethod
    def of(cls, folder: Path, terminal: str) -> "Report":
        text = (folder / "report.json").read_text()
        content = json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))
        return cls(
            folder,
            terminal,
            {row["group"]: row for row in content["results"]},
            {row["run"]: row["why"] for row in content["left_out"]},
            re.sub(" +", " ", (folder / "report.md").read_text()),
        )


GOOD = [0.5, 0.6, 0.7]
BROKEN = {
    "unfinished": "unfinished: 2 of 3 epochs",
    "empty": "unfinished: metrics.jsonl has no epoch",
    "diverged": "loss is nan at epoch 2",
    "null": "loss is nan at epoch 3",
    "gap": "metrics.jsonl has at line 2 no table with epoch 2 and a loss",
    "too_many": "3 epochs, but config.yaml says 2",
    "twin": "configuration and seed are those of {runs}/a_good, which is in the report",
    "without_loss": "metrics.jsonl has at line 1 no table with epoch 1 and a loss",
    "without_epoch": "metrics.jsonl has at line 1 no table with epoch 1 and a loss",
    "no_table": "metrics.jsonl has at line 1 no table with epoch 1 and a loss",
    "word": "metrics.jsonl holds a value that is no number: could not convert string to float: 'x'",
    "torn": "metrics.jsonl is damaged at line 2",
    "half": "unfinished: 2 of 3 epochs",
    "latin": "metrics.jsonl is not a text in UTF-8",
    "yaml": "config.yaml is not YAML",
    "list": "config.yaml holds no table of keys and values",
    "key": "config.yaml: sed is not a known key. Did you mean 'seed'?",
    "utf_16": "config.yaml is not a text in UTF-8",
    "no_config": "config.yaml cannot be read: No such file or directory",
    "setup": "setup.json is not JSON",
}


def write_broken(runs: Path) -> None:
    write_run(runs / "a_good", tree("bp"), lines(GOOD))
    of = {name: lines(GOOD) for name in BROKEN}
    of["unfinished"], of["empty"] = lines(GOOD[:2]), []
    of["diverged"][1]["loss"], of["null"][2]["loss"] = math.nan, None
    del of["gap"][1], of["without_loss"][0]["loss"], of["without_epoch"][0]["epoch"]
    of["no_table"] = [[1, 2]]
    of["word"][0]["accuracy"] = "x"
    for seed, (name, written) in enumerate(of.items(), 1):
        epochs = 2 if name == "too_many" else 3
        seed = 0 if name == "twin" else seed
        write_run(runs / name, tree(seed=seed, epochs=epochs), written)
    first, second, third = (runs / "torn" / "metrics.jsonl").read_text().splitlines()
    (runs / "torn" / "metrics.jsonl").write_text("\n".join([first, second[:20], third]))
    (runs / "half" / "metrics.jsonl").write_text("\n".join([first, second, third[:20]]))
    (runs / "latin" / "metrics.jsonl").write_bytes(b'{"epoch": 1, "\xe4": 1}\n')
    (runs / "yaml" / "config.yaml").write_text("a: [")
    (runs / "list" / "config.yaml").write_text("- 1")
    (runs / "key" / "config.yaml").write_text("sed: 1")
    (runs / "utf_16" / "config.yaml").write_text("seed: 1", encoding="utf-16")
    (runs / "no_config" / "config.yaml").unlink()
    (runs / "setup" / "setup.json").write_text("{")


def write_digits(runs: Path) -> None:
    """Three seeds, two under an alias of the rule and one of them in the old form; a rule with
    angles that have no value; a run of one epoch; ten layers with every measure.
    """
    for seed, (rule, last) in enumerate((("fa", 0.90), ("feedback_alignment", 0.92), ("fa", 0.97))):
        config = tree(rule, seed=seed)
        if seed == 2:
            config["feedback"] = {"rule": rule}
            config["model"] = {"name": "small_conv", "small_conv": {}, "mlp": {"units": [9]}}
            config["training"]["loss"] = "softmax"
        angles = {"weight_angle/conv": 10.0 + seed, "weight_angle/head": 1.0}
        write_run(runs / "seeds" / f"seed_{seed}", config, lines([0.5, 0.99, last], **angles))
    values = {"weight_angle/a": [None, 3.0, 5.0], "weight_angle/b": [1.0, math.nan, None]}
    write_run(runs / "urfb", tree("urfb"), lines(GOOD, **values, **{"norm_ratio/a": math.inf}))
    write_run(runs / "kp <b>|" / "run", tree("kp", epochs=1), lines([0.5], **values))
    measures = {
        f"{measure}/{layer}": float(at + value)
        for value, measure in enumerate(
            ("weight_angle", "delta_angle", "norm_ratio", "kurtosis", "magnitude", "sparsity"), 1
        )
        for at, layer in enumerate(LAYERS)
    }
    measures |= {"mirror_samples_per_image": 4.0, "mirror_samples_per_image/layer_0": 1.5}
    write_run(runs / "wm", tree("wm"), lines(GOOD, **measures))


def write_xiao(runs: Path) -> None:
    signs = {f"sign_angle/{layer}": 37.0 for layer in LAYERS[:3]}
    weights = {f"weight_angle/{layer}": 38.0 for layer in LAYERS[:3]}
    resnet = {"data": "imagenet2012", "model": "resnet18"}  # BatchNorm before ReLU, as in Xiao
    top_5 = {"val_top_5_accuracy": 0.8125}
    write_run(runs / "xiao" / "ss", tree("usf", **resnet), lines(GOOD, **top_5, **weights))
    write_run(runs / "xiao" / "frsf", tree("frsf", **resnet), lines(GOOD, **signs, **weights))
    write_run(runs / "xiao" / "bp", tree("bp", **resnet), lines(GOOD, **top_5, **signs))


def write_papers(runs: Path) -> None:
    deep = tree("urfb", epochs=1, data="cifar100", model="deepernet")
    write_run(runs / "amit", deep, lines([0.5]))
    wide = tree("fa", data="cifar10", model="mlp", units=[512, 512, 512])
    write_run(runs / "khandwala", wide, lines([0.5, 0.9, 0.7]))
    deep = {"data": "imagenet2012", "model": "resnet50", "batch_norm": "after_relu"}
    angles: dict[str, dict[str, list[float]]] = {
        "wm": {
            "weight_angle/a": [11, 5],
            "weight_angle/head": [9, 8],
            "delta_angle/a": [26, 20],
        },
        "kp": {
            "weight_angle/a": [90.0] * 19 + [0.25, 0.5],
            "weight_angle/head": [0.125] * 21,
        },
        "fa": {f"weight_angle/{layer}": [85, 81 - 2 * layer] for layer in range(3)},
    }
    for rule, of_rule in angles.items():
        epochs = max(map(len, of_rule.values()))
        run = lines([0.5] * epochs, **of_rule)
        write_run(runs / "akrout" / rule, tree(rule, epochs=epochs, **deep), run)


@pytest.fixture(scope="module")
def the_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One report for many tests: drawing takes seconds."""
    folder = tmp_path_factory.mktemp("reports")
    runs = folder / "runs"
    write_broken(runs)
    write_digits(runs)
    write_xiao(runs)
    (runs / "link").symlink_to(runs, target_is_directory=True)  # leads back to itself
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["report", str(runs), "--out", str(folder / "out")]) == 0
    return Report.of(folder / "out", printed.getvalue())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tables on runs of papers and of the released logs."""
    runs = tmp_path_factory.mktemp("papers")
    write_xiao(runs)
    write_papers(runs)
    groups, left_out = gather([str(runs), str(RELEASED)])
    assert not left_out
    parts = results(groups, published.beside(groups, published.read_all()))
    return re.sub(" +", " ", "\n\n".join(parts))


def test_seeds_are_one_row_with_mean_and_standard_error(the_report: Report) -> None:
    row = the_report.rows["digits, small_conv, feedback alignment"]
    assert (row["runs"], row["seeds"], row["epoch"]) == (3, "0 1 2", 3)
    # The last epoch, not the best one: mean of 10, 8 and 3; deviations 3, 1 and -4.
    assert row[TEST_ERROR] == pytest.approx(7.0)
    assert row[f"{TEST_ERROR} (s.e.)"] == pytest.approx((26 / 2 / 3) ** 0.5)
    assert row["weight_angle/conv"] == pytest.approx(11.0)
    assert row["mean_over_layers/weight_angle"] == pytest.approx(6.0)
    assert the_report.rows["digits, small_conv, backprop"][f"{TEST_ERROR} (s.e.)"] is None
    assert "| digits, small_conv, feedback alignment | 3 | 3 | 7.00 (2.08) |" in the_report.page
    curves = pd.read_csv(the_report.folder / "curves.csv").set_index(["group", "epoch"])
    assert curves.at[("digits, small_conv, feedback alignment", 2), TEST_ERROR] == 1.0


def test_what_cannot_be_used_is_named_and_left_out(the_report: Report) -> None:
    runs = the_report.folder.parent / "runs"
    reasons = {f"{runs / k}": reason.format(runs=runs) for k, reason in BROKEN.items()}
    assert the_report.left_out == reasons
    assert f"{len(reasons) + 10} runs found, 10 in the report" in the_report.terminal
    for path, reason in reasons.items():
        assert f"left out: {path}: {reason}" in the_report.terminal
        assert f"| {path} | {reason} |".replace("<", "&lt;") in the_report.page


def test_a_measure_without_a_value_leaves_the_run_in(the_report: Report) -> None:
    row = the_report.rows["digits, small_conv, updated random feedback"]
    assert (row["weight_angle/a"], row["weight_angle/b"], row["norm_ratio/a"]) == (5.0, None, None)
    assert row["mean_over_layers/weight_angle"] is None
    kp, urfb = "digits, small_conv, Kolen-Pollack", "digits, small_conv, updated random feedback"
    table = the_report.page.partition("Weight angle at the last epoch:")[2]
    assert re.search(rf"\| layer \| {kp} \|.* \| {urfb} \|", table)
    assert re.search(r"\n\| a \| NaN \|.* 5.00 \|", table)


def test_the_metrics_file_has_null_where_a_measure_has_no_value(tmp_path: Path) -> None:
    directory = run_directory.RunDirectory(tmp_path)
    files = run_directory.RunFiles(directory, FitConfig(), {})
    files.on_epoch_end(0, {"loss": 1.0, "weight_angle/a": math.nan, "norm_ratio/a": math.inf})
    text = directory.metrics_file.read_text()
    assert '"weight_angle/a": null, "norm_ratio/a": null' in text
    assert math.isnan(directory.metrics()[0]["weight_angle/a"])
    directory.keep_epochs(1)
    assert directory.metrics_file.read_text() == text


def test_groups_of_one_rule_are_told_apart_by_what_differs() -> None:
    plain = configs.flat(tree("kp"), source="")
    same = configs.flat(tree("kolen_pollack", seed=3) | {"run_directory": "elsewhere"}, source="")
    assert configs.identity(plain) == configs.identity(same)
    for changes, expected in (
        ({"optimizer.learning_rate": 0.1}, "Kolen-Pollack, optimizer.learning_rate=0.1"),
        ({"data.name": "/sets/cifar10/1.0.0"}, "cifar10, small_conv, Kolen-Pollack"),
        ({"feedback.last_layer.name": "backprop"}, "Kolen-Pollack, last layer backprop"),
    ):
        assert configs.labels_of([plain | changes, plain])[0] == expected


def test_rules_and_keys_are_those_of_the_rest_of_the_house() -> None:
    prefix = "feedback.rule.options."
    for rule in tfwm.rules.RULES:
        for alias in (rule.name, *rule.aliases):
            config = configs.flat(tree(alias), source="")
            options = {k.removeprefix(prefix): v for k, v in config.items() if prefix in k}
            assert config["feedback.rule.name"] == rule.name
            assert rule(**options) == tfwm.rules.get(alias)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["nowhere"], "nowhere does not exist. Expected a run directory, or a folder of several."),
        (["empty"], "empty holds no run: neither it nor a folder below it has a config.yaml."),
        (["unfinished"], "No run is left to report on: unfinished: unfinished: 1 of 3 epochs."),
        (["unfinished", "--out=empty/.."], "Nothing is overwritten: remove it, or give another."),
    ],
)
def test_without_a_run_or_a_free_folder_there_is_one_sentence(
    paths: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_run(Path("unfinished"), tree(), lines([0.5]))
    assert main(["report", *(paths if len(paths) > 1 else [*paths, "--out=out"])]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "unfinished"]


def test_a_run_that_a_callback_ended_has_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tree(), lines(GOOD[:2]))
    (run / "model.keras").write_bytes(b"")
    (group,), left_out = gather([str(tmp_path)])
    assert (group.epochs, left_out) == (2, {})


def test_released_logs_stand_beside_our_runs(page: str) -> None:
    task, log = "mnist, mlp 500", "released logs of Akrout et al. 2019"
    assert f"| {task}, backprop | 1 | 400 | 1.65 | 1.50 ({log}) |" in page
    # 94.13 % right after epoch 10, where their log has 94.12 %.
    assert f"| {task}, backprop | {log} | 12.07 / 12.00 | 5.87 / 5.88 |" in page
    rule = f"| {task}, updated random feedback | {log} |"
    assert f"{rule} 19.53 / 19.75 | 11.10 / 11.18 |" in page
    # Input layer, whose angle they log too: after epochs 1 and 400.
    assert re.search(rf"{re.escape(rule)} 71.09 / 70.95 \|.*\| 20.03 / 19.96 \|\n", page)
    # The smallest error of all epochs, and delta angles, which our runs did not measure.
    assert re.search(rf"\| {task}, backprop \| {log} \|( \|)* 1.63 / 1.50 \|", page)
    assert f"{rule} - / 19.41 | - / 12.21 |" in page
    mirror = f"{task}, weight mirror (akrout2019_code)"
    assert re.search(rf"\| {re.escape(mirror)} \| {log} \| .* \| none known \|", page)


@pytest.mark.parametrize("file", ["README.md", "reports/akrout2019/README.md"])
def test_tables_of_the_documentation_are_the_runs_and_the_released_logs(file: str) -> None:
    logs = {
        cell.label.partition(", ")[2]: cell.measures
        for cell in published.read_all()
        if cell.label.startswith("MNIST")
    }
    folders = {"backprop": "bp", "feedback alignment": "fa", "weight mirror": "wm"}
    measures = {TEST_ERROR: "val_accuracy", "output_angle": "weight_angle/head"}
    measures["input_angle"] = "weight_angle/hidden_1"
    compared, head = 0, [""]
    for line in (RELEASED.parents[1] / file).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "rule":
            head = cells
        pairs = [re.fullmatch(r"([\d.]+) / ([\d.]+)", cell) for cell in cells]
        rule = cells[0].partition(",")[0]
        if rule not in logs or not any(pairs):
            continue
        folder = RELEASED / f"mnist_mlp_{folders.get(rule, 'kp')}"
        ours = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        for name, pair in zip(head, pairs, strict=True):
            if pair is None:
                continue
            epoch = int(re.search(r"\d+", name)[0])  # type: ignore[index]
            values = {
                key: (ours[epoch - 1][column], numbers[epoch][0])
                for key, column in measures.items()
                if (numbers := logs[rule].get(key)) and column in ours[epoch - 1]
            }
            error = values[TEST_ERROR]
            values[TEST_ERROR] = (100 * error[0], 100 - error[1])
            found = [
                key
                for key, both in values.items()
                if all(
                    float(shown) == pytest.approx(value, abs=0.51 * 10 ** -len(shown.split(".")[1]))
                    for shown, value in zip(pair.groups(), both, strict=True)
                )
            ]
            assert found, line
            compared += 1
    assert compared >= 15


def test_differences_of_scale_are_said() -> None:
    run = configs.flat(
        tree("fa", data="mnist", model="mlp", units=[500], activation="relu"), source=""
    )
    (cell,) = [cell for cell in published.read_all() if cell.is_beside(run)]

    class Short:
        epochs, config = 3, run | {"data.take": 1000}

    assert cell.differences(Short).startswith(  # type: ignore[arg-type]
        "ours 3 epochs, theirs 400; ours 1000 training images; "
        "model.options.activation: ours relu, theirs sigmoid; "
        "model.options.initializer: ours not set, theirs akrout2019_code; "
    )


def test_every_published_table_is_there_and_well_formed() -> None:
    cells, known = published.read_all(), configs.flat({}, source="")
    count = dict.fromkeys((cell.source for cell in cells), 0)
    for cell in cells:
        count[cell.source] += 1
        assert cell.measures
        for measure, numbers in cell.measures.items():
            largest = 180 if measure.endswith("angle") else 100
            assert all(0 <= mean < largest for mean, _ in numbers.values())
        for key in (*cell.settings, *(cell.match or ())):
            assert key in known or key.partition(".options.")[0] + ".name" in known, key
    assert count == {
        "Akrout et al. 2019": 12,
        "released logs of Akrout et al. 2019": 8,
        "Xiao et al. 2018": 8,
        "Amit 2018": 33,
        "BioTorch": 12,
        "Khandwala and Bedi": 2,
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feedback.last_layer.name", "backprop"),
        ("feedback.layers", {"*": "backprop"}),
        ("feedback.only_last_layer_learns", True),
        ("feedback.rule.options.magnitude", "fixed"),
        ("feedback.rule.options.epsilon", 0.5),
    ],
)
def test_a_run_stands_beside_a_cell_of_the_same_experiment_alone(key: str, value: Any) -> None:
    for cell in published.read_all():
        match = cell.match or {}
        run = configs.flat({}, source="") | {name: values[0] for name, values in match.items()}
        assert cell.is_beside(run) == (cell.match is not None), cell.label
        if key in match:  # Xiao et al. 2018, last layer backprop; frSF and brSF
            assert not cell.is_beside(run | {key: None}), cell.label
        else:
            assert not cell.is_beside(run | {key: value}), cell.label


def test_top_5_training_and_best_errors_reach_the_tables(page: str) -> None:
    ss = "imagenet2012, resnet18, sign-symmetry"
    assert f"| {ss} | Xiao et al. 2018 | 18.75 (epoch 3) / 16.18 |" in page
    # Of epochs that are not said, and of epoch 60.
    amit = "cifar100, deepernet, updated random feedback"
    khandwala = "cifar10, mlp 512-512-512, feedback alignment"
    assert f"| {amit} | Amit 2018 | | 0.00 / 16.00 |" in page
    assert f"| {khandwala} | Khandwala and Bedi | 0.00 (epoch 3) / 25.00 | |" in page
    assert f"| {khandwala} | Khandwala and Bedi | 10.00 (epoch 3) / 53.80 | |" in page
    maximum = "53.80 (Khandwala and Bedi, the smallest of all epochs, differs: see below)"
    assert f"| {khandwala} | 1 | 3 | 30.00 | {maximum} |" in page
    assert (
        f"| {ss}, fixed magnitudes | BioTorch | benchmark table, ImageNet | ResNet-18, frSF |"
        in page
    )


def test_bounds_that_a_paper_states_of_a_figure_stand_beside_our_angles(page: str) -> None:
    mirror, near = "weight mirror (orthogonal)", "near zero within 20 epochs, and held there"
    for row in (
        f"{mirror} | weight_angle | below 12 degrees in all layers | largest 11.00 (a, epoch 1) | "
        "yes |",
        f'{mirror} | weight_angle | below 6 degrees "later in the run" in all layers but the last '
        "| largest 5.00 (a, epoch 2) | yes |",
        f"{mirror} | delta_angle | below 25 degrees in all layers | largest 26.00 (a, epoch 1) | "
        "no |",
        f"Kolen-Pollack | weight_angle | {near} (no number) | largest 0.50 (a, epoch 21) | |",
        f"Kolen-Pollack | delta_angle | {near} (no number) | not measured | |",
        "feedback alignment | weight_angle | above 80 degrees for most layers | at least 1 of 3 "
        "layers (epoch 2) | no |",
    ):
        assert f"| imagenet2012, resnet50, {row}" in page


def test_html_needs_no_other_file_and_its_text_is_escaped(the_report: Report) -> None:
    html = (the_report.folder / "report.html").read_text()
    sources = re.findall(r'src="([^"]{22})', html)
    assert sources == ["data:image/png;base64,"] * 8
    assert "href=" not in html
    assert "<b>" not in html
    assert "kp &lt;b&gt;|" in html
    assert "kp &lt;b>\\|" in the_report.page


def test_pictures_are_drawn_of_what_the_logs_have(the_report: Report) -> None:
    out, page = the_report.folder, the_report.page
    names = {path.stem for path in out.glob("*.png")}
    assert names == {path.stem for path in out.glob("*.svg")}
    assert names == {
        "learning_curves",
        "weight_angle",
        "sign_angle",
        "delta_angle",
        "norm_ratio",
        "kurtosis",
        "magnitude",
        "sparsity",
    }
    for name in names:
        width, height = struct.unpack(">II", (out / f"{name}.png").read_bytes()[16:24])
        assert min(width, height) > 200
        assert f"]({name}.png)" in page
    mirror = "digits, small_conv, weight mirror (orthogonal)"
    table = page.partition("Kurtosis at the last epoch:")[2].partition("#")[0]
    assert table.split("\n")[2] == f"| layer | {mirror} |"
    assert table.split("\n")[4::9] == ["| layer_0 | 4.00 |", "| layer_9 | 13.00 |"]
    assert "| mean over layers | 8.50 |" in table
    assert re.search(rf"\| {re.escape(mirror)} \| 1 \| 3 \| 30.00 .*\| 4.00 \|\n", page)
    assert "the weight angle is 0 by construction" in page


def test_report_and_compare_do_without_tensorflow(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", tree(), lines(GOOD)))
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
    assert "published by" not in page
    assert done.stdout.count("no difference") == 2


def test_compare_says_what_differs_and_what_came_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", tree("fa") | {"run_directory": "one"}, lines(GOOD))
    measures = {"norm_ratio/a": 2.0, "norm_ratio/b": 4.0, "kurtosis/a": None, "kurtosis/b": 1.0}
    other = write_run(tmp_path / "other", tree("kp"), lines([0.5, 0.8], **measures))
    (other / "setup.json").write_text(json.dumps({"replicas": 2, "keras": "3.15.1"}))
    assert main(["compare", str(one), str(other)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["configuration:", "1", "differ"] in rows
    assert ["feedback.rule.name", "feedback_alignment", "kolen_pollack"] in rows
    assert ["set-up:", "1", "differ"] in rows
    assert ["replicas", "1", "2"] in rows
    assert ["epoch", "3", "2"] in rows
    assert [TEST_ERROR, "30", "20"] in rows
    assert ["mean_over_layers/norm_ratio", "3"] in rows
    assert main(["compare", str(one), str(other), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["configuration"] == {
        "feedback.rule.name": ["feedback_alignment", "kolen_pollack"]
    }
    assert content["results at the last epoch"]["mean_over_layers/kurtosis"] == [None, None]


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
    import keras

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
        (["report", "run"], "report needs --out FOLDER, to write; must be new or empty."),
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


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["report", "--help"], ["compare", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in ("report", "compare", "angles"):
        assert f"    {name} " in shown
    assert "FOLDER, to write; must be new or empty" in shown
