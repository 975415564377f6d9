"""Small builder folders for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from tools.builder_folder import LabelledImages, write_builder_folder

CLASSES = ["even", "odd"]


def write_folder(
    folder: Path,
    name: str,
    splits: dict[str, LabelledImages],
    *,
    version: str = "1.0.0",
    **kind: Any,
) -> Path:
    return write_builder_folder(
        name,
        version,
        splits=splits,
        class_names=CLASSES,
        data_dir=folder,
        description="numbered images",
        homepage="",
        citation="",
        **kind,
    )


def write_numbered(folder: Path, *, count: int = 10, name: str = "numbered", **kind: Any) -> Path:
    """2x3 colour images; every pixel of image i has the value i. The first 3 are test images."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 3, 3)
    )
    part = LabelledImages(np.ascontiguousarray(images), np.arange(count) % 2)
    test = LabelledImages(part.images[:3], part.labels[:3])
    return write_folder(folder, name, {"train": part, "test": test}, **kind)


def write_noise(folder: Path, *, train: int = 23, test: int = 7, **kind: Any) -> Path:
    """6x5 colour noise; the first pixel of training image i is i."""
    images = np.random.default_rng(5).integers(0, 256, (train + test, 6, 5, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(train + test)
    labels = np.arange(train + test) % 2
    splits = {
        "train": LabelledImages(images[:train], labels[:train]),
        "test": LabelledImages(images[train:], labels[train:]),
    }
    return write_folder(folder, "noise", splits, **kind)


def write_imagenet(folder: Path, *, train: int = 12, validation: int = 5, **kind: Any) -> Path:
    """JPEGs of many sizes, stored as TFDS does imagenet2012; image i has the colour 20 i."""

    def part(begin: int, end: int) -> LabelledImages:
        images = [
            np.full((40 + 7 * (i % 5), 90 - 9 * (i % 4), 3), 20 * (i - begin), np.uint8)
            for i in range(begin, end)
        ]
        return LabelledImages(images, np.arange(end - begin) % 2)

    splits = {"train": part(0, train), "validation": part(train, train + validation)}
    kind = {"file_format": "array_record", "encoding_format": "jpeg", "version": "5.1.0"} | kind
    return write_folder(folder, "imagenet2012", splits, **kind)
