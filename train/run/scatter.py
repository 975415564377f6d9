"""The picture of feedback weights against forward weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_PANELS = 24
COLUMNS = 4
SIDE_INCHES = 2.4


@dataclasses.dataclass(frozen=True)
class Panel:
    """One layer.

    Args:
        title: Its name.
        W: Entries of the forward kernel.
        B: Entries at the same places of what carries the error.
    """

    title: str
    W: np.ndarray
    B: np.ndarray


def scatter_image(panels: Sequence[Panel]) -> np.ndarray:
    """B against W, a panel a layer, as (height, width, 3) bytes.

    Of more than 24 layers, 24 evenly spread ones, the first and the last among them. The dashed
    line is B = W; each axis has a scale of its own.
    """
    if len(panels) > MOST_PANELS:
        places = np.linspace(0, len(panels) - 1, MOST_PANELS).round().astype(int)
        panels = [panels[place] for place in places]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(columns * SIDE_INCHES, rows * SIDE_INCHES), dpi=90)
    canvas = FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        axes.plot(panel.W, panel.B, ".", markersize=2, alpha=0.4, rasterized=True)
        axes.axline((0, 0), slope=1, color="black", linewidth=0.7, linestyle="--")
        axes.set_title(panel.title, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_xlabel("W", fontsize=7)
        axes.set_ylabel("B", fontsize=7)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.tight_layout()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
