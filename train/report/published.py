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

from train.config.data import short_name
from train.report.configs import MAGNITUDE, Flat
from train.report.frames import BEST_ERROR, TEST_ERROR, TOP_5_ERROR, TRAIN_ERROR, Group

ERRORS = {"error": TEST_ERROR, "top_5_error": TOP_5_ERROR, "train_error": TRAIN_ERROR}
ACCURACIES = {"accuracy": TEST_ERROR, "train_accuracy": TRAIN_ERROR, "best_accuracy": BEST_ERROR}
ANGLES = {
    "output_angle": ("weight_angle", -1),
    "input_angle": ("weight_angle", 0),
    "hidden_delta_angle": ("delta_angle", 0),
}
"""Published angle to our measure and the place of its layer."""

# What makes of a rule another experiment; a published cell has it only if its `match` says so.
UNMODIFIED: dict[str, list[Any]] = {
    "feedback.first_layer.name": [None],
    "feedback.last_layer.name": [None],
    "feedback.layers": [{}],
    "feedback.only_last_layer_learns": [False],
    MAGNITUDE: [None],
    "feedback.rule.options.epsilon": [None, 1],
    "feedback.rule.options.ahead": [None, 0],
    "constraints": [{}],
    "untie": [[]],
    "phases[1].untie": [None],
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a paper says of the layers' angles in a figure."""

    measure: str  # as in the logs, before the slash, in degrees
    says: str
    layers: Literal["all", "all but the last", "most"]
    below: float | None = None  # the largest value, if such a number is given
    above: float | None = None  # the smallest value in most layers, likewise
    from_epoch: int | Literal["last"] = 1

    def beside(self, group: Group) -> tuple[int, str, str]:
        """The first epoch, what a group's runs have, and whether it holds: `yes`, `no` or nothing.

        The farthest of all epochs that the bound is said of, of the means over the seeds.
        """
        first = group.epochs if self.from_epoch == "last" else self.from_epoch
        names = [f"{self.measure}/{layer}" for layer in group.layers(self.measure)]
        names = names[:-1] if self.layers == "all but the last" else names
        angles = group.mean.loc[first:, names]
        if angles.isna().all(axis=None):
            return first, f"no value from epoch {first} on" if names else "not measured", ""
        if self.above is not None:
            above = (angles > self.above).sum(axis=1)
            text = f"at least {above.min()} of {len(names)} layers (epoch {above.idxmin()})"
            return first, text, "yes" if 2 * above.min() > len(names) else "no"
        epoch, name = angles.stack().idxmax()
        value = angles.at[epoch, name]
        holds = "" if self.below is None else "yes" if value < self.below else "no"
        return first, f"largest {value:.2f} ({name.partition('/')[2]}, epoch {epoch})", holds


@dataclasses.dataclass(frozen=True)
class Published:
    """One published cell: what was trained, by whom, and where its numbers stand."""

    label: str
    source: str
    place: str
    match: dict[str, list[Any]] | None  # key to values a run must have; None: no run is that cell
    settings: dict[str, Any]  # key to the value behind the numbers; where ours differs, it is said
    epochs: int | None  # None where the source does not say
    # Measure to epoch (0: not said) to mean and standard error or NaN, in per cent and degrees.
    measures: dict[str, dict[int, tuple[float, float]]]
    bounds: tuple[Bound, ...]
    notes: tuple[str, ...]  # what else differs, or is not known

    def is_beside(self, config: Flat) -> bool:
        """Whether a run of this configuration is a run of the same cell."""
        if self.match is None:
            return False
        named = config | {"data.name": short_name(config["data.name"])}
        return all(named.get(key) in values for key, values in (UNMODIFIED | self.match).items())

    def differences(self, group: Group) -> str:
        """Differences of scale and setting between a group and the published runs."""
        notes = []
        if group.epochs != self.epochs:
            notes.append(f"ours {group.epochs} epochs, theirs {self.epochs or 'not said'}")
        if group.config["data.take"] is not None:
            notes.append(f"ours {group.config['data.take']} training images")
        # But for activations, which say what the graph does not show.
        options = [key for key in group.config if key.startswith("mirror.options.")]
        mirror = [key for key in options if not key.endswith(".activations")]
        for key, theirs in (dict.fromkeys(mirror) | self.settings).items():
            ours = group.config.get(key)
            if ours != theirs:
                texts = ["not set" if value is None else value for value in (ours, theirs)]
                notes.append(f"{key}: ours {texts[0]}, theirs {texts[1]}")
        return "; ".join([*notes, *self.notes])


class Beside(NamedTuple):
    numbers: pd.DataFrame
    bounds: pd.DataFrame


def beside(groups: Sequence[Group], cells: Sequence[Published]) -> Beside:
    """A row a number, and a row a bound, of every published cell of a group's configuration.

    Behind our last epoch, the last number of theirs stands beside the last of ours, and the others
    beside nothing.
    """
    columns = ["group", "source", "place", "cell", "differences", "measure", "epoch", "theirs"]
    columns += ["theirs_error", "our_measure", "our_epoch", "ours", "ours_error"]
    of_bounds = ["group", "measure", "says", "below", "above", "from_epoch", "ours", "holds"]
    numbers, bounds = [], []
    for group, cell in itertools.product(groups, cells):
        if not cell.is_beside(group.config):
            continue
        named = (group.label, cell.source, cell.place, cell.label, cell.differences(group))
        for measure, by_epoch in cell.measures.items():
            ours = _our_name(group, measure)
            for epoch, theirs in by_epoch.items():
                at = epoch if 0 < epoch <= group.epochs else group.epochs
                known = ours in group.mean and (at == epoch or epoch == max(by_epoch))
                both = [f.at[at, ours] if known else math.nan for f in (group.mean, group.error)]
                numbers.append((*named, measure, epoch, *theirs, ours, at, *both))
        for bound in cell.bounds:
            stated = (group.label, bound.measure, bound.says, bound.below, bound.above)
            bounds.append((*stated, *bound.beside(group)))
    return Beside(pd.DataFrame(numbers, columns=columns), pd.DataFrame(bounds, columns=of_bounds))


def _our_name(group: Group, measure: str) -> str:
    """The name in our logs; of an angle that was not measured, the name that it would have."""
    ours, place = ANGLES.get(measure, (measure, 0))
    layers = group.layers(ours) or group.layers("weight_angle")
    return f"{ours}/{layers[place]}" if measure in ANGLES and layers else measure


def read_all() -> list[Published]:
    files = sorted((Path(__file__).parents[1] / "published").glob("*.yaml"))
    tables = [table for file in files for table in yaml.safe_load(file.read_text())["tables"]]
    return [_cell(entry, table) for table in tables for entry in table["cells"]]


def _cell(entry: dict[str, Any], table: dict[str, Any]) -> Published:
    both = table | entry
    measures: dict[str, dict[int, tuple[float, float]]] = {}
    for name, ours in (ERRORS | ACCURACIES | {angle: angle for angle in ANGLES}).items():
        # A number alone, or with its standard error, is that of the last epoch.
        values = entry.get(name, {})
        values = values if isinstance(values, dict) else {both.get("epochs", 0): values}
        for epoch, value in values.items():
            mean, error = value if isinstance(value, list) else (value, math.nan)
            mean = 100.0 - mean if name in ACCURACIES else mean
            measures.setdefault(ours, {})[epoch] = (mean, error)
    return Published(
        label=entry["label"],
        source=table["source"],
        place=table["place"],
        match=None if both["match"] is None else table.get("match", {}) | both["match"],
        settings=table.get("settings", {}) | entry.get("settings", {}),
        epochs=both.get("epochs"),
        measures=measures,
        bounds=tuple(Bound(**bound) for bound in entry.get("bounds", ())),
        notes=tuple(each["scale_note"] for each in (table, entry) if "scale_note" in each),
    )
