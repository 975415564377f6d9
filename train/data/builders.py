"""Finds the TensorFlow Datasets builder of a data set, and refuses what is no labelled images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from train.config import DataConfig
from train.errors import UserError, did_you_mean

EMBEDDED = {"digits": Path(__file__).parent / "digits" / "1.0.0"}


class Keys(NamedTuple):
    """Names of the image and of the class label in an example of the data set."""

    image: str
    label: str


def find_builder(config: DataConfig) -> Any:
    """The embedded set, a builder folder, a prepared copy in the data folder, or TFDS' own code.

    Nothing is downloaded here.

    Raises:
        UserError: If there is no such data set.
    """
    if config.name in EMBEDDED:
        return tfds.builder_from_directory(EMBEDDED[config.name])
    if (Path(config.name) / "dataset_info.json").is_file():
        return tfds.builder_from_directory(config.name)
    if Path(config.name).is_dir():
        raise UserError(
            f"data.name={config.name} is a folder without a dataset_info.json. Expected a builder "
            f"folder of TensorFlow Datasets, which ends in a version, such as .../mnist/3.0.1."
        )
    # A prepared folder is read as it is. The code that TFDS has for the same name would insist on
    # its own version and features (cifar10: the file names) and download the set again.
    data_dir = config.data_dir or os.environ.get("TFDS_DATA_DIR")
    prepared = _newest_prepared_folder(config.name, data_dir)
    if prepared is not None:
        return tfds.builder_from_directory(prepared)
    try:
        return tfds.builder(config.name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        raise UserError(
            f"data.name={config.name} is not known. Expected digits (embedded), a TensorFlow "
            f"Datasets name such as mnist, fashion_mnist, cifar10 or cifar100, or the path of a "
            f"builder folder.{did_you_mean(config.name, known)}"
        ) from error
    except (AssertionError, ValueError) as error:  # an unknown version or configuration of a set
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"data.name={config.name}: TensorFlow Datasets says {reason!r}") from error


def image_and_label_keys(builder: Any, config: DataConfig) -> Keys:
    """Names of the image and of the class label in an example.

    Raises:
        UserError: If the data set has no such pair.
    """
    features = builder.info.features
    keys = Keys(*(builder.info.supervised_keys or ("image", "label"))[:2])
    expected = {keys.image: tfds.features.Image, keys.label: tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], expected[key]) for key in expected):
        raise UserError(
            f"data.name={config.name} holds {', '.join(features)}. Expected an image and a class "
            f"label."
        )
    return keys


def check_sizes(stored_shape: Any, config: DataConfig) -> None:
    """Refuses, before anything is fetched, what the images' shape forbids.

    Args:
        stored_shape: (height, width, channels) of the images, None where they differ.
        config: What is asked for.

    Raises:
        UserError: If images of many sizes (shape None) shall be in memory, be measured, or be seen
            by the model in no common size; if the padding is larger than the image.
    """
    if None in stored_shape:
        many = f"data.name={config.name} has images of many sizes"
        if config.image_size is None:
            raise UserError(
                f"{many}. Expected data.image_size, the height and width in pixels of what the "
                f"model sees, such as 224."
            )
        if config.storage == "memory":
            raise UserError(f"data.storage is memory, but {many}. Expected disk or auto.")
        if config.normalization == "standard":
            raise UserError(
                f"data.normalization is standard, which measures all training images, but {many} "
                f"and stays on the disk. Expected imagenet, unit or none."
            )
    seen = (config.image_size,) if config.image_size else stored_shape[:2]
    if config.augmentation == "pad_crop_flip" and config.pad >= min(seen):
        raise UserError(
            f"data.pad is {config.pad}, but the images of data.name={config.name} have "
            f"{min(seen)} pixels on a side. Expected less: a crop could hold padding alone."
        )


def prepare(builder: Any, config: DataConfig, stored_shape: Any) -> None:
    """Lets TFDS download and write the data set, if it is not there.

    Sets that stay on the disk are written as `array_record`, which is read by index.

    Raises:
        UserError: If that fails.
    """
    if builder.data_path.exists():
        return
    print(f"{config.name} is not in {builder.data_dir} yet: TensorFlow Datasets fetches it.")
    stays_on_disk = config.storage == "disk" or None in stored_shape
    try:
        builder.download_and_prepare(file_format="array_record" if stays_on_disk else None)
    except Exception as error:  # whatever the network, the host or the archive did
        archives = ""
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            archives = (
                " TensorFlow Datasets makes it of archives that everybody has to ask its owners "
                "for: its page in the TFDS catalogue names them and their folder."
            )
        raise UserError(
            f"data.name={config.name} could not be fetched ({type(error).__name__}). Put a "
            f"prepared copy into the folder named by data.data_dir or TFDS_DATA_DIR.{archives}"
        ) from error


def _newest_prepared_folder(name: str, data_dir: str | None) -> Path | None:
    if not data_dir:
        return None
    name, _, version = name.partition(":")
    infos = Path(data_dir).expanduser().glob(f"{name}/{version or '*'}/dataset_info.json")
    return max((info.parent for info in infos), key=_version_numbers, default=None)


def _version_numbers(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in folder.name.split("."))
