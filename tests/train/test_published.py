"""Numbers of papers and of released logs, beside runs."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.train.written_runs import RELEASED, lines, tree, write_run, write_xiao
from train.report import configs, figures, published
from train.report.frames import TEST_ERROR, Group, gather
from train.report.write import results


def write_papers(runs: Path) -> None:
    deep = tree("urfb", epochs=1, data="cifar100", model="deepernet")
    write_run(runs / "amit", deep, lines([0.5]))
    wide = tree("fa", data="cifar10", model="mlp", units=[512, 512, 512])
    write_run(runs / "khandwala", wide, lines([0.5, 0.9, 0.7]))
    resnet = {"data": "imagenet2012", "model": "resnet50", "batch_norm": "after_relu"}
    near_0: dict[str, Any] = {
        "weight_angle/a": [90.0] * 19 + [0.25, 0.5],
        "weight_angle/head": 0.125,
    }
    mirror = {"weight_angle/a": [11, 5], "weight_angle/head": [9, 8], "delta_angle/a": [26, 20]}
    near_0["delta_angle/a"] = None  # a zero vector has no angle
    fixed = {f"weight_angle/{layer}": [85, 81 - 2 * layer] for layer in range(3)}
    for rule, epochs, angles in (("wm", 2, mirror), ("kp", 21, near_0), ("fa", 2, fixed)):
        config = tree(rule, epochs=epochs, **resnet)
        write_run(runs / "akrout" / rule, config, lines([0.5] * epochs, **angles))


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Group], published.Beside]:
    """Runs of papers' cells and those of the released logs, and what is beside them."""
    runs = tmp_path_factory.mktemp("papers")
    write_xiao(runs)
    write_papers(runs)
    groups, left_out = gather([str(runs), str(RELEASED)])
    assert not left_out
    return groups, published.beside(groups, published.read_all())


@pytest.fixture(scope="module")
def page(papers: tuple[list[Group], published.Beside]) -> str:
    """Their tables, with single spaces."""
    return re.sub(" +", " ", "\n\n".join(results(*papers)))


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
    mirror = re.escape(f"{task}, weight mirror (akrout2019_code)")
    assert re.search(rf"\| {mirror} \| {log} \| .* \| none known \|", page)


@pytest.mark.parametrize("file", ["docs/launcher/paper_cell.md", "reports/akrout2019/README.md"])
def test_tables_of_the_documentation_are_the_runs_and_the_released_logs(
    papers: tuple[list[Group], published.Beside], file: str
) -> None:
    numbers = papers[1].numbers
    numbers = numbers[numbers["source"].str.startswith("released logs")]
    head, compared = [""], 0
    for line in (RELEASED.parents[1] / file).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        head = cells if cells[0] == "rule" else head
        rule = cells[0].partition(",")[0].replace("Kolen-Pollack", "updated random feedback")
        of_rule = numbers[numbers["group"].str.contains(f", {rule}", regex=False)]
        for name, cell in zip(head, cells, strict=False):
            pair = re.fullmatch(r"([\d.]+) / ([\d.]+)", cell)
            if pair is None or of_rule.empty:
                continue
            rows = of_rule[of_rule["epoch"] == int(re.findall(r"\d+", name)[0])]
            theirs, ours = rows["theirs"].copy(), rows["ours"].copy()
            accuracy = rows["measure"] == TEST_ERROR
            theirs[accuracy], ours[accuracy] = 100 - theirs[accuracy], 100 - ours[accuracy]
            off = 0.51 * 10 ** -len(pair[1].partition(".")[2])
            near = (ours - float(pair[1])).abs().lt(off) & (theirs - float(pair[2])).abs().lt(off)
            assert near.any(), line
            compared += 1
    assert compared >= 15


def test_differences_of_scale_are_said() -> None:
    config = tree("fa", data="mnist", model="mlp", units=[500], activation="relu")
    run = configs.flat(config, source="") | {"data.take": 1000}
    (cell,) = [cell for cell in published.read_all() if cell.is_beside(run)]
    group: Any = SimpleNamespace(epochs=3, config=run)
    assert cell.differences(group).startswith(
        "ours 3 epochs, theirs 400; ours 1000 training images; "
        "model.options.activation: ours relu, theirs sigmoid; "
        "model.options.initializer: ours not set, theirs akrout2019_code; "
    )


def test_a_mirror_with_options_that_were_not_published_is_said() -> None:
    config = tree("wm", data="mnist", model="mlp", units=[500])
    run = configs.flat(config | {"mirror": {"options": {"dead_cells": 0.5}}}, source="")
    (cell,) = [cell for cell in published.read_all() if cell.is_beside(run)]
    group: Any = SimpleNamespace(epochs=400, config=run)
    assert "mirror.options.dead_cells: ours 0.5, theirs not set" in cell.differences(group)


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
            outer = re.sub(r"^phases\[\d\]\.", "", key)
            assert outer in known or outer.partition(".options.")[0] + ".name" in known, key
    assert count == {
        "Akrout et al. 2019": 12,
        "released logs of Akrout et al. 2019": 8,
        "Xiao et al. 2018": 8,
        "Amit 2018": 33,
        "BioTorch": 12,
        "Khandwala and Bedi": 3,
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feedback.last_layer.name", "backprop"),
        ("feedback.layers", {"*": "backprop"}),
        ("feedback.only_last_layer_learns", True),
        ("feedback.rule.options.magnitude", "fixed"),
        ("feedback.rule.options.epsilon", 0.5),
        ("feedback.rule.options.ahead", 0.05),
        ("constraints", {"*": "fixed_sign"}),
        ("untie", ["conv*"]),
    ],
)
def test_a_run_stands_beside_a_cell_of_the_same_experiment_alone(key: str, value: Any) -> None:
    plain = configs.flat({}, source="")
    for cell in published.read_all():
        match = cell.match or {}
        run = plain | {name: values[0] for name, values in match.items()}
        assert cell.is_beside(run) == (cell.match is not None), cell.label
        # Xiao et al. 2018, last layer backprop; frSF and brSF.
        assert not cell.is_beside(run | {key: None if key in match else value}), cell.label


def test_top_5_training_and_best_errors_reach_the_tables(page: str) -> None:
    ss = "imagenet2012, resnet18, sign-symmetry"
    assert f"| {ss} | Xiao et al. 2018 | 18.75 (epoch 3) / 16.18 |" in page
    # Of epochs that are not said, and of epoch 60.
    amit = "cifar100, deepernet, updated random feedback"
    khandwala = "cifar10, mlp 512-512-512, feedback alignment"
    assert f"| {amit} | Amit 2018 | | 0.00 / 16.00 |" in page
    assert f"| {khandwala} | Khandwala and Bedi | 0.00 (epoch 3) / 25.00 | |" in page
    assert f"| {khandwala} | Khandwala and Bedi | 10.00 (epoch 3) / 53.80 | |" in page
    # Its pair is our smallest error, not our last.
    both = "53.80 (Khandwala and Bedi, the smallest of all epochs, ours 10.00, differs: see below)"
    assert f"| {khandwala} | 1 | 3 | 30.00 | {both} |" in page
    frsf = f"{ss}, fixed magnitudes"
    assert f"| {frsf} | BioTorch | benchmark table, ImageNet | ResNet-18, frSF |" in page


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
        f"Kolen-Pollack | delta_angle | {near} (no number) | no value from epoch 20 on | |",
        "feedback alignment | delta_angle | above 80 degrees for most layers | not measured | |",
        "feedback alignment | weight_angle | above 80 degrees for most layers | at least 1 of 3 "
        "layers (epoch 2) | no |",
    ):
        assert f"| imagenet2012, resnet50, {row}" in page


def test_pictures_show_what_was_published(
    papers: tuple[list[Group], published.Beside], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, beside = papers
    panels: dict[str, Any] = {}

    def keep(figure: Any, path: Path, **_: Any) -> None:
        stem = path.stem
        panels.update({f"{stem}, {a.get_title()}".replace("\n", " "): a for a in figure.axes})

    def points(panel: str, **look: str) -> set[tuple[float, float]]:
        lines = [
            line.get_data()
            for line in panels[panel].lines
            if all(str(getattr(line, f"get_{name}")()) == value for name, value in look.items())
        ]
        return {
            (float(x), round(float(y), 2)) for data in lines for x, y in zip(*data, strict=True)
        }

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep)
    monkeypatch.setattr("matplotlib.figure.Figure.draw_without_rendering", lambda figure: None)
    figures.draw_learning_curves(groups, beside, Path("curves"))
    for measure in ("weight_angle", "sign_angle", "delta_angle"):
        figures.draw_layers(groups, measure, beside, Path(measure))
    # At their epochs, also behind ours; maxima are stars; of no epoch: lines from side to side.
    wide = "curves, cifar10, mlp 512-512-512"
    assert points(f"{wide}: test error", marker="*") == {(60, 53.8)}
    assert points(f"{wide}: training error", marker="o") == {(60, 25)}
    assert (10, 5.88) in points("curves, mnist, mlp 500: test error", marker="o")
    assert (50, 16.18) in points("curves, imagenet2012, resnet18: top-5 test error", marker="o")
    fixed = points("curves, imagenet2012, resnet50: test error", linestyle=":")
    assert {(0, 23.4), (1, 23.4)} <= fixed
    # One epoch is a point.
    amit = "curves, cifar100, deepernet: test error"
    assert (1, 50) in points(amit, marker="o")
    # Bounds: of all epochs, of the last; near zero from epoch 20.
    mirror = "weight_angle, imagenet2012, resnet50, weight mirror (orthogonal)"
    assert {y for _, y in points(mirror, color="crimson")} == {12, 6}
    near = points("weight_angle, imagenet2012, resnet50, Kolen-Pollack", color="crimson")
    assert {y for _, y in near} == {0}
    assert max(x for x, _ in near) == 21
    log = "weight_angle, mnist, mlp 500, updated random feedback"
    assert {(400, 3.62), (400, 19.96)} <= points(log, marker="o")
    # Also of a measure that our runs do not have.
    log = log.replace("weight_angle", "delta_angle")
    assert points(log) == points(log, marker="o") > {(1, 19.41), (400, 3.15)}
    # W to its signs under backprop, and under sign-symmetry, in one panel, with means over layers.
    signs = "sign_angle, imagenet2012, resnet18, backprop"
    assert {y for _, y in points(signs, linestyle="-")} == {37}
    assert {y for _, y in points(signs, linestyle="--")} == {38}
    assert len(points(signs, color="black")) == 6
