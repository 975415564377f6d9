"""Run directories as a training writes them, without one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

RELEASED = Path(__file__).parents[2] / "reports" / "akrout2019"
GOOD = [0.5, 0.6, 0.7]


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


def lines(accuracies: Sequence[float], **measures: Any) -> str:
    """A line an epoch; a measure is one value for all epochs, or one for each."""
    rows = [
        {"epoch": at + 1, "seconds": at + 1, "loss": 1.0, "accuracy": 1.0, "val_accuracy": accuracy}
        | {name: v[at] if isinstance(v, list) else v for name, v in measures.items()}
        for at, accuracy in enumerate(accuracies)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_run(path: Path, config: Mapping[str, Any], lines: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    (path / "setup.json").write_text(json.dumps({"replicas": 1, "keras": "3.15.1"}))
    (path / "metrics.jsonl").write_text(lines)
    return path


def write_xiao(runs: Path) -> None:
    """Runs beside ResNet-18's cells of Xiao et al. 2018, with angles of W to its signs."""
    signs = {f"sign_angle/{layer}": 37.0 for layer in "abc"}
    weights = {f"weight_angle/{layer}": 38.0 for layer in "abc"}
    resnet = {"data": "imagenet2012", "model": "resnet18"}  # BatchNorm before ReLU, as theirs
    top_5 = {"val_top_5_accuracy": 0.8125}
    write_run(runs / "xiao" / "ss", tree("usf", **resnet), lines(GOOD, **top_5, **weights))
    write_run(runs / "xiao" / "frsf", tree("frsf", **resnet), lines(GOOD, **signs, **weights))
    write_run(runs / "xiao" / "bp", tree("bp", **resnet), lines(GOOD, **top_5, **signs))
