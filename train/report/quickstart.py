"""What the quickstart shows at its end: a table, a picture, a JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CAPTION = (
    "Angle between the forward weights W and what carries the error back, at the end of every "
    "epoch. The first layer sends no error back and is left out.\n"
    "Backprop (BP) carries errors through W itself. Balanced WM is flat at zero by construction: "
    "after every batch, a sweep of orthogonal noise identifies W exactly from the layer's linear,\n"
    "noise-free response, so training equals backprop up to rounding, and its accuracy says "
    "nothing about learning with imperfect feedback. Dotted: its angle after one step of W, just\n"
    "before the next sweep."
)


@dataclasses.dataclass(frozen=True)
class RuleResult:
    """One rule's run.

    Args:
        label: For table and picture.
        test_accuracy: Share of the test images at the last epoch.
        angles_deg: Layer to weight angle in degrees, one an epoch; layers that send an error back,
            from input to output. Empty under plain backprop.
        angles_before_mirror_deg: The same just before a mirror step; empty without one.
        noise_samples_per_image: Noise samples fired per training image, all layers one after
            another.
        seconds: Of the whole run, compilation and evaluation included.
    """

    label: str
    test_accuracy: float
    angles_deg: dict[str, list[float]]
    angles_before_mirror_deg: dict[str, list[float]]
    noise_samples_per_image: float
    seconds: float


def table(results: Sequence[RuleResult]) -> str:
    """One line a rule, for the terminal."""
    layers = _layers(results)
    header = ["rule", "test accuracy", *layers, "noise samples", "time"]
    units = ["", "%", *["degrees"] * len(layers), "per image", "s"]
    rows = [
        [
            result.label,
            f"{100 * result.test_accuracy:.1f}",
            *[_angle(result.angles_deg.get(layer)) for layer in layers],
            f"{result.noise_samples_per_image:.0f}",
            f"{result.seconds:.1f}",
        ]
        for result in results
    ]
    lines = [header, units, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(2, "-" * max(map(len, text)))
    return "\n".join(text)


def write_json(results: Sequence[RuleResult], path: Path) -> None:
    """Everything the table and the picture show."""
    path.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=2) + "\n")


def plot_angles(results: Sequence[RuleResult], path: Path) -> None:
    """One panel a rule, one line a layer, in a scale that colour-blind readers can tell apart."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = _layers(results)
    # Dark for the first layer, light for the last; viridis' lightest end is lost on white.
    shades = [0.85 * index / max(len(layers) - 1, 1) for index in range(len(layers))]
    colours = dict(zip(layers, pyplot.get_cmap("viridis")(shades), strict=True))
    figure, axes = pyplot.subplots(
        1, len(results), sharex=True, sharey=True, figsize=(2.9 * len(results), 4.2), squeeze=False
    )
    for axis, result in zip(axes[0], results, strict=True):
        _draw_panel(axis, result, colours)
    axes[0, 0].set_ylabel("weight angle (degrees)")
    lines = [pyplot.Line2D([], [], color=colours[layer], linewidth=2) for layer in layers]
    figure.legend(
        lines, layers, title="layer, input to output", loc="center left", bbox_to_anchor=(1, 0.6)
    )
    figure.tight_layout()
    figure.text(0.01, -0.01, CAPTION, fontsize=9, va="top")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _draw_panel(axis: Any, result: RuleResult, colours: dict[str, Any]) -> None:
    for layer, angles in result.angles_deg.items():
        epochs = range(1, len(angles) + 1)
        axis.plot(epochs, angles, color=colours[layer], linewidth=2)
        before = result.angles_before_mirror_deg.get(layer)
        if before is not None:
            axis.plot(epochs, before, color=colours[layer], linewidth=1.2, linestyle=":")
    if not result.angles_deg:
        text = "no feedback weights:\nW carries the error"
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center")
    accuracy = f"{100 * result.test_accuracy:.1f} % of the test images"
    axis.set_title(f"{result.label}\n{accuracy}", fontsize=10)
    axis.set_xlabel("epoch")
    axis.set_ylim(-3, 93)
    axis.set_yticks(range(0, 91, 15))
    axis.grid(alpha=0.3)


def _layers(results: Sequence[RuleResult]) -> list[str]:
    """Those of a rule that has feedback weights, from input to output."""
    return max((list(result.angles_deg) for result in results), key=len)


def _angle(angles_deg: list[float] | None) -> str:
    if angles_deg is None:
        return "W itself"
    return f"{angles_deg[-1]:.2f}" if angles_deg[-1] >= 0.01 else "< 0.01"
