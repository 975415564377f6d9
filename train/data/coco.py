"""Objects in images: folders in the layout of COCO."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from train.config import DataConfig
from train.data.files import damage, head
from train.data.source import Pieces, Source, splits_of, target_of
from train.data.splits import Split, in_memory
from train.errors import UserError

ROUNDING_PX = 1.0
"""How far a box may reach out of its image; COCO's own do, by rounding."""


def annotation_files(root: Path) -> dict[str, Path]:
    """Split to its file, `instances_<split>.json` in the folder or in `annotations` below it."""
    files = [*root.glob("instances_*.json"), *root.glob("annotations/instances_*.json")]
    return {file.stem.removeprefix("instances_"): file for file in sorted(files)}


def folder_of_coco(config: DataConfig) -> Source:
    """Images of `<split>/` with the boxes that `instances_<split>.json` has of them.

    Classes are numbered in the order of the categories' ids. Crowds and boxes without an area are
    left out.
    """
    root = Path(config.name).expanduser()
    files = annotation_files(root)
    names: list[str] = []
    for key in ("train_split", "test_split"):
        wanted = re.sub(r"\[.*?\]", "", getattr(config, key)).split("+")
        if not set(wanted) <= files.keys():
            raise UserError(
                f"data.{key} is {getattr(config, key)!r}, but data.name={root} has annotations of "
                f"{', '.join(files)}. Expected one of these, or a part, such as "
                f"'{next(iter(files))}[:90%]'."
            )
        names += wanted
    used = {name: _Annotations(files[name], root / name) for name in dict.fromkeys(names)}
    first, *others = used.values()
    for one in others:
        if one.categories != first.categories:
            raise UserError(
                f"{one.file} has other categories than {first.file}. Expected the same ids and "
                f"names in both."
            )
    most = max(max(map(len, one.objects)) for one in used.values())
    sizes_of_all = [size for one in used.values() for size in one.sizes]
    sides = [set(sizes) for sizes in zip(*sizes_of_all, strict=True)]
    height, width = (sizes.pop() if len(sizes) == 1 else None for sizes in sides)
    spec = (
        tf.TensorSpec((height, width, 3), tf.uint8),
        {
            "boxes": tf.TensorSpec((most, 4), tf.float32),
            "classes": tf.TensorSpec((most,), tf.int32),
        },
    )

    def part(pieces: Pieces) -> Split:
        paths, boxes, classes = [], [], []
        for name, rows in pieces:
            paths += used[name].paths[rows.start : rows.stop]
            for objects in used[name].objects[rows.start : rows.stop]:
                padded = np.zeros((most, 5), np.float32)
                padded[:, 4] = -1
                padded[: len(objects)] = objects
                boxes.append(padded[:, :4])
                classes.append(padded[:, 4].astype(np.int32))
        return in_memory(
            (
                np.array([str(path) for path in paths], object),
                {"boxes": np.stack(boxes), "classes": np.stack(classes)},
            ),
            open=lambda record: (tf.io.read_file(record[0]), record[1]),
            fault=lambda _: next(filter(None, map(damage, paths)), None),
        )

    kinds = tuple(first.categories.values())
    target = target_of(spec[1], config, num_classes=len(kinds), names=kinds)
    splits = splits_of({name: len(one.paths) for name, one in used.items()})
    left_out = [f"{name}: {said}" for name, one in used.items() if (said := one.left_out)]
    remark = f"{root}: {'; '.join(left_out)}" if left_out else ""
    return Source(spec, target, splits, part, remark=remark)


class _Annotations:
    """What one file says: paths, sizes and objects (box and class) of its images."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file = file
        content = self._read()
        self.categories: dict[int, str] = {
            one["id"]: one["name"] for one in sorted(content["categories"], key=lambda c: c["id"])
        }
        images: dict[int, Mapping[str, Any]] = {one["id"]: one for one in content["images"]}
        if not images or not content["annotations"]:
            raise UserError(
                f"{file} has {len(images)} images and {len(content['annotations'])} annotations. "
                f"Expected some of each."
            )
        self.paths = [folder / image["file_name"] for image in images.values()]
        self.sizes = [(image["height"], image["width"]) for image in images.values()]
        for path, size in zip(self.paths, self.sizes, strict=True):
            if not path.is_file():
                raise UserError(
                    f"{file} names {path.name}, but {path} does not exist. Expected every image of "
                    f"the file in the folder {folder}."
                )
            if (there := head(path)[:2]) != size:
                raise UserError(
                    f"{file} says that {path.name} is {size[1]}x{size[0]} pixels, but it is "
                    f"{there[1]}x{there[0]}. Expected the images that the boxes were drawn in."
                )
        numbers = {category: number for number, category in enumerate(self.categories)}
        found: dict[int, list[list[float]]] = {number: [] for number in images}
        self._crowds = self._flat = 0
        for one in content["annotations"]:
            if one["image_id"] not in images or one["category_id"] not in numbers:
                key = "category_id" if one["image_id"] in images else "image_id"
                raise UserError(
                    f"{file}: annotation {one['id']} has {key} {one[key]}, which is not among the "
                    f"{'categories' if key == 'category_id' else 'images'} of the file."
                )
            box = self._box(one, images[one["image_id"]])
            if one.get("iscrowd"):
                self._crowds += 1
            elif box[2] <= box[0] or box[3] <= box[1]:
                self._flat += 1
            else:
                found[one["image_id"]].append([*box, numbers[one["category_id"]]])
        self.objects = [np.array(one, np.float32).reshape(-1, 5) for one in found.values()]
        if not any(map(len, self.objects)):
            raise UserError(f"{file} has no objects beside {self.left_out}. Expected some.")

    @property
    def left_out(self) -> str:
        """What no model learns from, in words; empty if there is none."""
        counts = {"crowds": self._crowds, "boxes without an area": self._flat}
        said = [f"{count} {what}" for what, count in counts.items() if count]
        return f"{' and '.join(said)} left out" if said else ""

    def _read(self) -> dict[str, Any]:
        needed = {
            "images": ("id", "file_name", "height", "width"),
            "annotations": ("id", "image_id", "category_id", "bbox"),
            "categories": ("id", "name"),
        }
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            for name, keys in needed.items():
                for one in content[name]:
                    _ = [one[key] for key in keys]
        except (OSError, ValueError, KeyError, TypeError) as error:
            lists = ", ".join(f"{name} ({', '.join(keys)})" for name, keys in needed.items())
            raise UserError(
                f"{self.file} is no annotation file of COCO ({type(error).__name__}: {error}). "
                f"Expected JSON with the lists {lists}."
            ) from error
        return dict(content)

    def _box(self, one: Mapping[str, Any], image: Mapping[str, Any]) -> list[float]:
        """(y, x, y, x) as shares of height and width, of a box (x, y, width, height) in pixels."""
        try:
            x, y, width, height = map(float, one["bbox"])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self.file}: annotation {one['id']} has the bbox {one['bbox']}. Expected x, y, "
                f"width and height in pixels."
            ) from error
        corners = np.array([y, x, y + height, x + width])
        size = np.array([image["height"], image["width"]] * 2, float)
        inside = np.clip(corners, 0, size)
        if not np.abs(corners - inside).max() <= ROUNDING_PX:  # nor NaN
            raise UserError(
                f"{self.file}: annotation {one['id']} has the bbox {one['bbox']} outside its "
                f"image, {image['file_name']} of {image['width']}x{image['height']} pixels. "
                f"Expected x, y, width and height in pixels of that image."
            )
        return list(inside / size)
