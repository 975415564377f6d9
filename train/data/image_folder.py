"""Images in folders by class, in the layout of `keras.utils.image_dataset_from_directory`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

from train.config import DataConfig
from train.data.source import Source, rows_of, target_of
from train.data.splits import Split, of_arrays
from train.errors import UserError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
GREY_MODES = ("1", "L", "I", "I;16")


def folder_of_images(config: DataConfig) -> Source:
    """Images under `<split>/<class>/`, PNG, JPEG, BMP or GIF.

    Classes are numbered in alphabetical order. Within a split, images stand in an order that a hash
    of their names gives, so that a part of a split has all classes.

    Raises:
        UserError: If the training split has no classes, or a file is no image.
    """
    root = Path(config.name).expanduser()

    def folder(split: str) -> Path:
        return root / split.partition("[")[0]

    train = folder(config.train_split)
    classes = _subfolders(train)
    if not classes:
        raise UserError(
            f"data.name={root} has no folder {train.name} with a folder of images for every class. "
            f"Expected {root / '<split>' / '<class>'}/*.png (or jpeg, bmp, gif), a builder folder "
            f"of TensorFlow Datasets (dataset_info.json), or .npy files."
        )
    files = {name: _images(root / name, classes) for name in _subfolders(root)}
    used = {folder(split).name for split in (config.train_split, config.test_split)} & files.keys()
    heads = [_head(path) for name in sorted(used) for path, _ in files[name]]
    if not heads:
        raise UserError(f"data.name={root} has no images in {train}. Expected {ENDINGS}.")
    heights, widths, channels = (set(sizes) for sizes in zip(*heads, strict=True))
    label = tf.TensorSpec([], tf.int32)
    shape = tuple(sizes.pop() if len(sizes) == 1 else None for sizes in (heights, widths))

    def opened(record: tuple[Any, Any]) -> tuple[Any, Any]:
        path, label = record
        return tf.io.read_file(path), label

    def open_one(key: str, split: str, take: int | None) -> Split:
        counts = {name: len(found) for name, found in files.items()}
        name, rows = rows_of(key, split, take, counts)
        paths, labels = zip(*(files[name][row] for row in rows), strict=True)
        return of_arrays(
            np.array([str(path) for path in paths], object),
            np.array(labels, np.int32),
            in_memory=True,
            open_=opened,
        )

    return Source(
        input=tf.TensorSpec((*shape, max(channels)), tf.uint8),
        target=target_of(label, config, num_classes=len(classes)),
        target_spec=label,
        open=open_one,
        moves=True,
    )


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Image files with their class, in the order of a hash of their names."""
    found = []
    for name in _subfolders(folder):
        if name not in classes:
            raise UserError(
                f"data.name has the class {name} in {folder}, but not in the training split, whose "
                f"classes are {', '.join(classes)}. Expected the same folders in both."
            )
        paths = (path for path in (folder / name).rglob("*") if path.suffix.lower() in ENDINGS)
        found += [(path, classes.index(name)) for path in paths]
    key = {path: str(path.relative_to(folder).as_posix()).encode() for path, _ in found}
    return sorted(found, key=lambda one: hashlib.sha256(key[one[0]]).digest())


@contextlib.contextmanager
def broken_images_are_named(config: DataConfig) -> Iterator[None]:
    """A context in which a file whose head was right and whose pixels are not gets a sentence.

    Raises:
        UserError: That.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        for path in sorted(Path(config.name).expanduser().rglob("*")):
            if path.suffix.lower() in ENDINGS and not _is_decoded(path):
                raise UserError(
                    f"data.name names a folder in which {path} is damaged. Expected a whole image: "
                    f"mend or remove the file."
                ) from error
        raise


def _is_decoded(path: Path) -> bool:
    try:
        tf.io.decode_image(tf.io.read_file(str(path)), expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _head(path: Path) -> tuple[int, int, int]:
    """Height, width and channels of an image, without decoding it."""
    try:
        with PIL.Image.open(path) as image:
            grey = image.mode in GREY_MODES and image.format != "GIF"
            return image.height, image.width, 1 if grey else 3
    except (OSError, PIL.Image.DecompressionBombError) as error:
        raise UserError(
            f"data.name names a folder in which {path} is no image: {error}. Expected PNG, JPEG, "
            f"BMP or GIF: mend or remove the file."
        ) from error
