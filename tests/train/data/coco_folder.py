"""Small folders in the layout of COCO: bright boxes in dark images of many sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

CATEGORIES = [{"id": 7, "name": "cup"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "kite"}]
COLOURS = {3: 100, 7: 170, 90: 240}  # of a category's boxes


def annotations(count: int, first: int = 0) -> dict[str, Any]:
    """Of `count` images, two objects each but for every third, which has one."""
    images, found = [], []
    for number in range(first, first + count):
        width, height = 90 - 9 * (number % 4), 40 + 7 * (number % 5)
        images.append(
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        )
        for place in range(2 - (number % 3 == 0)):
            box = [4 + 30 * place, 6 + 3 * place, 20, 24 + number % 4]
            kind = (3, 7, 90)[(number + place) % 3]
            found.append({"image_id": number, "category_id": kind, "bbox": box, "iscrowd": 0})
    found = [one | {"id": number + 1} for number, one in enumerate(found)]
    return {"images": images, "annotations": found, "categories": CATEGORIES}


def write_split(folder: Path, split: str, content: dict[str, Any]) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        pixels = np.full((image["height"], image["width"], 3), 10, np.uint8)
        for one in content["annotations"]:
            if one["image_id"] == image["id"] and not one.get("iscrowd"):
                x, y, width, height = map(int, one["bbox"])
                pixels[y : y + height, x : x + width] = COLOURS[one["category_id"]]
        PIL.Image.fromarray(pixels).save(folder / split / image["file_name"])
    (folder / f"instances_{split}.json").write_text(json.dumps(content))


def write_folder(folder: Path, *, train: int = 11, test: int = 3) -> Path:
    write_split(folder, "train2017", annotations(train))
    write_split(folder, "val2017", annotations(test, first=100))
    return folder
