"""What a detector finds on test images, in numbers and in pictures, while it trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from train.data.splits import Share
from train.detection.losses import RetinaNetLoss
from train.detection.precision import NEEDS_PYCOCOTOOLS, looked_at, mean_average_precision
from train.disk import GO_ON, whole_file

TIMES_A_RUN, IMAGES, MOST_DRAWN = 5, 4, 8
FILE = "boxes.png"
NO_ANCHOR = (
    "box_loss is 0: in this epoch no object of the training images had an anchor that overlaps it "
    "by half, so that no box is learnt. Expected anchors of the objects' sizes: change "
    "loss.options.anchor_size, or data.image_size."
)


class Detections(keras.callbacks.Callback):
    """About five times a run, the last epoch among them, looks at all test images.

    Adds `val_map_percent` and `val_map_50_percent` (COCO's mean average precision) to the logs, if
    pycocotools is there, and draws the first test images with the boxes that are there and those
    that are found: into `boxes.png`, and for `show`. Trains nothing and changes no number.

    Must stand before what writes logs, in one process alone.
    """

    def __init__(
        self, batches: Any, folder: Path, show: Callable[[int, str, Any], None], *, silent: bool
    ) -> None:
        super().__init__()
        self.batches = batches
        self.folder = folder
        self.show = show
        self.silent = silent
        self.told = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs and logs.get("box_loss") == 0.0 and not self.told:
            warnings.warn(NO_ANCHOR, UserWarning, stacklevel=2)
            self.told = True
        done, epochs = epoch + 1, self.batches.epochs
        is_due = done == epochs or done % math.ceil(epochs / TIMES_A_RUN) == 0
        if logs is None or not is_due or not isinstance(self.model.loss, RetinaNetLoss):
            return
        data = self.batches.data
        shown: list[Any] = []
        true, found = [], []
        for image, objects, guesses in looked_at(self.model, self.batches.evaluation(Share())):
            if len(shown) < IMAGES:
                shown.append((data.normalization.undone(image), objects, guesses))
            true.append(objects)
            found.append(guesses)
        measures = mean_average_precision(true, found)
        if not measures and not self.silent:
            print(NEEDS_PYCOCOTOOLS, flush=True)
            self.silent = True
        logs |= {f"val_{name}": value for name, value in measures.items()}
        picture = drawn(shown, data.target.names)
        self.show(done, "boxes", picture)
        path = self.folder / FILE
        with whole_file(path, f"{path} cannot be written", GO_ON) as aside:
            keras.utils.save_img(aside, picture, scale=False, file_format="png")


def drawn(
    images: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]],
    names: Sequence[str],
) -> npt.NDArray[Any]:
    """Images beside each other as (height, width, 3) bytes, with boxes and the names of classes.

    Each is (pixels of 0 to 255, objects (n, 5), found (m, 6)). Dashed and white: what is there;
    orange: the best of what is found.
    """
    figure = Figure(figsize=(3.2 * len(images), 3.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (image, objects, found) in zip(
        figure.subplots(1, len(images), squeeze=False).flat, images, strict=True
    ):
        axes.imshow(np.clip(image, 0, 255).astype(np.uint8))
        axes.set_axis_off()
        axes.set_title(f"{len(objects)} there, {len(found)} found", fontsize=8)
        for top, left, bottom, right, *_ in objects:
            corner, width, height = (left, top), right - left, bottom - top
            axes.add_patch(Rectangle(corner, width, height, fill=False, color="w", linestyle="--"))
        for top, left, bottom, right, kind, score in found[:MOST_DRAWN]:
            corner, width, height = (left, top), right - left, bottom - top
            axes.add_patch(Rectangle(corner, width, height, fill=False, color="orange"))
            name = names[int(kind)] if names else f"class {int(kind)}"
            axes.text(left, top, f"{name} {score:.2f}", fontsize=6, color="orange", clip_on=True)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
