"""Writes labelled images as a TensorFlow Datasets builder folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds


class LabelledImages(NamedTuple):
    """Images (count, height, width, channels) uint8 and their labels (count,) integers.

    Images of many sizes: a sequence of (height, width, channels).
    """

    images: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]
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
    encoding_format: Literal["png", "jpeg"] = "png",
    file_format: Literal["tfrecord", "array_record", "parquet"] = "tfrecord",
    files: int | None = None,
) -> Path:
    """Writes `data_dir/name/version`, which `tfds.builder_from_directory` reads without network.

    Images keep their order. No path of this machine is written.

    Args:
        name: Of the data set, in snake case.
        version: Such as `1.0.0`.
        splits: Split name to images and labels.
        class_names: One for each label, in order.
        data_dir: Is created.
        description: What the images are.
        homepage: Where they come from.
        citation: BibTeX.
        encoding_format: Of the images; PNG keeps every pixel.
        file_format: Of the files; all but TFRecord are read by index.
        files: For every split; null: TFDS' choice, by size.

    Returns:
        The new folder.

    Raises:
        FileExistsError: If the folder exists; nothing is overwritten.
    """
    folder = data_dir / name / version
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or write into another folder.")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=_common_shape(splits.values()), encoding_format=encoding_format
            ),
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
            file_format=file_format,
            download_config=tfds.download.DownloadConfig(num_shards=files),
        )
        folder.parent.mkdir(exist_ok=True)
        shutil.move(builder.data_dir, folder)
    return folder


def _common_shape(parts: Iterable[LabelledImages]) -> tuple[int | None, ...]:
    """(height, width, channels), with None where images differ."""
    shapes = {image.shape for part in parts for image in part.images}
    return tuple(
        lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*shapes, strict=True)
    )


def _examples(part: LabelledImages) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
        yield index, {"image": image, "label": int(label)}
