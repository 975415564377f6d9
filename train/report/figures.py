"""The report's pictures, as PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
        "black: mean over the layers. Circles: released logs, of one image; red: bounds that a "
        "paper states.",
    ),
    "norm_ratio": ("norm ratio", "Norm of B over norm of W; black: mean over the layers."),
    "kurtosis": ("kurtosis of W", "Kurtosis of a layer's weights; black: mean over the layers."),
    "magnitude": ("mean |W|", "Mean absolute value of a layer's weights; black: mean over layers."),
    "sparsity": ("sparsity of W", "Sparsity of a layer's weights; black: mean over the layers."),
}
"""Name in the logs, before the slash, to the upright axis and the text of its picture."""

Style = dict[str, Any]
MEAN: Style = {"color": "black", "linewidth": 1.8}
CIRCLE: Style = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}
STAR: Style = CIRCLE | {"marker": "*", "markersize": 11}
BOUND: Style = {"color": "crimson", "linewidth": 1.4, "linestyle": (0, (6, 2)), "zorder": 5}
MAX_IN_LEGEND = 8
LONG = 100  # epochs from which their axis is logarithmic


def draw_learning_curves(groups: Sequence[Group], numbers: pd.DataFrame, stem: Path) -> None:
    """Errors (or else losses) over epochs; a row of panels for each pair of data and model."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    shown = {task: _curves(members) for task, members in tasks.items()}
    columns = max(map(len, shown.values()))
    figure = Figure(figsize=(4.3 * columns + 2, 3.8 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), columns, sharey="row", squeeze=False)
    for row, (task, members) in zip(axes, tasks.items(), strict=True):
        # Dashed and solid in turn, so that lines on top of each other are both seen.
        styles: list[Style] = [
            {"color": colour, "linestyle": ("-", (0, (4, 1.5)))[number % 2], "linewidth": 1.8}
            for number, colour in enumerate(_shades(len(members)))
        ]
        for axis, (measure, title) in zip(row, shown[task].items(), strict=False):
            for group, style in zip(members, styles, strict=True):
                _draw(axis, group, measure, **style)
                for theirs in [measure, BEST_ERROR] if measure == TEST_ERROR else [measure]:
                    _mark(axis, numbers, group, theirs, style["color"])
            _dress(axis, _in_lines(f"{task}: {title}", 44))
        for axis in row[len(shown[task]) :]:
            axis.set_axis_off()
        _dress_upright(row, "error (%)" if TEST_ERROR in shown[task] else "loss")
        handles = [Line2D([], [], **style) for style in styles]
        names = [_in_lines(group.label.removeprefix(f"{task}, ")) for group in members]
        row[-1].legend(handles, names, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    _save(figure, stem)


def _curves(members: Sequence[Group]) -> dict[str, str]:
    """Measure to title of the errors that some of the groups have, or else of their losses."""
    curves = ERRORS if any(TEST_ERROR in group.mean for group in members) else LOSSES
    return {m: title for m, title in curves.items() if any(m in group.mean for group in members)}


def draw_layers(
    groups: Sequence[Group], measure: str, published: Beside, stem: Path
) -> list[Group]:
    """One panel a group, one line a layer; the groups that there was something to draw of."""
    shown = [group for group in groups if group.layers(measure)]
    if not shown:
        return []
    columns = 3 if len(shown) in (5, 6, 9) else min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.8, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    extra: dict[str, Line2D] = {}
    for axis, group in zip(axes.flat, shown, strict=False):
        for source, name, style in _lines(group, measure, groups):
            extra |= _draw_panel(axis, source, name, style, published)
        _dress(axis, _in_lines(group.label, 28))
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    for row in axes:
        row[0].set_ylabel(LAYER_MEASURES[measure][0])
    _dress_upright(list(axes.flat)[: len(shown)], LAYER_MEASURES[measure][0])
    _explain(figure, [group.layers(measure) for group in shown], extra)
    _save(figure, stem)
    return shown


def _lines(group: Group, measure: str, groups: Sequence[Group]) -> list[tuple[Group, str, str]]:
    """Whose measure a group's panel shows, and in which line style."""
    others = [(group, f"{measure}_before_mirror", ":")]
    if measure == "sign_angle":
        symmetric = [g for g in groups if g.task == group.task and _magnitude(g)]
        symmetric.sort(key=lambda g: (g is not group, _magnitude(g) != "uniform"))
        others = [(g, "weight_angle", "--") for g in symmetric[:1]]
    return [(group, measure, "-"), *(line for line in others if line[0].layers(line[1]))]


def _draw_panel(
    axis: Any, group: Group, measure: str, linestyle: str, published: Beside
) -> dict[str, Line2D]:
    """Returns what the legend has to explain beside the layers: name to handle."""
    names = {":": "before a mirror step", "--": "weight angle under\nsign-symmetry"}
    extra = {
        n: Line2D([], [], color="grey", linestyle=s) for s, n in names.items() if s == linestyle
    }
    layers = group.layers(measure)
    width = 1.8 if linestyle == "-" else 1.1
    for layer, colour in zip(layers, _shades(len(layers)), strict=True):
        name = f"{measure}/{layer}"
        _draw(axis, group, name, color=colour, linestyle=linestyle, linewidth=width)
        if _mark(axis, published.numbers, group, name, colour):
            extra["published"] = Line2D([], [], color="grey", **CIRCLE)
    if len(layers) > 2 and linestyle != ":":
        _draw(axis, group, f"{OVER_LAYERS}/{measure}", linestyle=linestyle, **MEAN)
        extra["mean over layers"] = Line2D([], [], **MEAN)
    bounds = published.bounds[published.bounds["group"] == group.label]
    for bound in bounds[bounds["measure"] == measure].itertuples():
        limits = [limit for limit in (bound.below, bound.above) if pd.notna(limit)]
        ends = [min(bound.from_epoch, 0.8 * group.epochs), max(bound.from_epoch, group.epochs)]
        axis.plot(ends, [*limits, 0.0][:1] * 2, **BOUND)  # "near zero" has no number
        extra["bound of the paper"] = Line2D([], [], **BOUND)
    return extra


def _draw(axis: Any, group: Group, measure: str, **style: Any) -> None:
    if measure not in group.mean:
        return
    mean, error = group.mean[measure], group.error[measure]
    axis.plot(mean.index, mean, **style)
    # A point without neighbours makes no line.
    alone = mean[mean.notna() & mean.shift().isna() & mean.shift(-1).isna()]
    axis.plot(alone.index, alone, color=style["color"], marker="o", markersize=4, linestyle="none")
    if error.notna().any():
        band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
        axis.fill_between(mean.index, mean - error, mean + error, **band)


def _mark(axis: Any, numbers: pd.DataFrame, group: Group, measure: str, colour: Any) -> bool:
    """Published numbers at their epochs; of an epoch that is not said, a line through all."""
    mark = STAR if measure == BEST_ERROR else CIRCLE
    rows = numbers[(numbers["group"] == group.label) & (numbers["our_measure"] == measure)]
    for row in rows.itertuples():
        if row.epoch:
            axis.errorbar(row.epoch, row.theirs, yerr=row.theirs_error, color=colour, **mark)
        else:
            axis.axhline(row.theirs, color=colour, linestyle=":", linewidth=1.2)
    return len(rows) > 0


def _dress(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("epoch")
    axis.grid(alpha=0.3)
    if axis.dataLim.x1 >= LONG:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    else:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _dress_upright(axes: Sequence[Any], unit: str) -> None:
    """Errors by logarithm but near 0, angles to a right angle or as far as any goes, ratios of
    several magnitudes by logarithm. The panels share the scale.
    """
    drawn = [value for axis in axes for line in axis.lines for value in line.get_ydata()]
    values = pd.Series(drawn, dtype=float).dropna()
    axis, low, high = axes[0], values.min(), values.max()
    axis.set_ylabel(unit)
    if unit == "error (%)":
        axis.set_yscale("symlog", linthresh=0.1, linscale=0.4)
        axis.set_yticks([0, 0.1, 0.3, 1, 3, 10, 30, 100])
        axis.set_ylim(low / 3 if low > 1 else 0, 110)
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    elif "degrees" in unit:
        axis.set_yticks(range(0, int(max(95.0, high + 3)), 15))
        axis.set_ylim(-3, max(95.0, high + 3))
    elif unit == "norm ratio" and 0 < 10 * low < high:
        axis.set_yscale("log")
    else:
        return
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))


def _explain(figure: Figure, layers: Sequence[list[str]], extra: dict[str, Line2D]) -> None:
    """A legend if all panels have the same few layers, else the scale from input to output."""
    handles, title = {}, None
    if all(names == layers[0] for names in layers) and len(layers[0]) <= MAX_IN_LEGEND:
        title = "layer, input to output"
        for name, colour in zip(layers[0], _shades(len(layers[0])), strict=True):
            handles[_in_lines(name)] = Line2D([], [], color=colour, linewidth=2)
    else:
        scale = matplotlib.cm.ScalarMappable(cmap=matplotlib.colors.ListedColormap(_shades(256)))
        bar = figure.colorbar(scale, ax=figure.axes, ticks=[0, 1], fraction=0.03, label="layer")
        bar.ax.set_yticklabels(["input", "output"])
    handles |= extra
    place: Style = {"loc": "outside right center", "fontsize": 9, "title_fontsize": 9}
    if handles:
        figure.legend(handles.values(), handles, title=title, **place)


def _magnitude(group: Group) -> Any:
    """Of sign-symmetry; None under other rules."""
    is_symmetry = group.config["feedback.rule.name"] == "sign_symmetry"
    return group.config.get("feedback.rule.options.magnitude", "uniform") if is_symmetry else None


def _shades(count: int) -> list[Any]:
    """Dark to light, told apart by colour-blind readers; viridis' lightest end is lost on white."""
    shades = [0.85 * index / max(count - 1, 1) for index in range(count)]
    return list(matplotlib.colormaps["viridis"](shades))


def _in_lines(label: str, width: int = 32) -> str:
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False))


def _save(figure: Figure, stem: Path) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all is in its place, which took most of the time
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)
