"""The commands `report`, `compare` and `angles`."""

import csv
import dataclasses
import json
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tfweightmirror as tfwm
from train.__main__ import main
from train.config import DataConfig, FeedbackConfig, FitConfig, MlpConfig, ModelConfig
from train.config.model import ResNetConfig
from train.config.run import TrainingConfig
from train.parsing.config_file import to_yaml
from train.report import groups, published
from train.report.groups import TEST_ERROR
from train.run import directory as run_directory

RELEASED = Path(__file__).parents[2] / "reports" / "akrout2019"


def config(rule: str = "backprop", *, seed: int = 0, epochs: int = 3, **changes: Any) -> FitConfig:
    plain = FitConfig(
        seed=seed,
        feedback=FeedbackConfig(rule=rule),
        training=TrainingConfig(epochs=epochs),
    )
    return dataclasses.replace(plain, **changes)


def lines(accuracies: Sequence[float], **measures: float) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "seconds": epoch, "loss": 1.0, "accuracy": 1.0, "val_accuracy": accuracy}
        | measures
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def write_run(path: Path, config: FitConfig, lines: Sequence[dict[str, float]]) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config))
    (path / "setup.json").write_text(json.dumps({"replicas": 1, "keras": "3.15.1"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def report(*paths: Path, out: Path) -> tuple[str, list[dict[str, str]], list[dict[str, str]]]:
    """report.md and the rows of table.csv and curves.csv."""
    assert main(["report", *map(str, paths), "--out", str(out)]) == 0
    tables = []
    for name in ("table.csv", "curves.csv"):
        with (out / name).open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    return (out / "report.md").read_text(), tables[0], tables[1]


def test_seeds_are_one_row_with_mean_and_standard_error(tmp_path: Path) -> None:
    for seed, last in enumerate((0.90, 0.92, 0.97)):
        angles = {"weight_angle/conv": 10.0 + seed, "weight_angle/head": 1.0}
        write_run(
            tmp_path / f"run_{seed}", config("fa", seed=seed), lines([0.5, 0.99, last], **angles)
        )
    write_run(tmp_path / "other", config("bp"), lines([0.5, 0.6, 0.8]))
    page, table, curves = report(tmp_path, out=tmp_path / "out")
    by_group = {row["group"]: row for row in table}
    assert list(by_group) == ["backprop", "feedback alignment"]
    row = by_group["feedback alignment"]
    assert (row["runs"], row["seeds"], row["epoch"]) == ("3", "0 1 2", "3")
    # The last epoch, not the best one: mean of 10, 8 and 3; deviations 3, 1 and -4.
    assert float(row[TEST_ERROR]) == pytest.approx(7.0)
    assert float(row[f"{TEST_ERROR} (s.e.)"]) == pytest.approx((26 / 2 / 3) ** 0.5, rel=1e-5)
    assert float(row["weight_angle/conv"]) == pytest.approx(11.0)
    assert by_group["backprop"][f"{TEST_ERROR} (s.e.)"] == ""
    assert by_group["backprop"]["weight_angle/conv"] == ""
    assert "| feedback alignment | 3 | 3 | 7.00 (2.08) | none for digits, small_conv |" in page
    assert [row["epoch"] for row in curves] == ["1", "2", "3"] * 2
    assert float(curves[4][TEST_ERROR]) == pytest.approx(1.0)


def test_groups_of_one_rule_are_told_apart_by_what_differs() -> None:
    flat = [
        groups.labels_of([{**of_default(), **changes} for changes in both])
        for both in (
            [{"optimizer.learning_rate": 0.1}, {"optimizer.learning_rate": 0.2}],
            [{"data.name": "mnist:3.0.1"}, {"data.name": "/sets/cifar10/1.0.0"}],
        )
    ]
    assert flat == [
        ["backprop, optimizer.learning_rate=0.1", "backprop, optimizer.learning_rate=0.2"],
        ["mnist, small_conv, backprop", "cifar10, small_conv, backprop"],
    ]


def of_default() -> dict[str, Any]:
    from train.report.runs import DEFAULTS

    return DEFAULTS


def test_what_cannot_be_used_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [0.5, 0.6, 0.7]
    runs = tmp_path / "runs"
    write_run(runs / "good", config(), lines(good))
    write_run(runs / "unfinished", config(seed=1), lines(good[:2]))
    write_run(runs / "empty", config(seed=2), [])
    nan = lines(good)
    nan[1]["loss"] = float("nan")
    write_run(runs / "nan", config(seed=3), nan)
    write_run(runs / "gap", config(seed=4), [line for line in lines(good) if line["epoch"] != 2])
    write_run(runs / "twin", config(seed=0), lines(good))
    write_run(runs / "without", config(seed=5), [{"epoch": 1, "loss": 1.0, "accuracy": 1.0}])
    torn = write_run(runs / "torn", config(seed=6), lines(good)) / "metrics.jsonl"
    first, second, third = torn.read_text().splitlines()
    torn.write_text("\n".join([first, second[:20], third]))
    half = write_run(runs / "half", config(seed=7), lines(good)) / "metrics.jsonl"
    half.write_text("\n".join([first, second, third[:20]]))
    (write_run(runs / "yaml", config(seed=8), lines(good)) / "config.yaml").write_text("a: [")
    (write_run(runs / "key", config(seed=9), lines(good)) / "config.yaml").write_text("sed: 1")
    (write_run(runs / "no_config", config(seed=10), lines(good)) / "config.yaml").unlink()
    (write_run(runs / "setup", config(seed=11), lines(good)) / "setup.json").write_text("{")
    page, (row,), _ = report(runs, out=tmp_path / "out")
    assert row["runs"] == "1"
    assert float(row[TEST_ERROR]) == pytest.approx(30.0)
    reasons = {
        "unfinished": "unfinished: 2 of 3 epochs",
        "empty": "unfinished: metrics.jsonl has no epoch",
        "nan": "loss is nan at epoch 2",
        "gap": "metrics.jsonl has epoch 3 at line 2, where epoch 2 is expected",
        "twin": f"configuration and seed are those of {runs / 'good'}, which is in the report",
        "without": "metrics.jsonl has no val_accuracy at line 1",
        "torn": "metrics.jsonl is damaged at line 2",
        "half": "unfinished: 2 of 3 epochs",
        "yaml": "config.yaml is not YAML",
        "key": "config.yaml: sed is not a known key",
        "no_config": "config.yaml cannot be read: No such file or directory",
        "setup": "setup.json is not JSON",
    }
    shown = capsys.readouterr().out
    html = (tmp_path / "out" / "report.html").read_text()
    for name, reason in reasons.items():
        assert f"left out: {runs / name}: {reason}" in shown
        assert f"| {runs / name} | {reason}" in page
        assert f"<td>{runs / name}</td><td>{reason}" in html


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["nowhere"], "nowhere does not exist. Expected a run directory, or a folder of several."),
        (["empty"], "empty holds no run: neither it nor a folder in it has a config.yaml."),
        (["unfinished"], "No run is left to report on: unfinished: unfinished: 1 of 3 epochs."),
    ],
)
def test_without_a_run_there_is_one_sentence(
    paths: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_run(Path("unfinished"), config(), lines([0.5]))
    assert main(["report", *paths, "--out=out"]) == 2
    assert f"error: {expected}" in capsys.readouterr().err
    assert not Path("out").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", config(), lines([0.5, 0.6, 0.7]))
    kept = tmp_path / "out" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert main(["report", str(run), "--out", str(kept.parent)]) == 2
    assert "Nothing is overwritten: remove it, or give another." in capsys.readouterr().err
    assert [path.name for path in kept.parent.iterdir()] == ["mine.txt"]


def test_released_logs_stand_beside_our_runs_in_their_rows(tmp_path: Path) -> None:
    page, table, curves = report(RELEASED, out=tmp_path / "out")
    by_group = {row["group"]: row for row in table}
    assert by_group["backprop"]["published_test_error_percent"] == "1.5"
    mirror = by_group["weight mirror (akrout2019_code)"]
    assert (mirror["published_test_error_percent"], mirror["published_epoch"]) == ("1.51", "400")
    assert mirror["differences"] == ""
    assert len(curves) == 4 * 400
    # 94.13 % right after epoch 10, where their log has 94.12 %.
    assert re.search(r"^\| backprop \| 12.07 / 12.00 \| 5.87 / 5.88 \|", page, re.M)
    rule = r"^\| updated random feedback \|"
    assert re.search(rf"{rule} 19.53 / 19.75 \| 11.10 / 11.18 \|", page, re.M)
    # Input layer, whose angle they log too: after epochs 1 and 400.
    assert re.search(rf"{rule} 71.09 / 70.95 \|.*\| 20.03 / 19.96 \|$", page, re.M)
    assert re.search(r"^\| backprop \| released logs of Akrout [^|]*\| 1.63 / 1.50 \|$", page, re.M)
    assert by_group["backprop"]["published_best_test_error_percent"] == "1.5"
    assert f"{RELEASED / 'mnist_mlp_bp'}" in page


@pytest.mark.parametrize("page", ["README.md", "reports/akrout2019/README.md"])
def test_tables_of_the_documentation_are_the_runs_and_the_released_logs(page: str) -> None:
    logs = {
        cell.label.partition(", ")[2]: cell.measures
        for cell in published.read_all()
        if cell.label.startswith("MNIST")
    }
    folders = {"backprop": "bp", "feedback alignment": "fa", "weight mirror": "wm"}
    measures = {TEST_ERROR: "val_accuracy", "output_angle": "weight_angle/head"}
    measures["input_angle"] = "weight_angle/hidden_1"
    compared, head = 0, [""]
    for line in (RELEASED.parents[1] / page).read_text().splitlines():
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
                key: (ours[epoch - 1][column], numbers[epoch].mean)
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


def test_differences_of_scale_are_said(tmp_path: Path) -> None:
    changes = {
        "data": DataConfig(name="mnist", take=1000),
        "model": ModelConfig(name="mlp", mlp=MlpConfig(units=(500,))),
    }
    run = write_run(tmp_path / "run", config("fa", **changes), lines([0.5, 0.6, 0.7]))
    page, (row,), _ = report(run, out=tmp_path / "out")
    assert row["published_test_error_percent"] == "2.2"
    assert "2.20 (released logs of Akrout et al. 2019, epoch 400, differs: see below)" in page
    for difference in (
        "ours 3 epochs, theirs 400",
        "ours 1000 training images",
        "model.mlp.activation: ours relu, theirs sigmoid",
    ):
        assert difference in row["differences"]
        assert difference in page


def test_every_published_table_is_there_and_well_formed() -> None:
    cells = published.read_all()
    count = dict.fromkeys((cell.source for cell in cells), 0)
    for cell in cells:
        count[cell.source] += 1
        assert cell.measures
        for measure, numbers in cell.measures.items():
            largest = 180 if measure.endswith("angle") else 100
            assert all(0 <= value.mean < largest for value in numbers.values())
        for key in cell.settings:
            assert key in of_default(), key
        for key in cell.match or {}:
            assert key in of_default(), key
    assert count == {
        "Akrout et al. 2019": 12,
        "released logs of Akrout et al. 2019": 8,
        "Xiao et al. 2018": 8,
        "Amit 2018": 33,
        "BioTorch": 12,
        "Khandwala and Bedi": 2,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"feedback.last_layer": "bp"},
        {"feedback.layers": {"*": "bp"}},
        {"feedback.only_last_layer_learns": True},
    ],
    ids=str,
)
def test_a_run_stands_beside_a_cell_of_the_same_experiment_alone(changes: dict[str, Any]) -> None:
    (changed,) = changes
    for cell in published.read_all():
        match = cell.match or {}
        run = of_default() | {key: values[0] for key, values in match.items()}
        assert cell.is_beside(run) == (cell.match is not None), cell.label
        if changed in match:  # Xiao et al. 2018, last layer backprop
            assert not cell.is_beside(run | {changed: None}), cell.label
        else:
            assert not cell.is_beside(run | changes), cell.label


def of_model(data: str, name: str, **options: Any) -> dict[str, Any]:
    return {"data": DataConfig(name=data), "model": ModelConfig(name=name, **options)}


def test_top_5_and_training_errors_reach_the_tables(tmp_path: Path) -> None:
    run = lines([0.5, 0.6, 0.7], val_top_5_accuracy=0.8125)
    resnet = of_model("imagenet2012", "resnet18")  # BatchNorm before ReLU, as in Xiao et al. 2018
    write_run(tmp_path / "xiao", config("ss", **resnet), run)
    deep = of_model("cifar100", "deepernet")
    write_run(tmp_path / "amit", config("urfb", epochs=1, **deep), lines([0.5]))
    wide = of_model("cifar10", "mlp", mlp=MlpConfig(units=(512, 512, 512)))
    write_run(tmp_path / "khandwala", config("fa", **wide), lines([0.5, 0.9, 0.7]))
    page, table, curves = report(tmp_path, out=tmp_path / "out")
    by_task = {row["data_and_model"]: row for row in table}
    xiao = by_task["imagenet2012, resnet18"]
    assert float(xiao["top_5_error_percent"]) == pytest.approx(18.75)
    assert xiao["published_top_5_error_percent"] == "-; -; 16.18"  # Akrout, BioTorch
    assert float(curves[-1]["top_5_error_percent"]) == pytest.approx(18.75)
    assert by_task["cifar100, deepernet"]["published_train_error_percent"] == "16"
    khandwala = by_task["cifar10, mlp 512-512-512"]
    assert khandwala["published_test_error_percent"] == ""  # maxima, not of the last epoch
    assert khandwala["published_best_test_error_percent"] == "53.8"
    assert khandwala["published_train_error_percent"] == "25"
    head = "| top-5 error, % | training error, % | smallest test error of all epochs, % |"
    assert f"|  | published by {head}" in page
    for row in (
        "| Xiao et al. 2018 | 18.75 / 16.18, epoch 50 |  |  |",
        "| Amit 2018 |  | 0.00 / 16.00, epochs not said |  |",
        "| Khandwala and Bedi |  | 0.00 / 25.00, epoch 60 | 10.00 / 53.80, epoch 60 |",
    ):
        assert row in page
    assert "| 30.00 | see below |" in page


def test_bounds_that_a_paper_states_of_a_figure_stand_beside_our_angles(tmp_path: Path) -> None:
    resnet = of_model("imagenet2012", "resnet50", resnet=ResNetConfig(batch_norm="after_relu"))

    def run(rule: str, epochs: int, angles: dict[str, list[float]]) -> None:
        written = lines([0.5] * epochs)
        for layer, values in angles.items():
            for line, value in zip(written, values, strict=True):
                line[layer] = value
        write_run(tmp_path / rule, config(rule, epochs=epochs, **resnet), written)

    run(
        "wm",
        2,
        {"weight_angle/a": [11, 5], "weight_angle/head": [9, 8], "delta_angle/a": [26, 20]},
    )
    run("kp", 21, {"weight_angle/a": [90] * 19 + [0.25, 0.5], "weight_angle/head": [0.125] * 21})
    run("fa", 2, {f"weight_angle/{layer}": [85, 81 - 2 * layer] for layer in range(3)})
    page, _, _ = report(tmp_path, out=tmp_path / "out")
    mirror, near = "weight mirror (orthogonal)", "near zero within 20 epochs, and held there"
    for row in (
        "|  | measure | published | ours, degrees | holds |",
        f"| {mirror} | weight angle | below 12 degrees in all layers | largest 11.00 (a, epoch 1) "
        "| yes |",
        f'| {mirror} | weight angle | below 6 degrees "later in the run" in all layers but the '
        "last | largest 5.00 (a, epoch 2) | yes |",
        f"| {mirror} | delta angle | below 25 degrees in all layers | largest 26.00 (a, epoch 1) "
        "| no |",
        f"| Kolen-Pollack | weight angle | {near} (no number) | largest 0.50 (a, epoch 21) |  |",
        f"| Kolen-Pollack | delta angle | {near} (no number) | not measured |  |",
        "| feedback alignment | weight angle | above 80 degrees for most layers | at least 1 of 3 "
        "layers (epoch 2) | no |",
    ):
        assert row in page


def test_rules_and_keys_are_those_of_the_rest_of_the_house() -> None:
    sign_symmetries = {"usf", "frsf", "brsf"}
    assert {name: set(aliases) for name, aliases in groups.RULES.items()} == {
        rule.name: set(rule.aliases) - sign_symmetries for rule in tfwm.rules.RULES
    }
    assert set(groups.MAY_DIFFER) == {*run_directory.MAY_DIFFER, "seed"}


def test_html_needs_no_other_file_and_its_text_is_escaped(tmp_path: Path) -> None:
    angles = {"weight_angle/head": 3.0}
    run = write_run(tmp_path / "<b>run", config("kp"), lines([0.5, 0.6, 0.7], **angles))
    report(run, out=tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'src="([^"]{22})', html)
    assert sources == ["data:image/png;base64,"] * 2
    assert "href=" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;run" in html


def test_pictures_are_drawn_of_what_the_logs_have(tmp_path: Path) -> None:
    measures = {
        f"{measure}/{layer}": value
        for value, measure in enumerate(
            ("weight_angle", "delta_angle", "norm_ratio", "kurtosis", "magnitude", "sparsity"), 1
        )
        for layer in (f"layer_{number}" for number in range(10))
    }
    measures |= {"mirror_samples_per_image/layer_0": 1.5, "mirror_samples_per_image/layer_1": 2.5}
    for seed in (0, 1):
        write_run(
            tmp_path / f"run_{seed}", config("wm", seed=seed), lines([0.5, 0.6, 0.7], **measures)
        )
    out = tmp_path / "out"
    page, _, _ = report(tmp_path, out=out)
    names = {path.stem for path in out.glob("*.png")}
    assert names == {path.stem for path in out.glob("*.svg")}
    assert names == {
        "learning_curves",
        "weight_angles",
        "delta_angles",
        "norm_ratios",
        "kurtosis",
        "magnitude",
        "sparsity",
    }
    for name in names:
        width, height = struct.unpack(">II", (out / f"{name}.png").read_bytes()[16:24])
        assert min(width, height) > 200
        assert f"]({name}.png)" in page
    assert "| weight mirror (orthogonal) | 10 | 1.00 (0.00) | 1.00 (0.00) | 1.00 (0.00) |" in page
    assert page.splitlines()[6].endswith("noise samples per image |")
    assert page.splitlines()[8].endswith("| 4 |")
    assert "the weight angle is 0 by construction" in page


def test_report_and_compare_do_without_tensorflow(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", config(), lines([0.5, 0.6, 0.7])))
    for command in (["report", run, f"--out={tmp_path / 'out'}"], ["compare", run, run]):
        code = (
            "import sys; sys.modules.update({'tensorflow': None, 'keras': None})\n"
            f"from train.__main__ import main; sys.exit(main({command!r}))"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_compare_says_what_differs_and_what_came_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", config("fa"), lines([0.5, 0.6, 0.7]))
    other = write_run(tmp_path / "other", config("kp"), lines([0.5, 0.8], **{"norm_ratio/a": 2.0}))
    (other / "setup.json").write_text(json.dumps({"replicas": 2, "keras": "3.15.1"}))
    assert main(["compare", str(one), str(other)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["configuration:", "1", "differ"] in rows
    assert ["feedback.rule", "fa", "kp"] in rows
    assert ["set-up:", "1", "differ"] in rows
    assert ["replicas", "1", "2"] in rows
    assert ["epoch", "3", "of", "3", "2", "of", "3"] in rows
    assert [TEST_ERROR, "30", "20"] in rows
    assert ["norm_ratio/a", "2"] in rows


def test_compare_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "runs" / "run", config(), lines([0.5]))
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
        (["report", "--out=x"], "report needs run directories."),
        (["report", "run"], "report needs --out, the folder to write; must be new or empty."),
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
    assert "the folder to write; must be new or empty" in shown
