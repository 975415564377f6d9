"""TFDS folders made of packed copies."""

from pathlib import Path

import numpy as np
import pytest

from tools.import_shared import SOURCES, import_set
from train.config import DataConfig
from train.data import datasets
from train.errors import UserError

PACKED = Path(__file__).parents[3] / "shared" / "data"

READER = """
import numpy as np
def mnist():
    grey = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    return (grey, np.array([3, 4], np.uint8)), (grey[:1], np.array([3], np.uint8))
"""


def test_imported_set_is_found_under_its_tfds_name(tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(READER)
    folder = import_set("mnist", tmp_path, data_dir=tmp_path / "tfds")
    assert folder == tmp_path / "tfds" / "mnist" / "3.0.1"
    images = datasets.load(DataConfig(name="mnist", data_dir=str(tmp_path / "tfds")))
    assert images.target.num_classes == 10
    assert images.train.arrays[1].tolist() == [3, 4]
    expected = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28, 1)
    np.testing.assert_array_equal(images.train.arrays[0], expected)


def test_set_is_not_imported_twice(tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(READER)
    import_set("mnist", tmp_path, data_dir=tmp_path)
    with pytest.raises(UserError, match="exists: remove it"):
        import_set("mnist", tmp_path, data_dir=tmp_path)


def test_folder_without_packed_copies_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no load.py"):
        import_set("mnist", tmp_path, data_dir=tmp_path / "tfds")


@pytest.mark.slow
@pytest.mark.skipif(not PACKED.is_dir(), reason="no packed copies beside the repository")
@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "mean"),
    [
        ("mnist", 10, 60_000, 10_000, [0.1307]),
        ("cifar10", 10, 50_000, 10_000, [0.4914, 0.4822, 0.4465]),
        ("cifar100", 100, 50_000, 10_000, [0.5071, 0.4865, 0.4409]),
    ],
)
def test_packed_copy_becomes_the_whole_set(
    tmp_path: Path, name: str, classes: int, train: int, test: int, mean: list[float]
) -> None:
    import_set(name, PACKED, data_dir=tmp_path)
    images = datasets.load(DataConfig(name=name, data_dir=str(tmp_path)))
    assert (images.target.num_classes, images.train.count) == (classes, train)
    assert images.test.count == test
    np.testing.assert_allclose(images.train.arrays[0].mean((0, 1, 2)) / 255, mean, atol=6e-5)
    assert sorted(SOURCES) == ["cifar10", "cifar100", "mnist"]
