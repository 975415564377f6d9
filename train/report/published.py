"""Numbers of papers and released logs, `train/published/*.yaml`, and the runs beside them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import yaml

from train.report.configs import Flat, data_name
from train.report.frames import (
    BEST_ERROR,
    TEST_ERROR,
    TOP_5_ERROR,
    TRAIN_ERROR,
    Group,
)

FOLDER = Path(__file__).parents[1] / "published"
MEASURES = {
    "error": TEST_ERROR,
    "top_5_error": TOP_5_ERROR,
    "train_error": TRAIN_ERROR,
    "output_angle": "output_angle",
    "input_angle": "input_angle",
    "hidden_delta_angle": "hidden_delta_angle",
}
ACCURACIES = {"accuracy": TEST_ERROR, "train_accuracy": TRAIN_ERROR, "best_accuracy": BEST_ERROR}
PLACES = {
    "output_angle": ("weight_angle", -1),
    "input_angle": ("weight_angle", 0),
    "hidden_delta_angle": ("delta_angle", 0),
}
"""Published angle to our measure and the place of its layer."""

# What makes of a rule another experiment; a published cell has it only if its `match` says so.
UNMODIFIED: dict[str, list[Any]] = {
    "feedback.last_layer": [None],
    "feedback.layers": [{}],
    "feedback.only_last_layer_learns": [False],
    "feedback.rule.options.magnitude": [None],
    "feedback.rule.options.epsilon": [None, 1],
}
NUMBERS = ["group", "source", "place", "cell", "differences", "measure", "epoch", "theirs"]
NUMBERS += ["theirs_error", "our_measure", "our_epoch", "ours", "ours_error"]
BOUNDS = ["group", "measure", "says", "below", "above", "from_epoch", "ours", "holds"]


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a paper says of the layers' angles in a figure.

    Args:
        measure: As in the logs, before the slash, in degrees.
        says: In words.
        layers: Which layers it is said of.
        below: Largest value; None if no such number is given.
        above: Smallest value in most layers; None if no such number is given.
        from_epoch: First epoch that it is said of.
    """

    measure: str
    says: str
    layers: Literal["all", "all but the last", "most"]
    below: float | None = None
    above: float | None = None
    from_epoch: int | Literal["last"] = 1

    def first(self, group: Group) -> int:
        """The first epoch that it is said of."""
        return group.epochs if self.from_epoch == "last" else self.from_epoch

    def ours(self, group: Group) -> tuple[str, str]:
        """What a group's runs have in its place, and whether that holds: `yes`, `no` or nothing.

        The farthest of all epochs that the bound is said of, of the means over the seeds.
        """
        layers = group.layers(self.measure)
        layers = layers[:-1] if self.layers == "all but the last" else layers
        if not layers:
            return "not measured", ""
        angles = group.mean.loc[self.first(group) :, [f"{self.measure}/{n}" for n in layers]]
        if angles.empty:
            return f"ends before epoch {self.first(group)}", ""
        if self.above is not None:
            above = (angles > self.above).sum(axis=1)
            text = f"at least {above.min()} of {len(layers)} layers (epoch {above.idxmin()})"
            return text, "yes" if 2 * above.min() > len(layers) else "no"
        epoch, name = angles.stack().idxmax()
        value = angles.at[epoch, name]
        holds = "" if self.below is None else "yes" if value < self.below else "no"
        return f"largest {value:.2f} ({name.partition('/')[2]}, epoch {epoch})", holds


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
        measures: Measure to epoch to mean and standard error (or None), in per cent and degrees;
            the last epoch is `epochs`, or 0 if that is not known.
        bounds: What is said of a figure whose numbers are not printed.
        scale_note: What else differs, or is not known.
    """

    label: str
    source: str
    place: str
    match: dict[str, list[Any]] | None
    settings: dict[str, Any]
    epochs: int | None
    measures: dict[str, dict[int, tuple[float, float | None]]]
    bounds: tuple[Bound, ...]
    scale_note: str

    def is_beside(self, config: Flat) -> bool:
        """Whether a run of this configuration is a run of the same cell."""
        if self.match is None:
            return False
        named = config | {"data.name": data_name(config)}
        match = {**UNMODIFIED, **self.match}
        return all(named.get(key) in values for key, values in match.items())

    def differences(self, group: Group) -> str:
        """Differences of scale and setting between a group and the published runs."""
        notes = []
        if self.epochs is None:
            notes.append(f"ours {group.epochs} epochs, theirs not said")
        elif group.epochs != self.epochs:
            notes.append(f"ours {group.epochs} epochs, theirs {self.epochs}")
        if group.config["data.take"] is not None:
            notes.append(f"ours {group.config['data.take']} training images")
        for key, value in self.settings.items():
            ours = group.config.get(key)
            if ours != value:
                ours = "not set" if ours is None else ours
                notes.append(f"{key}: ours {ours}, theirs {'none' if value is None else value}")
        return "; ".join([*notes, *([self.scale_note] if self.scale_note else [])])


def read_all(folder: Path = FOLDER) -> list[Published]:
    """Every published cell, by file."""
    return [
        _cell(entry, table)
        for file in sorted(folder.glob("*.yaml"))
        for table in yaml.safe_load(file.read_text())["tables"]
        for entry in table["cells"]
    ]


class Beside(NamedTuple):
    """What was published beside some groups.

    Args:
        numbers: A row a number, with ours (`NUMBERS` are the columns). Behind our last epoch, the
            last of theirs stands beside the last of ours, and the others beside nothing.
        bounds: A row a bound (`BOUNDS`).
    """

    numbers: pd.DataFrame
    bounds: pd.DataFrame


def beside(groups: Sequence[Group], cells: Sequence[Published]) -> Beside:
    """Every published cell that is of a group's configuration."""
    numbers, bounds = [], []
    for group, cell in itertools.product(groups, cells):
        if not cell.is_beside(group.config):
            continue
        named = (group.label, cell.source, cell.place, cell.label, cell.differences(group))
        for measure, by_epoch in cell.measures.items():
            ours = _our_name(group, measure)
            for epoch, (mean, error) in by_epoch.items():
                at = epoch if 0 < epoch <= group.epochs else group.epochs
                known = ours in group.mean and (at == epoch or epoch == max(by_epoch))
                both = [f.at[at, ours] if known else math.nan for f in (group.mean, group.error)]
                numbers.append((*named, measure, epoch, mean, error, ours, at, *both))
        for bound in cell.bounds:
            limits = (bound.below, bound.above, bound.first(group))
            bounds.append((group.label, bound.measure, bound.says, *limits, *bound.ours(group)))
    frame = pd.DataFrame(numbers, columns=NUMBERS)
    # Of a single number or run there is no standard error: None, or NaN.
    errors = {name: frame[name].astype(float) for name in ("theirs_error", "ours_error")}
    return Beside(frame.assign(**errors), pd.DataFrame(bounds, columns=BOUNDS))


def _our_name(group: Group, measure: str) -> str:
    """The name in our logs of a published measure."""
    if measure not in PLACES:
        return measure
    ours, place = PLACES[measure]
    names = group.layers(ours)
    return f"{ours}/{names[place]}" if names else measure


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
            measures[ours] = {at: (100.0 - value, None) for at, value in values.items()}
    own_match = entry.get("match", {})
    notes = [table.get("scale_note"), entry.get("scale_note")]
    return Published(
        label=entry["label"],
        source=table["source"],
        place=table["place"],
        match=None if own_match is None else table.get("match", {}) | own_match,
        settings=table.get("settings", {}) | entry.get("settings", {}),
        epochs=epochs,
        measures=measures,
        bounds=tuple(Bound(**bound) for bound in entry.get("bounds", ())),
        scale_note="; ".join(note for note in notes if note),
    )


def _by_epoch(value: Any, epochs: int | None) -> dict[int, Any]:
    """A number alone, or with its standard error, is that of the last epoch."""
    return value if isinstance(value, dict) else {epochs or 0: value}


def _estimate(value: Any) -> tuple[float, float | None]:
    mean, error = value if isinstance(value, list) else (value, None)
    return float(mean), error
