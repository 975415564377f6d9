"""What the first layer of trained models looks for, as images (Khandwala and Bedi, figure 6)."""

from __future__ import annotations

import io
import json
import re
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.figure import Figure

from train.report.frames import Group

TEXT = (
    "Weights from the image to the first 24 cells, or filters, of the layer at the input, each "
    "scaled by its own largest weight, grey or the middle of a colour is 0. Of a locally connected "
    "layer: the first six filters, each at four positions on the diagonal of the image, side by "
    "side (Amit 2018, figure 6). Of the first seed whose model is there."
)
ROWS, COLUMNS = 4, 6
SMALLEST = 5  # pixels a side, from which a filter shows something


def draw_first_weights(groups: Sequence[Group], stem: Path) -> bool:
    """A panel a group whose model is there and sees images; whether there was one."""
    found = {
        group.label: map(images_of, (r.path / "model.keras" for r in group.runs))
        for group in groups
    }
    panels = [
        (label, images)
        for label, of_seeds in found.items()
        if (images := next((one for one in of_seeds if one is not None), None)) is not None
    ]
    if not panels:
        return False
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes:
        axis.axis("off")
    for axis, (label, images) in zip(figure.axes, panels, strict=False):
        axis.set_title(textwrap.fill(label, 40, break_on_hyphens=False), fontsize=9)
        axis.imshow(_tiled(images), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for ending in ("png", "svg"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)
    return True


def images_of(model: Path) -> np.ndarray | None:
    """(24, height, width, 1 or 3) weights from the image, on +-1; None: there are none to see.

    They are read from the file itself: Keras, and what the model is made of, are not needed.
    """
    if not model.is_file():
        return None
    try:
        with zipfile.ZipFile(model) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
            weights = io.BytesIO(archive.read("model.weights.h5"))
        first = next(layer for layer in layers if _has_images_before(layer))
        shape = next(x for x in layers if x["class_name"] == "InputLayer")["config"]["batch_shape"]
        with h5py.File(weights) as file:
            kernel = np.asarray(file[f"layers/{_snake_case(first['class_name'])}/vars/0"])
    except (KeyError, StopIteration, OSError, ValueError, zipfile.BadZipFile):
        return None
    images = _as_images(kernel, tuple(shape[1:]))
    if images is None or len(images) < 2:
        return None
    return images / np.maximum(np.abs(images).max(axis=(1, 2, 3), keepdims=True), 1e-12)


def _as_images(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return None
    count = ROWS * COLUMNS
    if kernel.ndim == 2 and kernel.shape[0] == np.prod(shape):
        return kernel[:, :count].T.reshape(-1, *shape)
    if kernel.ndim == 4 and kernel.shape[2] == shape[-1] and kernel.shape[0] >= SMALLEST:
        return np.moveaxis(kernel[..., :count], -1, 0)
    if kernel.ndim == 6:  # (.. positions, .. taps, channels, filters)
        places = np.linspace(0.2, 0.8, ROWS)
        at = [kernel[int(p * kernel.shape[0]), int(p * kernel.shape[1])] for p in places]
        return np.concatenate([np.moveaxis(one[..., :COLUMNS], -1, 0) for one in at])
    return None


def _has_images_before(layer: dict[str, Any]) -> bool:
    """Whether it is the kind of layer that has a kernel; the first of a model sees the image."""
    return re.search("Dense|Conv|LocallyConnected", layer["class_name"]) is not None


def _snake_case(name: str) -> str:
    """As Keras names a layer in its file: `FeedbackConv2D`, `feedback_conv2d`."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _tiled(images: np.ndarray) -> np.ndarray:
    """Images on +-1 as one picture on 0 to 1, white between them."""
    padded = np.pad((images + 1) / 2, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    columns = min(COLUMNS, len(padded))
    rows = [
        np.concatenate(list(padded[at : at + columns]), axis=1)
        for at in range(0, len(padded) - columns + 1, columns)
    ]
    return np.concatenate(rows)
