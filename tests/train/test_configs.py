"""Configurations of the repository: what their heads say, what they repeat, and that they build."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import keras
import pytest
import yaml

import tfweightmirror as tfwm
from tfweightmirror.mirror.activation import activations_of
from train.config import FitConfig, Part
from train.parsing.command_line import parse
from train.parsing.config_file import flatten, read_config_file
from train.parts import feedback, models
from train.parts.losses import build_loss
from train.parts.optimizers import build_optimizer
from train.parts.schedules import learning_rate_now

REPOSITORY = Path(__file__).parents[2]
# One folder of a paper, with its released logs, and one of our own runs; test_papers.py is about
# all papers. The files beside the folders are examples, which may repeat a default.
FILES = [
    file
    for folder in ("akrout2019", "cifar10_resnet18")
    for file in sorted((REPOSITORY / "configs" / folder).glob("*.yaml"))
    if not file.stem.startswith("small_")
]
RULES = {
    "bp": "backprop",
    "fa": "feedback_alignment",
    "ss": "sign_symmetry",
    "wm": "weight_mirror",
    "kp": "kolen_pollack",
}
# (image shape, classes) of a data set; ImageNet's images smaller, to build fast.
SETS = {"mnist": ((28, 28, 1), 10), "cifar10": ((32, 32, 3), 10), "imagenet2012": ((64, 64, 3), 99)}

NETWORKS: dict[Any, keras.Model] = {}


def network(config: Part, data: str) -> keras.Model:
    """The plain model, residual networks at a width of 4; one for all cells that share it."""
    shape, classes = SETS[data]
    key = (config.name, repr(config.options), data)
    if key not in NETWORKS:
        width = {"width": 4} if str(config.name).startswith("resnet") else {}
        narrow = Part(config.name, {**config.options, **width})
        NETWORKS[key] = models.build(narrow, shape, (classes,))
    return NETWORKS[key]


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


@functools.cache
def resolved(file: Path) -> FitConfig:
    return parse(["fit", f"--config={file}"])[0]


def said(file: Path) -> dict[str, Any]:
    """What the file itself says, by dotted name."""
    tree = yaml.safe_load(file.read_text())
    tree.pop("base", None)
    return flatten(tree, source=str(file))


def value_at(config: FitConfig, name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        value = getattr(value, key)
    return value


def head_of(file: Path) -> str:
    """The comment that the file starts with, as one line."""
    lines = re.match(r"(#.*\n)+", file.read_text())
    return " ".join(lines[0].replace("#", " ").split()) if lines else ""


def rule_in_name(file: Path) -> str | None:
    found = [part for part in file.stem.split("_") if part in RULES]
    return found[0] if found else None


def test_every_cell_that_the_papers_need_is_there() -> None:
    akrout = {file.stem for file in FILES if file.parent.name == "akrout2019"}
    expected = {f"{data}_mlp_{rule}" for data in ("mnist", "cifar10") for rule in RULES} - {
        "mnist_mlp_ss",
        "cifar10_mlp_ss",
    }
    for base in ("imagenet_resnet18", "imagenet_resnet50"):
        expected |= {base} | {f"{base}_{rule}" for rule in RULES}
    expected |= {"mnist_mlp", "cifar10_mlp", "mnist_mlp_kp_paper", "mnist_mlp_wm_paper"}
    expected |= {"mnist_brain_like", "mnist_brain_like_fa", "mnist_brain_like_wm"}
    assert akrout == expected
    ours = {file.stem for file in FILES if file.parent.name == "cifar10_resnet18"}
    assert ours == {"cifar10_resnet18"} | {f"cifar10_resnet18_{rule}" for rule in RULES}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_head_tells_paper_released_logs_and_ours_apart(file: Path) -> None:
    sources = {
        "paper": r"Akrout et al\. 2019( \(the paper[^)]*\))?,? .*ImageNet",
        "logs": r"\(not the paper\)|not of the paper",
        "ours": r"^Ours|our ResNet-18 runs",
    }
    ours = file.parent.name == "cifar10_resnet18" or file.stem.endswith("_paper")
    ours = ours or "brain_like" in file.stem
    source = "ours" if ours else "paper" if file.stem.startswith("imagenet") else "logs"
    head = head_of(file)
    assert re.search(sources.pop(source), head)
    sources.pop("paper", None)  # logs and ours may refer to it
    assert not [other for other, words in sources.items() if re.search(words, head)]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_head_names_the_source_and_what_to_expect(file: Path) -> None:
    head = head_of(file)
    assert re.search(r"\w+ et al\. \d{4}", head)
    if rule_in_name(file) is None:
        assert "This file alone is backprop" in head
    else:
        assert re.search(r"(Expected|Published).*\d", head)
    assert max(map(len, file.read_text().splitlines())) <= 100


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_file_says_only_what_differs_from_its_base(file: Path) -> None:
    base = yaml.safe_load(file.read_text()).get("base")
    before = read_config_file(file.parent / base) if base else {}
    for name, value in said(file).items():
        default = value_at(FitConfig(), name)
        part, _, last = name.rpartition(".")
        if last == "options" and f"{part}.name" in said(file):
            continue  # another name begins without options
        if isinstance(value, dict):
            merged = {**default, **before.get(name, {})}
            repeated = [key for key in value if key in merged and merged[key] == value[key]]
            assert repeated == [], name
        else:
            assert value != before.get(name, default), name


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_rule_and_data_are_those_of_the_files_name(file: Path) -> None:
    config, rule = resolved(file), rule_in_name(file)
    assert config.data.name.startswith(file.stem.split("_")[0])
    assert file.stem.partition("_")[2].startswith(config.model.name)
    if config.model.name == "mlp":
        units = config.model.options.get("units", [500])
        assert units == {"mnist": [500], "cifar10": [1000]}[config.data.name]
    expected = RULES[rule] if rule else "backprop"
    if rule == "kp" and config.model.name == "mlp" and not file.stem.endswith("_paper"):
        expected = "updated_random_feedback"  # the released code runs without decay
    assert config.feedback.rule.name == expected


def test_cells_of_one_table_differ_in_rule_mirror_mode_and_the_papers_rates_alone() -> None:
    tables: dict[str, list[FitConfig]] = {}
    for file in FILES:
        if rule_in_name(file) and not file.stem.endswith("_paper"):
            tables.setdefault(file.stem.rpartition("_")[0], []).append(resolved(file))
    for table, cells in tables.items():
        rates = {cell.optimizer.learning_rate for cell in cells}
        assert len(rates) == (3 if table.endswith("mlp") else 1)
        common = {
            repr(
                dataclasses.replace(
                    cell,
                    feedback=FitConfig().feedback,
                    mirror=FitConfig().mirror,
                    optimizer=dataclasses.replace(cell.optimizer, learning_rate=1.0),
                )
            )
            for cell in cells
        }
        assert len(common) == 1, table


def builds() -> list[Any]:
    """Every file, those slow that have the kind of network and the rule of a file before them."""
    seen: set[tuple[str, str | None]] = set()
    found = []
    for file in FILES:
        cell = (file.stem.split("_")[1].rstrip("0158"), rule_in_name(file))
        marks = [pytest.mark.slow] if cell in seen else []
        found.append(pytest.param(file, id=name_of(file), marks=marks))
        seen.add(cell)
    return found


@pytest.mark.parametrize("file", builds())
def test_cell_builds_and_its_rule_accepts_its_optimizer(file: Path) -> None:
    config = resolved(file)
    model = network(config.model, config.data.name)
    feedback.convert(model, config.feedback, seed=0)
    optimizer = build_optimizer(
        config.optimizer,
        batch_size=config.training.batch_size,
        steps_per_epoch=400,
        steps=400 * config.training.epochs,
    )
    model.compile(optimizer, build_loss(config.loss))
    assert learning_rate_now(optimizer) == pytest.approx(config.optimizer.learning_rate)
    stock = not tfwm.pathways(model)
    assert stock == (config.feedback.rule.name == "backprop")
    for callback in feedback.build_callbacks(model, config.mirror, seed=0):
        callback.set_model(model)
        if isinstance(callback, tfwm.callbacks.KolenPollack):
            callback.on_train_begin()  # refuses where its law cannot hold
        elif isinstance(callback, tfwm.callbacks.WeightMirror):
            found = activations_of(tfwm.pathways(model), callback.mode)
            names = {getattr(a, "__name__", type(a).__name__).lower() for a in found.values()}
            hidden = {"mlp": {"sigmoid"}, "brain_like": {"rectified_tanh", "linear"}}
            assert names == hidden.get(config.model.name, {"relu", "linear"})
    if not stock:
        tfwm.strip_feedback(model)  # for the next cell


def test_imagenet_drops_the_rate_by_ten_at_epoch_32() -> None:
    """Akrout et al. 2019's figure of ResNet-50."""
    for file in FILES:
        if file.stem.startswith("imagenet"):
            config = resolved(file)
            assert config.optimizer.schedule.boundaries_epochs == (32,)
            assert config.optimizer.schedule.factor == 0.1
            assert config.model.options["batch_norm"] == "after_relu"
