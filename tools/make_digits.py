"""Writes the embedded digits: `python -m tools.make_digits FOLDER`.

The folder `train/data/digits` of the repository was made by this script, once; the training code
never calls it. It needs scikit-learn, which ships the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.builder_folder import LabelledImages, write_builder_folder

VERSION = "1.0.0"
SPLIT_SEED = 0
TEST_IMAGES_PER_CLASS = 36

DESCRIPTION = (
    "Optical recognition of handwritten digits (UCI machine learning repository, test part), "
    "1,797 grey images of 8x8 pixels with values 0 to 16, 10 classes, split once into 1,437 "
    "training and 360 test images, 36 of every class. As shipped with scikit-learn."
)
HOMEPAGE = "https://doi.org/10.24432/C50P49"
CITATION = """@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
  note = {CC BY 4.0}
}"""


def stratified_split(
    labels: npt.NDArray[Any], *, test_images_per_class: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draws the indices of the training and of the test images, class by class.

    Args:
        labels: (images,) integers.
        test_images_per_class: How many images of every class go to the test split.
        seed: Of the draw.

    Returns:
        Two ascending arrays of indices, which together hold every index once.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:test_images_per_class]
        for label in np.unique(labels)
    ]
    test = np.sort(np.concatenate(drawn))
    return np.setdiff1d(np.arange(len(labels)), test), test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the data set goes into FOLDER/digits/1.0.0")
    folder = parser.parse_args().folder

    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    train, test = stratified_split(
        digits.target, test_images_per_class=TEST_IMAGES_PER_CLASS, seed=SPLIT_SEED
    )
    written = write_builder_folder(
        "digits",
        VERSION,
        splits={
            "train": LabelledImages(images[train], digits.target[train]),
            "test": LabelledImages(images[test], digits.target[test]),
        },
        class_names=[str(digit) for digit in range(10)],
        data_dir=folder,
        description=DESCRIPTION,
        homepage=HOMEPAGE,
        citation=CITATION,
    )
    print(f"wrote {written}: {len(train)} training, {len(test)} test images")


if __name__ == "__main__":
    main()
