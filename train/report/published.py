"""Numbers of papers and released logs, `train/published/*.yaml`, and the runs beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from train.report.bounds import Bound
from train.report.groups import (
    BEST_ERROR,
    TEST_ERROR,
    TOP_5_ERROR,
    TRAIN_ERROR,
    Estimate,
    Group,
    data_name,
)

FOLDER = Path(__file__).parents[1] / "published"


@dataclasses.dataclass(frozen=True)
class Published:
    """One published cell.

    Args:
        label: What was trained.
        source: Paper or programme.
        place: Where the numbers stand.
        match: Dotted key to the values a run must have one of; None: no configuration is that cell.
        settings: Dotted key to the value behind the numbers; a run may differ, and it is said.
        epochs: How long was trained; None where the source does not say.
        runs: How many; None where the source does not say.
        measures: Measure to epoch to mean and standard error, in per cent and degrees; the last
            epoch is `epochs`, or 0 if that is not known.
        bounds: What is said of a figure whose numbers are not printed.
        scale_note: What else differs, or is not known.
    """

    label: str
    source: str
    place: str
    match: dict[str, list[Any]] | None
    settings: dict[str, Any]
    epochs: int | None
    runs: int | None
    measures: dict[str, dict[int, Estimate]]
    bounds: tuple[Bound, ...]
    scale_note: str

    def is_beside(self, config: dict[str, Any]) -> bool:
        """Whether a run of this configuration is a run of the same cell."""
        if self.match is None:
            return False
        plain = _plain(config) | {"data.name": data_name(config)}
        match = {**UNMODIFIED, **self.match}
        return all(plain.get(key) in values for key, values in match.items())

    def beside(self, measure: str, epoch: int) -> tuple[int, Estimate] | None:
        """Epoch and number to put beside ours: of the same epoch if there is one, or the last."""
        numbers = self.measures.get(measure)
        if not numbers:
            return None
        at = epoch if epoch in numbers else max(numbers)
        return at, numbers[at]

    def differences(self, group: Group) -> list[str]:
        """Differences of scale and setting between a group and the published runs."""
        notes = []
        if self.epochs is None:
            notes.append(f"ours {group.epochs} epochs, theirs not said")
        elif group.epochs != self.epochs:
            notes.append(f"ours {group.epochs} epochs, theirs {self.epochs}")
        if group.config["data.take"] is not None:
            notes.append(f"ours {group.config['data.take']} training images")
        for key, value in self.settings.items():
            ours = _plain(group.config).get(key)
            if ours != value:
                notes.append(f"{key}: ours {ours}, theirs {value}")
        return [*notes, *([self.scale_note] if self.scale_note else [])]


def read_all(folder: Path = FOLDER) -> list[Published]:
    """Every published cell, by file."""
    return [
        _cell(entry, table)
        for file in sorted(folder.glob("*.yaml"))
        for table in yaml.safe_load(file.read_text())["tables"]
        for entry in table["cells"]
    ]


def _cell(entry: dict[str, Any], table: dict[str, Any]) -> Published:
    epochs = entry.get("epochs", table.get("epochs"))
    measures = {
        ours: {int(at): _estimate(value) for at, value in _by_epoch(entry[theirs], epochs).items()}
        for theirs, ours in MEASURES.items()
        if theirs in entry
    }
    for theirs, ours in ACCURACIES.items():
        if theirs in entry:
            values = _by_epoch(entry[theirs], epochs)
            measures[ours] = {at: Estimate(100 - value, None) for at, value in values.items()}
    own_match = entry.get("match", {})
    notes = [table.get("scale_note"), entry.get("scale_note")]
    return Published(
        label=entry["label"],
        source=table["source"],
        place=table["place"],
        match=None if own_match is None else table.get("match", {}) | own_match,
        settings=table.get("settings", {}) | entry.get("settings", {}),
        epochs=epochs,
        runs=table.get("runs"),
        measures=measures,
        bounds=tuple(Bound(**bound) for bound in entry.get("bounds", ())),
        scale_note="; ".join(note for note in notes if note),
    )


OUTPUT_ANGLE, INPUT_ANGLE = "output_angle", "input_angle"
HIDDEN_DELTA_ANGLE = "hidden_delta_angle"
MEASURES = {
    "error": TEST_ERROR,
    "top_5_error": TOP_5_ERROR,
    "train_error": TRAIN_ERROR,
    OUTPUT_ANGLE: OUTPUT_ANGLE,
    INPUT_ANGLE: INPUT_ANGLE,
    HIDDEN_DELTA_ANGLE: HIDDEN_DELTA_ANGLE,
}
ACCURACIES = {"accuracy": TEST_ERROR, "train_accuracy": TRAIN_ERROR, "best_accuracy": BEST_ERROR}
UNMODIFIED: dict[str, list[Any]] = {
    "feedback.last_layer": [None],
    "feedback.layers": [{}],
    "feedback.only_last_layer_learns": [False],
}
"""What makes of a rule another experiment; a published cell has it only if its `match` says so."""


def _by_epoch(value: Any, epochs: int | None) -> dict[int, Any]:
    """A number alone, or with its standard error, is that of the last epoch."""
    return value if isinstance(value, dict) else {epochs or 0: value}


def _estimate(value: Any) -> Estimate:
    mean, error = value if isinstance(value, list) else (value, None)
    return Estimate(float(mean), None if error is None else float(error))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Tuples as YAML has them: lists."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()}
