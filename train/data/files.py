"""Data in a user's files: images in folders by class, and arrays of NumPy."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

from train.config import DataConfig
from train.data import Sets
from train.data.source import Pieces, Source, spec_of, splits_of, target_of
from train.data.splits import Split, by_python, in_memory
from train.errors import UserError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
GREY_MODES = ("1", "L", "I", "I;16")


def folder_of_images(config: DataConfig) -> Source:
    """Images under `<split>/<class>/`, in the layout of `keras.utils.image_dataset_from_directory`.

    Classes are numbered in alphabetical order. Within a split, images stand in an order that a hash
    of their names gives, so that a part of a split has all classes.
    """
    root = Path(config.name).expanduser()
    train, test = (root / s.partition("[")[0] for s in (config.train_split, config.test_split))
    classes = _subfolders(train)
    if not classes:
        raise UserError(
            f"data.name={root} has no folder {train.name} with a folder of images for every class. "
            f"Expected {root / '<split>' / '<class>'}/*.png (or jpeg, bmp, gif), a builder folder "
            f"of TensorFlow Datasets (dataset_info.json), or .npy files."
        )
    images = {name: _images(root / name, classes) for name in _subfolders(root)}
    used = {train.name, test.name} & images.keys()
    heads = [head(path) for name in sorted(used) for path, _ in images[name]]
    if not heads:
        raise UserError(f"data.name={root} has no images in {train}. Expected {ENDINGS}.")
    heights, widths, channels = (set(sizes) for sizes in zip(*heads, strict=True))
    sides = (sizes.pop() if len(sizes) == 1 else None for sizes in (heights, widths))
    spec = (tf.TensorSpec((*sides, max(channels)), tf.uint8), tf.TensorSpec([], tf.int32))

    def part(pieces: Pieces) -> Split:
        found = [one for name, rows in pieces for one in images[name][rows.start : rows.stop]]
        paths, labels = zip(*found, strict=True)
        return in_memory(
            (np.array([str(path) for path in paths], object), np.array(labels, np.int32)),
            open=lambda record: (tf.io.read_file(record[0]), record[1]),
            fault=lambda _: next(filter(None, map(damage, paths)), None),
        )

    splits = splits_of({name: len(found) for name, found in images.items()})
    return Source(spec, target_of(spec[1], config, num_classes=len(classes)), splits, part)


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
    names = {path: path.relative_to(folder).as_posix().encode() for path, _ in found}
    return sorted(found, key=lambda one: hashlib.sha256(names[one[0]]).digest())


def head(path: Path) -> tuple[int, int, int]:
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


def damage(path: Path) -> UserError | None:
    """Of a file whose head was right and whose pixels are not."""
    try:
        tf.io.decode_image(tf.io.read_file(str(path)), expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return UserError(
            f"data.name names a folder in which {path} is damaged. Expected a whole image: mend or "
            f"remove the file."
        )
    return None


def arrays(config: DataConfig) -> Source:
    """The arrays x_train, y_train, x_test and y_test of a .npz file, or of .npy files in a folder.

    Those of a folder are mapped into memory.
    """
    path = Path(config.name).expanduser()
    found: dict[str, Any] = {}
    for file in sorted(path.glob("[xy]_*.npy")) if path.is_dir() else [path]:
        try:
            content = np.load(file, mmap_mode="r")
            if isinstance(content, np.ndarray):
                found[file.stem] = content
            else:
                with content:
                    named = [name for name in content.files if name.startswith(("x_", "y_"))]
                    found = {name: content[name] for name in named}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"data.name={config.name} cannot be read: {file}: {error}. Expected arrays that "
                f"NumPy saved, without objects."
            ) from error
    names = [name[2:] for name in found if name[0] == "x"]
    pairs = {name: (found[f"x_{name}"], found.get(f"y_{name}")) for name in names}
    return source_of_pairs(pairs, config, Sets(None, None))


def source_of_pairs(pairs: Mapping[str, tuple[Any, Any]], config: DataConfig, sets: Sets) -> Source:
    """Splits of arrays (inputs, targets) by name; `sets` says more of the targets."""
    who = f"data.name={config.name}"
    if not pairs:
        raise UserError(f"{who} has no arrays. Expected x_train, y_train, x_test and y_test.")
    ready = {name: _checked_pair(who, name, *pair, config) for name, pair in pairs.items()}
    specs = {
        name: spec_of(tf.nest.map_structure(lambda array: array[0], pair))
        for name, pair in ready.items()
    }
    spec = next(iter(specs.values()))
    if any(other != spec for other in specs.values()):
        raise UserError(
            f"{who} has examples of {specs}. Expected one shape and type of inputs, and one of "
            f"targets."
        )
    labels = [y["classes"] if isinstance(y, dict) else y for _, y in ready.values()]
    whole = [one for one in labels if isinstance(one, np.ndarray) and one.dtype.kind in "iu"]
    low = min((int(one.min(initial=0)) for one in whole), default=0)
    high = max((int(one.max(initial=0)) for one in whole), default=-1)
    target = target_of(spec[1], config, sets.target, sets.num_classes or high + 1)
    least = -1 if target.kind == "boxes" else 0  # padding
    has_classes = target.kind in ("classes", "boxes")
    if has_classes and (low < least or high >= target.num_classes):
        raise UserError(
            f"{who} has classes from {low} to {high}. Expected {least} to "
            f"{target.num_classes - 1}, or data.target=values."
        )

    def part(pieces: Pieces) -> Split:
        def joined(*whole: Any) -> Any:
            cut = [a[rows.start : rows.stop] for a, (_, rows) in zip(whole, pieces, strict=True)]
            return cut[0] if len(cut) == 1 else np.concatenate(cut)

        arrays = tf.nest.map_structure(joined, *(ready[name] for name, _ in pieces))

        def fetch(indices: Any) -> Any:
            return tf.nest.map_structure(lambda array: array[indices], arrays)

        return by_python(len(arrays[0]), fetch, spec, arrays=arrays)

    return Source(spec, target, splits_of({name: len(x) for name, (x, _) in ready.items()}), part)


def _checked_pair(who: str, name: str, inputs: Any, targets: Any, config: DataConfig) -> Any:
    """Inputs and targets as arrays of one length; grey images get their channel."""
    if targets is None and config.target == "inputs":
        targets = np.zeros(len(inputs), np.int32)
    # Not np.asarray alone, which would make a plain array of one that is mapped into memory.
    inputs = np.asanyarray(inputs)
    targets = targets if isinstance(targets, dict) else np.asanyarray(targets)
    flat = [inputs, *map(np.asarray, tf.nest.flatten(targets))]
    if any(array.dtype.kind not in "biuf" or not array.ndim for array in flat) or inputs.ndim < 2:
        raise UserError(
            f"{who} has, for {name}, inputs of shape {inputs.shape} and type {inputs.dtype}, and "
            f"targets {[f'{a.shape} {a.dtype}' for a in flat[1:]]}. Expected arrays of numbers: "
            f"inputs of two axes or more, targets beside them (y_{name} in a file)."
        )
    if len({len(array) for array in flat}) > 1 or not len(inputs):
        raise UserError(
            f"{who} has {len(inputs)} inputs and {len(flat[1])} targets for {name}. Expected as "
            f"many, and at least one."
        )
    if inputs.dtype == np.uint8 and inputs.ndim == 3:
        inputs = inputs[..., None]
    return inputs, targets
