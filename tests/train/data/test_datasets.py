"""Finding data sets by name and folder, storing and normalising them."""

import io
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.train.data.sets import write_imagenet, write_noise, write_numbered
from train.config import DataConfig
from train.data import EMBEDDED, batches, datasets
from train.data.datasets import DataSet
from train.data.normalization import measured
from train.errors import UserError


@pytest.fixture
def numbered(tmp_path: Path) -> DataSet:
    return datasets.load(DataConfig(name=str(write_numbered(tmp_path))))


def test_builder_folder_keeps_images_labels_and_order(numbered: DataSet) -> None:
    assert numbered.input_shape == (2, 3, 3)
    assert numbered.target.num_classes == 2
    assert (numbered.train.count, numbered.test.count) == (10, 3)
    assert numbered.train.arrays[0][:, 1, 2, 0].tolist() == list(range(10))
    assert numbered.train.arrays[1].tolist() == [0, 1] * 5


def test_builder_folder_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    folder = write_numbered(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="numbered"):
        write_numbered(tmp_path, count=4)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["numbered"]


def test_prepared_copy_of_a_tfds_name_is_read_without_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_numbered(tmp_path, name="cifar10", version="3.0.2")
    write_numbered(tmp_path, name="cifar10", version="10.0.0", count=6)
    by_argument = datasets.load(DataConfig(name="cifar10", data_dir=str(tmp_path)))
    assert len(by_argument.train.arrays[1]) == 6  # the newest version, by number
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(datasets.load(DataConfig(name="cifar10:3.0.2")).train.arrays[1]) == 10


@pytest.mark.parametrize(("file_format", "files"), [("tfrecord", 3), ("array_record", 3)])
def test_every_file_format_is_read_into_memory_in_order(
    tmp_path: Path, file_format: str, files: int
) -> None:
    folder = write_numbered(tmp_path, file_format=file_format, files=files)
    images = datasets.load(DataConfig(name=str(folder), train_split="train[20%:]", take=7))
    assert images.train.arrays[0][:, 1, 2, 0].tolist() == list(range(2, 9))
    assert images.train.arrays[1].tolist() == [0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("file_format", "by_index"), [("tfrecord", False), ("array_record", True), ("parquet", True)]
)
def test_file_format_decides_how_the_disk_is_read(
    tmp_path: Path, file_format: str, by_index: bool
) -> None:
    folder = write_numbered(tmp_path, file_format=file_format)
    config = DataConfig(name=str(folder), storage="disk", normalization="unit")
    assert datasets.load(config).train.by_index == by_index


def test_auto_storage_is_memory_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(name=str(write_numbered(tmp_path)), normalization="unit")
    size_bytes = (10 + 3) * (2 * 3 * 3 + 4)  # pixels and a label
    monkeypatch.setattr(datasets, "MAX_BYTES_IN_MEMORY", size_bytes)
    assert datasets.load(config).train.arrays is not None
    monkeypatch.setattr(datasets, "MAX_BYTES_IN_MEMORY", size_bytes - 1)
    assert datasets.load(config).train.arrays is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DataConfig(name="mnits"), "Did you mean 'mnist'?"),
        (DataConfig(name="digit"), "Did you mean 'digits'?"),
        (
            DataConfig(name=str(EMBEDDED["digits"].parent)),
            "has no folder train with a folder of images for every class",
        ),
        (DataConfig(name="coco"), "has images of many sizes. Expected data.image_size"),
        (DataConfig(name="celeb_a"), "Expected an image and a class label, or objects with a bbox"),
        (DataConfig(name="imdb_reviews"), "holds text, label."),
        (DataConfig(name="imagenet2012"), "images of many sizes. Expected data.image_size"),
        (
            DataConfig(name="imagenet2012", image_size=224, storage="memory"),
            "data.storage is memory, but data.name=imagenet2012 has images of many sizes",
        ),
        (DataConfig(name="imagenet2012", image_size=224), "Expected imagenet, unit or none."),
        (DataConfig(name="mnist:9.9.9"), "cannot be loaded at version 9.9.9"),
        (
            DataConfig(test_split="validation"),
            "data.test_split is 'validation', which holds nothing. Expected train or test",
        ),
        (
            DataConfig(train_split="train[:0]"),
            "data.train_split is 'train[:0]', which holds nothing.",
        ),
        (
            DataConfig(take=1438),
            "data.take is 1438, but data.train_split=train has 1437",
        ),
        (DataConfig(storage="disk"), "digits stay where they are. Expected imagenet, unit or none"),
        (
            DataConfig(normalization="imagenet"),
            "is for 3 channels, but data.name=digits has inputs of shape (8, 8, 1)",
        ),
        (
            DataConfig(augmentation="pad_crop_flip", pad=8),
            "data.pad is 8, but the images of data.name=digits have 8 pixels on a side",
        ),
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


def test_random_resized_crop_needs_a_size() -> None:
    with pytest.raises(UserError, match=r"random_resized_crop needs data\.image_size"):
        DataConfig(augmentation="random_resized_crop")


def test_set_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_BYTES_IN_MEMORY", 1000)
    with pytest.raises(UserError, match="name a part of it"):
        datasets.load(DataConfig(storage="memory"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"storage": "disk", "normalization": "unit"}, "array_record"),
        ({"name": "imagenet2012", "image_size": 24, "normalization": "none"}, "array_record"),
    ],
    ids=["memory", "disk", "many sizes"],
)
def test_sets_that_stay_on_the_disk_are_fetched_as_array_record(
    options: dict, expected: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def download_and_prepare(builder: object, file_format: str | None) -> None:
        asked.append(file_format)
        raise ConnectionError

    monkeypatch.setattr(
        "tensorflow_datasets.core.DatasetBuilder.download_and_prepare", download_and_prepare
    )
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())
    config = DataConfig(**{"name": "mnist", "data_dir": str(tmp_path)} | options)
    with pytest.raises(UserError, match="could not be fetched") as caught:
        datasets.load(config)
    assert asked == [expected]
    assert ("archives" in str(caught.value)) == (config.name == "imagenet2012")


def test_without_network_the_first_host_is_asked_once_and_the_sentence_says_how_to_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def urlopen(request: urllib.request.Request, timeout: float) -> None:
        asked.append(timeout)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(UserError, match="Name or service not known") as caught:
        datasets.load(DataConfig(name="mnist", data_dir=str(tmp_path)))
    assert asked == [5.0]
    assert "with --data.data_dir=FOLDER, and bring FOLDER here" in str(caught.value)
    assert "arrays (.npz), a folder of images or one in COCO's layout" in str(caught.value)


def test_pixels_are_normalised_by_the_training_images() -> None:
    images = datasets.load(DataConfig())
    raw = images.test.arrays[0].astype(np.float64)
    train = images.train.arrays[0].astype(np.float64)
    expected = {"standard": (raw - train.mean()) / train.std(), "unit": raw / 16, "none": raw}
    for name, pixels in expected.items():
        config, spec = DataConfig(normalization=name), tf.TensorSpec(images.input_shape, tf.uint8)
        seen = measured(images.train, spec, config)(images.test.arrays[0])
        np.testing.assert_allclose(seen, pixels, atol=1e-5)


def test_standard_measures_every_channel_of_the_images_taken(tmp_path: Path) -> None:
    images = datasets.load(DataConfig(name=str(write_noise(tmp_path)), take=4))
    assert images.train.count == 4
    rows = batches.training_batches(
        images, DataConfig(), batch_size=4, seed=1, first_step=0, last_step=1
    )
    [(seen, _)] = rows.as_numpy_iterator()
    np.testing.assert_allclose(seen.mean((0, 1, 2)), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(seen.std((0, 1, 2)), np.ones(3), atol=1e-5)


@pytest.mark.parametrize(("normalization", "scale"), [("unit", 255), ("none", 1)])
def test_normalisation_on_the_disk_measures_nothing(
    tmp_path: Path, normalization: str, scale: float
) -> None:
    config = DataConfig(
        name=str(write_numbered(tmp_path)), storage="disk", normalization=normalization
    )
    [(seen, _, _)] = batches.evaluation_batches(datasets.load(config), 3).as_numpy_iterator()
    np.testing.assert_allclose(seen[:, 0, 0, 0], np.arange(3) / scale, atol=1e-6)


def test_imagenet_constants_are_those_of_torchvision(tmp_path: Path) -> None:
    config = DataConfig(
        name=str(write_imagenet(tmp_path)),
        test_split="validation",
        image_size=24,
        normalization="imagenet",
    )
    [(seen, _, _)] = batches.evaluation_batches(datasets.load(config), 5).as_numpy_iterator()
    fractions = 20 * np.arange(5)[:, None] / 255
    expected = (fractions - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen[:, 12, 12], expected, atol=1e-5)
