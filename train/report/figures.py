"""The report's pictures, as PNG and SVG."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.report.groups import TEST_ERROR, TRAIN_ERROR, Estimate, Group
from train.report.published import HIDDEN_DELTA_ANGLE, INPUT_ANGLE, OUTPUT_ANGLE, Published

COLUMNS = 4
MAX_IN_LEGEND = 8
LONG = 100  # epochs from which their axis is logarithmic

Beside = dict[str, list[Published]]
"""Label of a group to the published cells beside it."""


@dataclasses.dataclass(frozen=True)
class LayerMeasure:
    """Something that every layer has one of at every epoch.

    Args:
        name: As in the logs, before the slash.
        title: Of the picture.
        unit: Of its upright axis.
        text: What it shows and how to read it.
    """

    name: str
    title: str
    unit: str
    text: str

    @property
    def stem(self) -> str:
        """Of the picture's files."""
        return self.title.lower().replace(" ", "_")

    @property
    def is_angle(self) -> bool:
        return self.name.endswith("angle")


LAYER_MEASURES = (
    LayerMeasure(
        "weight_angle",
        "Weight angles",
        "weight angle (degrees)",
        "Angle between W and what carries the error back, at the end of every epoch, a line a "
        "layer; dotted: just before a mirror step. The layer at the input sends no error back: its "
        "angle has no effect. Circles are published angles, of the layers at input and output. "
        "Under backprop W itself carries the error.",
    ),
    LayerMeasure(
        "delta_angle",
        "Delta angles",
        "delta angle (degrees)",
        "Angle between a layer's error and that of backprop in the same network, same images.",
    ),
    LayerMeasure("norm_ratio", "Norm ratios", "norm ratio", "Norm of B over norm of W."),
    LayerMeasure("kurtosis", "Kurtosis", "kurtosis of W", "Kurtosis of a layer's weights."),
    LayerMeasure("magnitude", "Magnitude", "mean |W|", "Mean absolute value of a layer's weights."),
    LayerMeasure("sparsity", "Sparsity", "sparsity of W", "Sparsity of a layer's weights."),
)


PUBLISHED_ANGLES = {
    "weight_angle": {INPUT_ANGLE: 0, OUTPUT_ANGLE: -1},
    "delta_angle": {HIDDEN_DELTA_ANGLE: 0},
}
"""Measure to the published angles beside it, and the place of their layer."""


def draw_learning_curves(groups: Sequence[Group], beside: Beside, stem: Path) -> None:
    """Test and training errors over epochs; a row of panels for each pair of data and model."""
    pyplot = _pyplot()
    tasks = list(dict.fromkeys(group.task for group in groups))
    figure, axes = pyplot.subplots(
        len(tasks),
        2,
        figsize=(9, 3.8 * len(tasks)),
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, task in zip(axes, tasks, strict=True):
        members = [group for group in groups if group.task == task]
        # Dashed and solid in turn, so that lines on top of each other are both seen.
        styles = [
            {"color": colour, "linestyle": ("-", (0, (4, 1.5)))[number % 2], "linewidth": 1.8}
            for number, colour in enumerate(_shades(len(members)))
        ]
        for axis, measure, title in zip(
            row, (TEST_ERROR, TRAIN_ERROR), ("test", "training"), strict=True
        ):
            for group, style in zip(members, styles, strict=True):
                _draw_errors(axis, group, measure, style, beside[group.label])
            axis.set_title(f"{task}: {title} images", fontsize=10)
            _dress_epochs(axis, max(group.epochs for group in members))
            _dress_errors(axis)
        row[0].set_ylabel("error (%)")
        lines = [pyplot.Line2D([], [], **style) for style in styles]
        names = [group.label.removeprefix(f"{task}, ") for group in members]
        if any(
            published.measures.get(TEST_ERROR) for g in members for published in beside[g.label]
        ):
            lines.append(_circle(pyplot, "grey"))
            names.append("published")
        row[1].legend(lines, names, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    _save(figure, stem)


def draw_layers(groups: Sequence[Group], measure: LayerMeasure, beside: Beside, stem: Path) -> bool:
    """One panel a group, one line a layer; whether there was anything to draw."""
    shown = [group for group in groups if group.layers(measure.name)]
    if not shown:
        return False
    pyplot = _pyplot()
    columns = 3 if len(shown) in (5, 6, 9) else min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(2.9 * columns + 0.6, 3.2 * rows),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, group in zip(axes.flat, shown, strict=False):
        _draw_panel(axis, group, measure, beside[group.label])
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    if measure.name == "norm_ratio":
        _spread_ratios(axes[0, 0])
    if measure.is_angle:
        _show_angles(axes[0, 0])
    for row in axes:
        row[0].set_ylabel(measure.unit)
    _explain_layers(figure, axes, [group.layers(measure.name) for group in shown])
    _save(figure, stem)
    return True


def _draw_errors(
    axis: Any, group: Group, measure: str, style: dict[str, Any], published: Sequence[Published]
) -> None:
    _draw_line(axis, group, measure, **style)
    for cell in published:
        for epoch, value in _while_ours_ran(cell, measure, group):
            axis.errorbar([epoch], [value.mean], yerr=[value.error or 0.0], color=style["color"])
            axis.plot([epoch], [value.mean], **_circle_style(style["color"]))


def _while_ours_ran(cell: Published, measure: str, group: Group) -> list[tuple[int, Estimate]]:
    """Published numbers of known epochs, up to the last one of ours."""
    numbers = cell.measures.get(measure, {})
    return [(epoch, value) for epoch, value in numbers.items() if 0 < epoch <= group.epochs]


def _draw_panel(
    axis: Any, group: Group, measure: LayerMeasure, published: Sequence[Published]
) -> None:
    layers = group.layers(measure.name)
    colours = _shades(len(layers))
    before = f"{measure.name}_before_mirror"
    for layer, colour in zip(layers, colours, strict=True):
        _draw_line(axis, group, f"{measure.name}/{layer}", color=colour, linewidth=1.8)
        if layer in group.layers(before):
            _draw_line(axis, group, f"{before}/{layer}", color=colour, linewidth=1.1, linestyle=":")
    for angle, place in PUBLISHED_ANGLES.get(measure.name, {}).items():
        for cell in published:
            for epoch, value in _while_ours_ran(cell, angle, group):
                axis.plot([epoch], [value.mean], **_circle_style(colours[place]))
    axis.set_title(_in_lines(group.label), fontsize=10)
    _dress_epochs(axis, group.epochs)


def _draw_line(axis: Any, group: Group, measure: str, **style: Any) -> None:
    values = group.over_epochs(measure)
    epochs, means = list(values), [value.mean for value in values.values()]
    axis.plot(epochs, means, **style)
    if len(group.runs) > 1:
        errors = [value.error or 0.0 for value in values.values()]
        low = [mean - error for mean, error in zip(means, errors, strict=True)]
        high = [mean + error for mean, error in zip(means, errors, strict=True)]
        axis.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _dress_epochs(axis: Any, epochs: int) -> None:
    from matplotlib import ticker

    axis.set_xlabel("epoch")
    if epochs >= LONG:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    else:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)


def _dress_errors(axis: Any) -> None:
    from matplotlib import ticker

    axis.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    axis.set_ylim(0, 110)
    axis.set_yticks([0, 0.1, 0.3, 1, 3, 10, 30, 100])
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def _spread_ratios(axis: Any) -> None:
    """A logarithmic scale for ratios of different magnitudes; the panels share it."""
    from matplotlib import ticker

    lines = [line for panel in axis.figure.axes for line in panel.lines]
    values = [value for line in lines for value in line.get_ydata()]
    if min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))


def _show_angles(axis: Any) -> None:
    """From 0 to a right angle, and as far as any angle goes; the panels share it."""
    lines = [line for panel in axis.figure.axes for line in panel.lines]
    top = max(95.0, *(value + 3 for line in lines for value in line.get_ydata()))
    axis.set_yticks(range(0, int(top), 15))
    axis.set_ylim(-3, top)


def _explain_layers(figure: Any, axes: Any, layers: Sequence[list[str]]) -> None:
    """A legend if all panels have the same few layers, else the scale from input to output."""
    import matplotlib

    pyplot = _pyplot()
    if all(names == layers[0] for names in layers) and len(layers[0]) <= MAX_IN_LEGEND:
        colours = _shades(len(layers[0]))
        lines = [pyplot.Line2D([], [], color=colour, linewidth=2) for colour in colours]
        axes[0, -1].legend(
            lines,
            layers[0],
            title="layer, input to output",
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            fontsize=9,
            title_fontsize=9,
        )
        return
    colour_map = matplotlib.colors.ListedColormap(_shades(256))
    scale = pyplot.cm.ScalarMappable(cmap=colour_map)
    kept = [axis for axis in axes.flat if axis.figure is not None]
    bar = figure.colorbar(scale, ax=kept, ticks=[0, 1], fraction=0.03, pad=0.02, label="layer")
    bar.ax.set_yticklabels(["input", "output"])


def _shades(count: int) -> list[Any]:
    """Dark to light, told apart by colour-blind readers; viridis' lightest end is lost on white."""
    shades = [0.85 * index / max(count - 1, 1) for index in range(count)]
    return list(_pyplot().get_cmap("viridis")(shades))


def _circle_style(colour: Any) -> dict[str, Any]:
    return {
        "marker": "o",
        "markersize": 6,
        "markerfacecolor": "none",
        "markeredgecolor": colour,
        "markeredgewidth": 1.4,
        "linestyle": "none",
    }


def _circle(pyplot: Any, colour: Any) -> Any:
    return pyplot.Line2D([], [], **_circle_style(colour))


def _in_lines(label: str, width: int = 32) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(label, width))


def _save(figure: Any, stem: Path) -> None:
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110, bbox_inches="tight")
    _pyplot().close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
