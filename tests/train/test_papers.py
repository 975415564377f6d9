"""Configurations of the papers' cells: heads, small twins, and two steps of each."""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from train.config import FitConfig
from train.detection import anchors
from train.parsing.command_line import parse
from train.parsing.phases import phase_configs
from train.parts import models
from train.run.fit import fit

CONFIGS = Path(__file__).parents[2] / "configs"
FOLDERS = ("akrout2019", "amit2018", "characters", "does_it_matter", "khandwala_bedi", "xiao2018")
FILES = [file for folder in FOLDERS for file in sorted((CONFIGS / folder).glob("*.yaml"))]
# Behind a cell: what makes it small, and what it measures.
OVERLAYS = [file for file in FILES if re.match("small|figure", file.stem)]
CELLS = [file for file in FILES if file not in OVERLAYS]
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist": ("images", {"shape": [28, 28, 1]}),
    "cifar10": ("images", {}),
    "cifar100": ("images", {"classes": 100, "count": 100}),
    "imagenet2012": ("images", {"shape": [224, 224, 3], "classes": 1000, "count": 1000}),
    "train.data.characters:next_character": ("tokens", {}),
    "coco/2017": ("boxes", {"side": 512}),
    "./coco": ("boxes", {"side": 160}),
}
FIRST = {"amit2018/cifar10_simpnet_urfb_untied", "characters/characters_transformer_kp"}


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def small_twin_of(cell: Path) -> Path | None:
    """The overlay that makes a cell small; None: it is small, or is a cell of the released logs."""
    folder, parts = cell.parent, cell.stem.split("_")
    network = next((n for n in ("simpnet", "deepernet_s") if n in cell.stem), parts[1])
    untied = f"small_untied_{network}" if parts[-1] == "untied" else ""
    for stem in filter(None, (untied, f"small_{parts[0]}", f"small_{network}", "small")):
        if (folder / f"{stem}.yaml").exists() and parts[1] != "mlp":
            return folder / f"{stem}.yaml"
    return None


@functools.cache
def resolved(*files: Path, keys: tuple[str, ...] = ()) -> FitConfig:
    return parse(["fit", *(f"--config={file}" for file in files), *keys])[0]


def head_of(file: Path) -> str:
    lines = re.match(r"(#.*\n)+", file.read_text())
    return " ".join(lines[0].replace("#", " ").split()) if lines else ""


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_head_says_source_expectation_or_what_it_makes_of_a_cell(file: Path) -> None:
    head = head_of(file)
    assert max(map(len, file.read_text().splitlines())) <= 100
    if file.parent.name not in ("characters", "does_it_matter"):
        assert re.search(r"\w+ (et al\.|and Bedi)|Amit 2018", head)
    said = yaml.safe_load(file.read_text())
    if file in OVERLAYS:
        assert re.search("makes a small twin|measures of figure", head)
    elif "base" not in said:
        assert "This file alone is backprop" in head
    else:
        assert re.search("Published|Expected|This file alone", head)


def test_every_cell_that_is_not_small_has_a_twin() -> None:
    without = {name_of(cell) for cell in CELLS if small_twin_of(cell) is None}
    small = r"akrout2019/\w+_mlp|akrout2019/mnist|khandwala|characters|does_it"
    assert all(re.match(small, name) for name in without)
    assert {small_twin_of(cell) for cell in CELLS} >= {o for o in OVERLAYS if "small" in o.stem}


@pytest.mark.parametrize("cell", [c for c in CELLS if small_twin_of(c)], ids=name_of)
def test_twin_changes_no_rule_rate_or_loss(cell: Path) -> None:
    twin = small_twin_of(cell)
    assert twin is not None
    full, small = phase_configs(resolved(cell)), phase_configs(resolved(cell, twin))
    assert len(full) == len(small)
    for one, other in zip(full, small, strict=True):
        for key in ("feedback", "mirror", "constraints", "untie", "draw_anew", "freeze"):
            assert getattr(one, key) == getattr(other, key)
        assert one.loss.name == other.loss.name
        smaller = {"anchor_size": 2.0}  # for smaller images
        assert other.loss.options in (one.loss.options, one.loss.options | smaller)
        assert one.optimizer.learning_rate == other.optimizer.learning_rate
        assert one.model.name == other.model.name


def cells() -> list[Any]:
    """Every cell, all but a few slow."""
    return [
        pytest.param(
            cell, id=name_of(cell), marks=() if name_of(cell) in FIRST else pytest.mark.slow
        )
        for cell in CELLS
    ]


@pytest.mark.parametrize("cell", cells())
def test_cell_builds_at_full_size_and_its_twin_takes_two_steps(cell: Path, tmp_path: Path) -> None:
    full, twin = resolved(cell), small_twin_of(cell)
    function, options = SETS[full.data.name]
    shape = (32,) if function == "tokens" else tuple(options.get("shape", (32, 32, 3)))
    classes = options.get("classes", 62 if function == "tokens" else 10)
    output = shape if full.data.target == "inputs" else (classes,)
    if function == "boxes":
        side = options["side"]
        shape, output = (side, side, 3), (anchors.count(side), 4 + 80)
    if full.model.name != "resnet50":  # its twin is as deep
        assert models.build(full.model, shape, output).count_params() > 1000
    files = (cell,) if twin is None else (cell, twin)
    small = resolved(*files)
    function, options = SETS[small.data.name]
    phases = yaml.safe_dump(
        [table | {"training": {"epochs": None, "steps": 2}} for table in small.phases]
    )
    keys = (
        f"--data.name=tests.train.stand_in:{function}",
        f"--data.options={yaml.safe_dump(options, default_flow_style=True).strip()}",
        "--data.take=null",
        "--data.train_split=train",
        "--data.test_split=test",
        *((f"--phases={phases}",) if small.phases else ()),
        "--training.epochs=null",
        "--training.steps=2",
        "--training.batch_size=4",
        "--training.test_batch_size=4",
        "--training.steps_per_call=1",
        "--training.progress=none",
        "--optimizer.schedule.name=constant",
        "--optimizer.schedule.boundaries_epochs=[]",
        *(("--mirror.warm_up_steps=1",) if "wm" in cell.stem else ()),
        f"--run_directory={tmp_path / 'run'}",
    )
    finished = fit(resolved(*files, keys=keys))
    steps = 2 * max(1, len(small.phases))
    assert len(finished.history["loss"]) >= 1
    assert (function == "boxes") == ("box_loss" in finished.history)
    assert all(np.isfinite(finished.history["loss"]))
    assert finished.images_trained == 4 * steps
