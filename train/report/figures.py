"""The report's pictures, as PNG and SVG."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from train.report.configs import MAGNITUDE
from train.report.frames import BEST_ERROR, OVER_LAYERS, TEST_ERROR, TOP_5_ERROR, TRAIN_ERROR, Group
from train.report.published import Beside

ERRORS = {TEST_ERROR: "test error", TRAIN_ERROR: "training error", TOP_5_ERROR: "top-5 test error"}
LOSSES = {
    "val_loss": "test loss",
    "loss": "training loss",
    "box_loss": "training loss of boxes",
    "class_loss": "training loss of their classes",
}
OVER_STEPS = (
    "Training losses over training steps, means over the steps since the last point "
    "(training.losses_every); of a detector the loss of its boxes, the focal loss of their classes "
    "and the sum, as figure 2 of Xiao et al. 2018. Means over seeds."
)
CURVES = (
    "At the end of every epoch. The upright scale of errors is logarithmic above 0.1 % and linear "
    "below. Bands are standard errors. Published: circles; stars are the smallest of all epochs, "
    "at the last one; dotted lines are numbers of an epoch that is not said."
)
LAYER_MEASURES = {
    "weight_angle": (
        "weight angle (degrees)",
        "Angle between W and what carries the error back, at the end of every epoch, a line a "
        "layer; dotted: just before a mirror step; black: mean over the layers that send an error "
        "back. Layers that read an input send none: their angle has no effect. Circles are "
        "published angles, of the "
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
    "zeros": ("zeros in W", "Share of a layer's weights that are 0; black: mean over the layers."),
    "shared_angle": (
        "angle over shared entries (degrees)",
        "Weight angle over the entries that W and B both have under masks of their own, a line a "
        "layer; black: mean over the layers.",
    ),
    "sign_flips": (
        "sign flips",
        "Share of a layer's weights on the other side of 0 than an epoch before; black: mean over "
        "the layers.",
    ),
    "sign_attempts": (
        "attempted sign flips a weight",
        "How often in an epoch an update would have taken a weight across 0, per weight; black: "
        "mean over the layers.",
    ),
}
"""Name in the logs, before the slash, to the upright axis and the text of its picture."""

Style = dict[str, Any]
CIRCLE: Style = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}
STAR: Style = CIRCLE | {"marker": "*", "markersize": 11}
BOUND: Style = {"color": "crimson", "linewidth": 1.4, "linestyle": (0, (6, 2)), "zorder": 5}
MAX_IN_LEGEND = 8  # layers
LONG = 100  # epochs from which their axis is logarithmic


def draw_learning_curves(groups: Sequence[Group], published: Beside, stem: Path) -> None:
    """Errors (or else losses) over epochs, for each pair of data and model."""
    panels = {}
    for task in dict.fromkeys(group.task for group in groups):
        members = [group for group in groups if group.task == task]
        has_errors = any(TEST_ERROR in group.mean for group in members)
        unit, measures = ("error (%)", ERRORS) if has_errors else ("loss", LOSSES)
        for measure, title in measures.items():
            if any(measure in group.mean for group in members):
                panels[f"{task}: {title}"] = (unit, measure, members)
    with _picture({title: unit for title, (unit, *_) in panels.items()}, stem) as axes:
        for axis, (_, measure, members) in zip(axes, panels.values(), strict=True):
            for number, (group, colour) in enumerate(zip(members, _shades(members), strict=True)):
                # Dashed and solid in turn, so that lines on top of each other are both seen.
                style = {"color": colour, "linestyle": ("-", (0, (4, 1.5)))[number % 2]}
                _draw(axis, group, measure, published.numbers, label=group.label, **style)


def draw_losses(groups: Sequence[Group], stem: Path) -> bool:
    """Training losses over steps, for each pair of data and model; whether there were some."""
    panels: dict[str, tuple[str, list[Group]]] = {}
    for task in dict.fromkeys(group.task for group in groups):
        for measure in ("box_loss", "class_loss", "loss"):
            members = [g for g in groups if g.task == task and measure in g.losses]
            if members:
                panels[f"{task}: {measure.replace('_', ' ')}"] = (measure, members)
    if panels:
        units = {title: LOSSES[measure] for title, (measure, _) in panels.items()}
        with _picture(units, stem, along="training step") as axes:
            for axis, (measure, members) in zip(axes, panels.values(), strict=True):
                for group, colour in zip(members, _shades(members), strict=True):
                    line = group.losses[measure].dropna()
                    axis.plot(line.index, line, color=colour, label=_legend(group.label))
    return bool(panels)


def draw_layers(groups: Sequence[Group], measure: str, published: Beside, stem: Path) -> bool:
    """One panel a group, one line a layer; whether there was something to draw."""
    numbers, bounds = published
    pairs = [(group, _layers(group, measure, numbers)) for group in groups]
    pairs = [(group, names) for group, names in pairs if names]
    if not pairs:
        return False
    alike = all(names == pairs[0][1] for _, names in pairs) and len(pairs[0][1]) <= MAX_IN_LEGEND
    unit = LAYER_MEASURES[measure][0]
    with _picture({group.label: unit for group, _ in pairs}, stem) as axes:
        for axis, (group, names) in zip(axes, pairs, strict=True):
            ends = ["layer at the input", *["_"] * (len(names) - 2), "layer at the output"]
            labels, last = names if alike else ends[-len(names) :], group.epochs
            _draw_layers(axis, group, measure, numbers, dict(zip(names, labels, strict=True)), "-")
            for other, beside, text, linestyle in _beside(group, measure, groups):
                labelled = dict.fromkeys(other.layers(beside), text)
                _draw_layers(axis, other, beside, numbers, labelled, linestyle)
            of_group = (bounds["group"] == group.label) & (bounds["measure"] == measure)
            for bound in bounds[of_group].itertuples():
                epochs = [min(bound.from_epoch, 0.8 * last), max(bound.from_epoch, last)]
                height = pd.Series([bound.below, bound.above, 0.0]).dropna().iloc[0]  # near zero: 0
                axis.plot(epochs, [height, height], label="bound of the paper", **BOUND)
    return True


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


def _draw_layers(
    axis: Any, group: Group, measure: str, numbers: pd.DataFrame, layers: dict[str, str], line: str
) -> None:
    """Layers and their labels, from input to output, and the mean over more than two."""
    for (layer, label), colour in zip(layers.items(), _shades(layers), strict=True):
        style = {"color": colour, "linestyle": line}
        _draw(axis, group, f"{measure}/{layer}", numbers, label=label, **style)
    if len(layers) > 2:
        style = {"color": "black", "linestyle": line}
        _draw(axis, group, f"{OVER_LAYERS}/{measure}", numbers, label="mean over layers", **style)


def _draw(axis: Any, group: Group, measure: str, numbers: pd.DataFrame, **style: Any) -> None:
    """A measure with its standard error, and what was published of it."""
    colour = style["color"]
    if measure in group.mean:
        mean, error = group.mean[measure], group.error[measure]
        style["label"] = _legend(style["label"])
        # A point without neighbours makes no line.
        alone = mean[mean.notna() & mean.shift().isna() & mean.shift(-1).isna()]
        axis.plot(alone.index, alone, color=colour, marker="o", markersize=4, linestyle="none")
        axis.plot(mean.index, mean, **style)
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


@contextlib.contextmanager
def _picture(panels: Mapping[str, str], stem: Path, along: str = "epoch") -> Iterator[list[Any]]:
    """Panels, each with a title and a unit, to draw in; then what they share, and it is saved."""
    columns = 3 if len(panels) in (5, 6, 9) else min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns + 2, 3.4 * rows), layout="constrained")
    one_unit = len(set(panels.values())) == 1
    axes = list(figure.subplots(rows, columns, sharey=one_unit, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    yield figure.axes
    spans = [axis.dataLim.intervaly for axis in figure.axes]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    legend: dict[str, Any] = {}
    for number, (axis, (title, unit)) in enumerate(zip(figure.axes, panels.items(), strict=True)):
        axis.set_title(textwrap.fill(title, 34, break_on_hyphens=False), fontsize=10)
        axis.set(xlabel=along, ylabel="" if number % columns else unit)
        axis.grid(alpha=0.3)
        _scale(axis, unit, low, high, along)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
    shared = figure.legend(legend.values(), legend, loc="outside right center", fontsize=9)
    figure.draw_without_rendering()
    height = shared.get_window_extent().height / figure.dpi + 0.2
    if height > figure.get_figheight():  # many labels beside few panels
        figure.set_figheight(height)
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all is in its place, which took most of the time
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)


def _scale(axis: Any, unit: str, low: float, high: float, along: str) -> None:
    """Angles to a right angle at least; errors, what spans much, and many epochs by logarithm."""
    if unit == "error (%)":
        axis.set_yscale("symlog", linthresh=0.1, linscale=0.4)
        close = [15, 20, 40, 50, 60, 70, 80, 90] if high < 4 * low else []
        axis.set_yticks([0, 0.1, 0.3, 1, 3, 10, 30, 100, *close])
        axis.set_ylim(low / 1.1 if low > 1 else 0, max(1, min(110, 1.1 * high)))
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    elif "degrees" in unit:
        axis.set_yticks(range(0, int(max(95, high + 3)), 15))
        axis.set_ylim(-3, max(95, high + 3))
    elif unit in ("norm ratio", "kurtosis of W", "mean |W|") and 0 < 10 * low < high:
        axis.set_yscale("log")
        axis.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    if axis.dataLim.x1 >= LONG and along == "epoch":
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.0f}")
    else:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _legend(label: str) -> str:
    """Lines of a legend, whole words."""
    return textwrap.fill(label, 32, break_on_hyphens=False, break_long_words=False)


def _shades(things: Collection[Any]) -> list[Any]:
    """Dark to light, told apart by colour-blind readers; viridis' lightest end is lost on white."""
    shades = [0.85 * index / max(len(things) - 1, 1) for index in range(len(things))]
    return list(matplotlib.colormaps["viridis"](shades))
