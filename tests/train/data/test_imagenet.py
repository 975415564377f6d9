"""JPEGs of many sizes under ImageNet's name: random resized crops, single-crop evaluation."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.train.data.sets import write_imagenet, write_noise
from train.config import DataConfig
from train.data import batches, datasets
from train.data.datasets import DataSet
from train.data.splits import Share


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("tfds")
    write_imagenet(folder)
    return DataConfig(
        name="imagenet2012",
        data_dir=str(folder),
        test_split="validation",
        normalization="none",
        augmentation="random_resized_crop",
        image_size=24,
    )


@pytest.fixture(scope="module")
def images(config: DataConfig) -> DataSet:
    return datasets.load(config)


def train(
    images: DataSet, config: DataConfig, first: int, last: int, share: Share = Share()
) -> list:
    return list(
        batches.training_batches(
            images, config, batch_size=4, seed=3, first_step=first, last_step=last, share=share
        ).as_numpy_iterator()
    )


def numbers(pixels: np.ndarray) -> list[int]:
    return np.rint(pixels.mean(axis=(1, 2, 3)) / 20).astype(int).tolist()


def test_set_is_found_by_name_and_read_by_index(images: DataSet) -> None:
    assert images.train.by_index
    assert images.input_shape == (24, 24, 3)
    assert (images.train.count, images.test.count, images.target.num_classes) == (12, 5, 2)


def test_crops_have_the_size_asked_for_and_an_epoch_every_image(
    images: DataSet, config: DataConfig
) -> None:
    epochs = train(images, config, 0, 6)
    assert all(x.shape == (4, 24, 24, 3) and x.dtype == np.float32 for x, _ in epochs)
    order = np.array([numbers(x) for x, _ in epochs])
    assert sorted(order[:3].flat) == sorted(order[3:].flat) == list(range(12))
    assert (order[:3] != order[3:]).any()
    np.testing.assert_array_equal([y for _, y in epochs], order % 2)


def test_single_crop_counts_every_image_once(images: DataSet) -> None:
    seen = list(batches.evaluation_batches(images, 4).as_numpy_iterator())
    x, y, weight = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert x.shape == (8, 24, 24, 3)
    assert weight.tolist() == [1] * 5 + [0] * 3
    assert numbers(x[:5]) == list(range(5))
    assert y[:5].tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(k, marks=pytest.mark.slow) for k in ("memory", "tfrecord")), "array_record"],
)
def test_random_resized_crop_is_a_function_of_seed_step_and_place(
    tmp_path: Path, kind: str
) -> None:
    folder = write_noise(
        tmp_path, file_format="array_record" if kind == "array_record" else "tfrecord"
    )
    config = DataConfig(
        name=str(folder),
        storage="memory" if kind == "memory" else "disk",
        normalization="none",
        augmentation="random_resized_crop",
        image_size=9,
        shuffle=False,
    )
    images = datasets.load(config)
    replayed = train(images, config, 0, 8)
    halves = train(images, config, 6, 8, Share(0, 2, 2))
    for number, (x, y) in enumerate(replayed[6:]):
        for replica in (0, 1):
            half_x, half_y = halves[2 * number + replica]
            np.testing.assert_array_equal(half_x, x[2 * replica : 2 * replica + 2])
            np.testing.assert_array_equal(half_y, y[2 * replica : 2 * replica + 2])
    np.testing.assert_array_equal(replayed[0][1], replayed[5][1])
    differ = (replayed[0][0] != replayed[5][0]).any(axis=(1, 2, 3))
    assert differ.sum() >= 3  # of 4: these images have few parts


@pytest.mark.parametrize("augmentation", ["none", "pad_crop_flip"])
def test_other_augmentations_start_from_the_single_crop(
    images: DataSet, config: DataConfig, augmentation: str
) -> None:
    config = dataclasses.replace(config, augmentation=augmentation, shuffle=False)
    [(x, _)] = train(images, config, 0, 1)
    assert x.shape == (4, 24, 24, 3)
    assert np.rint(x[:, 12, 12, 0] / 20).tolist() == [0, 1, 2, 3]
