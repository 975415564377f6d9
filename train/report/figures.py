"""The report's pictures, as PNG and SVG."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from train.report.configs import MAGNITUDE
from train.report.frames import BEST_ERROR, OVER_LAYERS, TEST_ERROR, TOP_5_ERROR, TRAIN_ERROR, Group
from train.report.published import Beside

ERRORS = {TEST_ERROR: "test error", TRAIN_ERROR: "training error", TOP_5_ERROR: "top-5 test error"}
LOSSES = {"val_loss": "test loss", "loss": "training loss"}
CURVES = (
    "At the end of every epoch. The upright scale of errors is logarithmic above 0.1 % and linear "
    "below. Bands are standard errors. Published: circles; stars are the smallest of all epochs, "
    "at the last one; dotted lines are numbers of an epoch that is not said."
)
LAYER_MEASURES = {
    "weight_angle": (
        "weight angle (degrees)",
        "Angle between W and what carries the error back, at the end of every epoch, a line a "
        "layer; dotted: just before a mirror step; black: mean over the layers. The layer at the "
        "input sends no error back: its angle has no effect. Circles are published angles, of the "
        "layers at input and output; red: bounds that a paper states. Under backprop W itself "
        "carries the error.",
    ),
    "sign_angle": (
        "angle of W to its signs (degrees)",
        "Angle between W and its signs, a line a layer; black: mean over the layers. Dashed, on "
        "the same axis: the weight angle under sign-symmetry, whose error travels on the signs "
        "(where magnitudes are random, of the same run).",
    ),
    "delta_angle": (
        "delta angle (degrees)",
        "Angle between a layer's error and that of backprop in the same network, same images; "
        "black: mean over the layers. Circles: released logs, of one image, also beside runs that "
        "did not measure it; red: bounds that a paper states.",
    ),
    "norm_ratio": ("norm ratio", "Norm of B over norm of W; black: mean over the layers."),
    "kurtosis": ("kurtosis of W", "Kurtosis of a layer's weights; black: mean over the layers."),
    "magnitude": ("mean |W|", "Mean absolute value of a layer's weights; black: mean over layers."),
    "sparsity": ("sparsity of W", "Sparsity of a layer's weights; black: mean over the layers."),
}
"""Name in the logs, before the slash, to the upright axis and the text of its picture."""

Style = dict[str, Any]
CIRCLE: Style = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}
STAR: Style = CIRCLE | {"marker": "*", "markersize": 11}
BOUND: Style = {"color": "crimson", "linewidth": 1.4, "linestyle": (0, (6, 2)), "zorder": 5}
MAX_IN_LEGEND = 8  # layers
LONG = 100  # epochs from which their axis is logarithmic


class Line(NamedTuple):
    """A measure of a group; a label that begins with _ is not in the legend."""

    group: Group
    measure: str
    label: str
    style: Style


class Panel(NamedTuple):
    title: str
    unit: str
    lines: list[Line]
    bounds: pd.DataFrame


def draw_learning_curves(groups: Sequence[Group], published: Beside, stem: Path) -> None:
    """Errors (or else losses) over epochs, for each pair of data and model."""
    panels = []
    for task in dict.fromkeys(group.task for group in groups):
        members = [group for group in groups if group.task == task]
        has_errors = any(TEST_ERROR in group.mean for group in members)
        # Dashed and solid in turn, so that lines on top of each other are both seen.
        styles: list[Style] = [
            {"color": colour, "linestyle": ("-", (0, (4, 1.5)))[number % 2]}
            for number, colour in enumerate(_shades(len(members)))
        ]
        for measure, title in (ERRORS if has_errors else LOSSES).items():
            if any(measure in group.mean for group in members):
                pairs = zip(members, styles, strict=True)
                lines = [Line(group, measure, group.label, style) for group, style in pairs]
                unit = "error (%)" if has_errors else "loss"
                panels.append(Panel(f"{task}: {title}", unit, lines, published.bounds[:0]))
    _draw(panels, published.numbers, stem)


def draw_layers(groups: Sequence[Group], measure: str, published: Beside, stem: Path) -> bool:
    """One panel a group, one line a layer; whether there was something to draw."""
    numbers, bounds = published
    layers = {group.label: _layers(group, measure, numbers) for group in groups}
    few = len(set(itertools.chain(*layers.values()))) <= MAX_IN_LEGEND
    panels = []
    for group in groups:
        if names := layers[group.label]:
            ends = ["layer at the input", *["_"] * (len(names) - 2), "layer at the output"]
            lines = _lines(group, measure, names, names if few else ends[-len(names) :], "-")
            for other, measure_beside, text, style in _beside(group, measure, groups):
                names = other.layers(measure_beside)
                lines += _lines(other, measure_beside, names, [text] * len(names), style)
            stated = bounds[(bounds["group"] == group.label) & (bounds["measure"] == measure)]
            panels.append(Panel(group.label, LAYER_MEASURES[measure][0], lines, stated))
    if panels:
        _draw(panels, numbers, stem)
    return bool(panels)


def _layers(group: Group, measure: str, numbers: pd.DataFrame) -> list[str]:
    """Those that have the measure, or else those of which it was published."""
    names = numbers.loc[numbers["group"] == group.label, "our_measure"].unique()
    theirs = [name.partition("/")[2] for name in names if name.startswith(f"{measure}/")]
    return group.layers(measure) or theirs


def _beside(group: Group, measure: str, groups: Sequence[Group]) -> list[tuple[Any, ...]]:
    """Whose other measure a panel shows, what the legend says of it, and its line style."""
    others = [(group, f"{measure}_before_mirror", "before a mirror step", ":")]
    if measure == "sign_angle":  # its own weight angle, or else that of uniform magnitudes
        of_task = [other for other in groups if other.task == group.task]
        signs = [g for g in of_task if g.config["feedback.rule.name"] == "sign_symmetry"]
        signs.sort(key=lambda g: (g is not group, MAGNITUDE in g.config))
        text = "weight angle under sign-symmetry"
        others += [(other, "weight_angle", text, "--") for other in signs[:1]]
    return others


def _lines(
    group: Group, measure: str, layers: list[str], labels: list[str], linestyle: str
) -> list[Line]:
    """From input to output, and the mean over more than two."""
    lines = [
        Line(group, f"{measure}/{layer}", label, {"color": colour, "linestyle": linestyle})
        for layer, label, colour in zip(layers, labels, _shades(len(layers)), strict=True)
    ]
    mean: Style = {"color": "black", "linestyle": linestyle}
    if len(layers) > 2:
        lines.append(Line(group, f"{OVER_LAYERS}/{measure}", "mean over layers", mean))
    return lines


def _draw(panels: Sequence[Panel], numbers: pd.DataFrame, stem: Path) -> None:
    columns = 3 if len(panels) in (5, 6, 9) else min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns + 2, 3.4 * rows), layout="constrained")
    of_unit = len({panel.unit for panel in panels}) == 1
    axes = list(figure.subplots(rows, columns, sharey=of_unit, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    legend: dict[str, Any] = {}
    for number, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
        for line in panel.lines:
            _draw_line(axis, line, numbers)
        last = max(line.group.epochs for line in panel.lines)
        for bound in panel.bounds.itertuples():
            limits = [limit for limit in (bound.below, bound.above) if pd.notna(limit)]
            ends = [min(bound.from_epoch, 0.8 * last), max(bound.from_epoch, last)]
            height = [*limits, 0.0][0]  # "near zero" has no number
            axis.plot(ends, [height, height], label="bound of the paper", **BOUND)
        axis.set_title(textwrap.fill(panel.title, 34, break_on_hyphens=False), fontsize=10)
        axis.set(xlabel="epoch", ylabel="" if number % columns else panel.unit)
        axis.grid(alpha=0.3)
        handles, labels = axis.get_legend_handles_labels()
        legend = dict(zip(labels, handles, strict=True)) | legend
    spans = [axis.dataLim.intervaly for axis in figure.axes]
    for axis, panel in zip(axes, panels, strict=False):
        _scale(axis, panel.unit, min(low for low, _ in spans), max(high for _, high in spans))
    figure.legend(legend.values(), legend, loc="outside right center", fontsize=9)
    _save(figure, stem)


def _draw_line(axis: Any, line: Line, numbers: pd.DataFrame) -> None:
    """With its standard error, and what was published of it."""
    group, measure, label, style = line
    colour, label = style["color"], textwrap.fill(label, 32, break_on_hyphens=False)
    if measure in group.mean:
        mean, error = group.mean[measure], group.error[measure]
        axis.plot(mean.index, mean, label=label, **style)
        # A point without neighbours makes no line.
        alone = mean[mean.notna() & mean.shift().isna() & mean.shift(-1).isna()]
        axis.plot(alone.index, alone, color=colour, marker="o", markersize=4, linestyle="none")
        if error.notna().any():
            axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.2)
    measures = [measure, BEST_ERROR] if measure == TEST_ERROR else [measure]
    rows = numbers[(numbers["group"] == group.label) & numbers["our_measure"].isin(measures)]
    for row in rows.itertuples():
        mark = STAR if row.our_measure == BEST_ERROR else CIRCLE
        if row.epoch:
            axis.errorbar(row.epoch, row.theirs, yerr=row.theirs_error, color=colour, **mark)
            axis.plot([], [], label="published", color="grey", **CIRCLE)
        else:
            axis.axhline(row.theirs, color=colour, linestyle=":", linewidth=1.2)


def _scale(axis: Any, unit: str, low: float, high: float) -> None:
    """Errors by logarithm but near 0, angles to a right angle or as far as any goes, ratios of
    several magnitudes and many epochs by logarithm.
    """
    if unit == "error (%)":
        axis.set_yscale("symlog", linthresh=0.1, linscale=0.4)
        axis.set_yticks([0, 0.1, 0.3, 1, 3, 10, 30, 100])
        axis.set_ylim(low / 3 if low > 1 else 0, 110)
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    elif "degrees" in unit:
        axis.set_yticks(range(0, int(max(95, high + 3)), 15))
        axis.set_ylim(-3, max(95, high + 3))
    elif unit == "norm ratio" and 0 < 10 * low < high:
        axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    if axis.dataLim.x1 >= LONG:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.0f}")
    else:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _shades(count: int) -> list[Any]:
    """Dark to light, told apart by colour-blind readers; viridis' lightest end is lost on white."""
    shades = [0.85 * index / max(count - 1, 1) for index in range(count)]
    return list(matplotlib.colormaps["viridis"](shades))


def _save(figure: Figure, stem: Path) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all is in its place, which took most of the time
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)
