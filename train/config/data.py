"""Inputs and targets."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from train.config.part import Count
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Inputs and targets.

    Args:
        name: `digits` (embedded); a TensorFlow Datasets name such as `mnist`, with a version
            (`mnist:3.0.1`) if wanted; the path of a TFDS builder folder, of a folder of images
            (`train/<class>/...` and `test/<class>/...`), of a folder in COCO's layout
            (`instances_<split>.json`, or that in `annotations/`, and `<split>/*.jpg`), of a .npz
            file with the arrays x_train, y_train, x_test and y_test, or of a folder of .npy files
            of these names; or the import path `package.module:function` of a function that returns
            (train, test).
        options: Arguments of that function.
        target: What the model shall give: `classes`, `values` (regression), `inputs` (what it sees
            itself, normalised: an autoencoder), or `auto`: what the data have, such as boxes.
        data_dir: Folder of prepared TFDS sets; null: the environment's TFDS_DATA_DIR, or TFDS' own
            folder, into which it downloads.
        train_split: Split, or part of one, such as `train[:90%]`, to train on. Those of a folder of
            images are its sub-folders; those of arrays are the names behind `x_` and `y_`.
        test_split: Split, or part of one, to evaluate on after every epoch.
        take: Train on the first so many examples of the training split; null: on all.
        shuffle: Whether every epoch has an order of its own.
        normalization: `standard` (mean 0, standard deviation 1 per channel, or per value of a row)
            and `unit` (divided by the largest input) are measured on the training inputs; for sets
            that stay on the disk `unit` divides by 255, and there is no `standard`. `imagenet`:
            mean and standard deviation of ImageNet's pixels. `none`: as they come.
        augmentation: Of training images. `pad_crop_flip`: padded by `pad` zeros on each side,
            cropped back at a random place, flipped left to right half of the time (He et al. 2016).
            `random_resized_crop`: a random part of 8 to 100 % of the area and aspect ratio 3/4 to
            4/3, resized to `image_size`, flipped half of the time (Szegedy et al. 2015). `flip`:
            flipped half of the time, with its boxes if it has some.
        pad: Pixels on each side, of `pad_crop_flip`.
        image_size: Height and width in pixels of what the model sees, for images of many sizes;
            null: as they are. Test images are resized so that their shorter side has 256/224 times
            as many, and cropped in the middle (a single crop). Images with boxes are resized so
            that their longer side has that many, and padded below or on the right.
        storage: `memory` (read once), `disk` (read when it is needed) or `auto` (memory up to 4 GiB
            and if all images have one size; what is no array of a data function stays as it comes).
            On the disk, what is read by index (array_record files, images, .npy files) is as good
            as memory; TFRecord files and a `tf.data.Dataset` can only be read from the front, so
            their shuffle is weaker and a run that goes on reads the epoch's earlier examples again.
    """

    name: str = "digits"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    target: Literal["auto", "classes", "values", "inputs"] = "auto"
    data_dir: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    take: Count | None = None
    shuffle: bool = True
    normalization: Literal["standard", "unit", "none", "imagenet"] = "standard"
    augmentation: Literal["none", "pad_crop_flip", "random_resized_crop", "flip"] = "none"
    pad: Count = 4
    image_size: Count | None = None
    storage: Literal["auto", "memory", "disk"] = "auto"

    def __post_init__(self) -> None:
        if self.augmentation == "random_resized_crop" and self.image_size is None:
            raise UserError(
                "data.augmentation=random_resized_crop needs data.image_size, the height and width "
                "in pixels that it resizes to, such as 224."
            )
        if self.options and not self.is_function:
            raise UserError(
                f"data.options is given, but data.name={self.name} is no function. Expected the "
                f"import path of one, package.module:function."
            )

    @property
    def is_function(self) -> bool:
        """Whether the name is an import path; behind the colon of `mnist:3.0.1` is a version."""
        return _is_function(self.name)


def short_name(name: str) -> str:
    """A set's name in runs and reports: the last part of a path (of a TFDS builder folder
    .../name/version the name), without ending or version; of a data function its own name.
    """
    if _is_function(name):
        return name.rpartition(":")[2]
    path = Path(name)
    versioned = len(path.parts) > 1 and re.fullmatch(r"[\d.]+", path.name)
    return path.parent.name if versioned else path.name.removesuffix(".npz").partition(":")[0]


def _is_function(name: str) -> bool:
    return re.fullmatch(r"[\w.]+:[^\W\d][\w.]*", name) is not None
