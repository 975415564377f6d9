"""Finding data sets by name and folder, normalising them, batches of them."""

from pathlib import Path

import numpy as np
import pytest

from train.config import DataConfig
from train.data import batches, datasets
from train.data.builder_folder import LabelledImages, write_builder_folder
from train.data.builders import EMBEDDED
from train.data.datasets import ImageSet
from train.errors import UserError


def write_set(data_dir: Path, name: str, *, version: str = "1.0.0", count: int = 10) -> Path:
    """A set of 2x3 colour images; every pixel of image i has the value i."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 3, 3)
    )
    part = LabelledImages(np.ascontiguousarray(images), np.arange(count) % 2)
    return write_builder_folder(
        name,
        version,
        splits={"train": part, "test": LabelledImages(part.images[:3], part.labels[:3])},
        class_names=["even", "odd"],
        data_dir=data_dir,
        description="numbered images",
        homepage="",
        citation="",
    )


@pytest.fixture
def numbered(tmp_path: Path) -> ImageSet:
    return datasets.load(DataConfig(name=str(write_set(tmp_path, "numbered"))))


def test_builder_folder_keeps_images_labels_and_order(numbered: ImageSet) -> None:
    assert numbered.image_shape == (2, 3, 3)
    assert numbered.num_classes == 2
    assert numbered.train.images[:, 1, 2, 0].tolist() == list(range(10))
    assert numbered.train.labels.tolist() == [0, 1] * 5


def test_builder_folder_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "numbered")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="numbered"):
        write_set(tmp_path, "numbered", count=4)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["numbered"]


def test_prepared_copy_of_a_tfds_name_is_read_without_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, "cifar10", version="3.0.2")
    write_set(tmp_path, "cifar10", version="10.0.0", count=6)
    by_argument = datasets.load(DataConfig(name="cifar10", data_dir=str(tmp_path)))
    assert len(by_argument.train.labels) == 6  # the newest version, by number
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(datasets.load(DataConfig(name="cifar10:3.0.2")).train.labels) == 10


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DataConfig(name="mnits"), "Did you mean 'mnist'?"),
        (DataConfig(name="digit"), "Did you mean 'digits'?"),
        (DataConfig(name=str(EMBEDDED["digits"].parent)), "a folder without a dataset_info.json"),
        (DataConfig(name="coco"), "Expected an image and a class label."),
        (DataConfig(name="imdb_reviews"), "holds text, label."),
        (DataConfig(name="imagenet2012"), "Expected one fixed size"),
        (DataConfig(name="mnist:9.9.9"), "cannot be loaded at version 9.9.9"),
        (DataConfig(test_split="validation"), "no split 'validation'. Expected train or test"),
        (DataConfig(train_split="train[:0]"), "no split 'train[:0]'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_data_set_gets_one_sentence(
    config: DataConfig, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError) as caught:
        datasets.load(config)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_set_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_BYTES_IN_MEMORY", 1000)
    with pytest.raises(UserError, match="name a part of it"):
        datasets.load(DataConfig())


@pytest.mark.parametrize("normalization", ["standard", "unit", "none"])
def test_pixels_are_normalised_by_the_training_images(normalization: str) -> None:
    images = datasets.load(DataConfig(normalization=normalization))
    seen = np.concatenate(
        [x for x, _ in batches.evaluation_batches(images, 100).as_numpy_iterator()]
    )
    raw = images.test.images.astype(np.float64)
    train = images.train.images.astype(np.float64)
    expected = {
        "standard": (raw - train.mean()) / train.std(),
        "unit": raw / 16,
        "none": raw,
    }[normalization]
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_evaluation_sees_every_image_once_in_order(numbered: ImageSet) -> None:
    seen = list(batches.evaluation_batches(numbered, 2).as_numpy_iterator())
    assert [len(labels) for _, labels in seen] == [2, 1]
    assert np.concatenate([labels for _, labels in seen]).tolist() == [0, 1, 0]


def test_training_batches_are_whole_and_no_image_comes_twice_in_an_epoch(tmp_path: Path) -> None:
    images = datasets.load(
        DataConfig(name=str(write_set(tmp_path, "numbered")), normalization="none")
    )
    assert batches.steps_per_epoch(images, 4) == 2
    seen = [
        x[:, 0, 0, 0].astype(int).tolist()
        for x, _ in batches.training_batches(images, 4, seed=1, epochs=3).as_numpy_iterator()
    ]
    assert [len(batch) for batch in seen] == [4] * 6
    epochs = [seen[0] + seen[1], seen[2] + seen[3], seen[4] + seen[5]]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_is_a_function_of_the_seed(numbered: ImageSet) -> None:
    def labels(seed: int) -> list[int]:
        data = batches.training_batches(numbered, 5, seed=seed, epochs=4)
        return np.concatenate([y for _, y in data.as_numpy_iterator()]).tolist()

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)
