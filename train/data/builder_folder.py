"""Writes labelled images as a TensorFlow Datasets builder folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds


class LabelledImages(NamedTuple):
    """Images (count, height, width, channels) uint8 and their labels (count,) integers."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[Any]


def write_builder_folder(
    name: str,
    version: str,
    *,
    splits: Mapping[str, LabelledImages],
    class_names: Sequence[str],
    data_dir: Path,
    description: str,
    homepage: str,
    citation: str,
) -> Path:
    """Writes `data_dir/name/version`, which `tfds.builder_from_directory` reads without network.

    Images keep their order and are stored losslessly (PNG). No path of this machine is written.

    Args:
        name: Of the data set, in snake case.
        version: Such as `1.0.0`.
        splits: Split name to images and labels; every split has images of one shape.
        class_names: One for each label, in order.
        data_dir: Is created.
        description: What the images are.
        homepage: Where they come from.
        citation: BibTeX.

    Returns:
        The new folder.

    Raises:
        FileExistsError: If the folder exists; nothing is overwritten.
    """
    folder = data_dir / name / version
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or write into another folder.")
    image_shape = next(iter(splits.values())).images.shape[1:]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=image_shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(class_names)),
        }
    )
    tfds.disable_progress_bar()
    data_dir.mkdir(parents=True, exist_ok=True)
    # TFDS announces every step on the standard output, and leaves an empty download folder.
    with (
        tempfile.TemporaryDirectory(dir=data_dir) as scratch,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name,
            version,
            features,
            {split: _examples(part) for split, part in splits.items()},
            data_dir=scratch,
            description=description,
            homepage=homepage,
            citation=citation,
            disable_shuffling=True,
        )
        folder.parent.mkdir(exist_ok=True)
        shutil.move(builder.data_dir, folder)
    return folder


def _examples(part: LabelledImages) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
        yield index, {"image": image, "label": int(label)}
