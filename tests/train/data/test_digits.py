"""The embedded digits: the facts their README states."""

import hashlib
import re

import numpy as np
import pytest

from tools.make_digits import SPLIT_SEED, TEST_IMAGES_PER_CLASS, stratified_split
from train.config import DataConfig
from train.data import EMBEDDED, datasets
from train.data.datasets import DataSet

FOLDER = EMBEDDED["digits"]


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return datasets.load(DataConfig())


def test_counts_and_classes_are_those_of_the_readme(digits: DataSet) -> None:
    assert digits.train.arrays[0].shape == (1437, 8, 8, 1)
    assert digits.test.arrays[0].shape == (360, 8, 8, 1)
    counts = np.bincount(digits.train.arrays[1]).tolist()
    assert counts == [142, 146, 141, 147, 145, 146, 145, 143, 138, 144]
    assert np.bincount(digits.test.arrays[1]).tolist() == [36] * 10
    assert str(counts)[1:-1].replace(",", "") in (FOLDER.parent / "README.md").read_text()


def test_pixels_are_those_of_scikit_learn(digits: DataSet) -> None:
    sums = int(digits.train.arrays[0].sum()), int(digits.test.arrays[0].sum())
    assert sums == (449_441, 112_277)
    assert sum(sums) == 561_718  # of load_digits().images
    first = [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    assert digits.train.arrays[0][0, :2, :, 0].tolist() == first
    assert digits.train.arrays[0].max() == 16


def test_split_is_the_one_that_the_script_draws(digits: DataSet) -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    source = sklearn_datasets.load_digits()
    train, test = stratified_split(
        source.target, test_images_per_class=TEST_IMAGES_PER_CLASS, seed=SPLIT_SEED
    )
    assert sorted([*train, *test]) == list(range(1797))
    np.testing.assert_array_equal(digits.train.arrays[0][..., 0], source.images[train])
    np.testing.assert_array_equal(digits.test.arrays[0][..., 0], source.images[test])
    np.testing.assert_array_equal(digits.test.arrays[1], source.target[test])


def test_no_image_is_in_both_splits(digits: DataSet) -> None:
    def prints(images: np.ndarray) -> set[str]:
        return {hashlib.sha256(image.tobytes()).hexdigest() for image in images}

    assert not prints(digits.train.arrays[0]) & prints(digits.test.arrays[0])


def test_folder_is_small_and_names_no_path_of_a_machine() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 320_000
    for path in files:
        # A slash that follows neither a letter nor another slash begins an absolute path.
        assert not re.search(rb"(?<![\w:/.])/(?:[a-z]+/)", path.read_bytes()), path
