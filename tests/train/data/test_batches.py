"""Batches as functions of (seed, step, place in the global batch), from every kind of storage."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.train.data.sets import write_noise
from train.config import DataConfig
from train.data import batches, datasets, splits
from train.data.datasets import DataSet
from train.data.splits import Share
from train.errors import UserError

BATCH = 4
STEPS_PER_EPOCH = 5  # of 23 images

KINDS = {
    "memory": ("memory", {}),
    "array_record": ("disk", {"file_format": "array_record", "files": 2}),
    "tfrecord": ("disk", {"file_format": "tfrecord", "files": 3}),
}


# Files that are read by index give the same bits as memory, which is tested by itself.
@pytest.fixture(
    scope="module",
    params=["memory", pytest.param("array_record", marks=pytest.mark.slow), "tfrecord"],
)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    storage, kind = KINDS[request.param]
    folder = write_noise(tmp_path_factory.mktemp(request.param), **kind)
    return DataConfig(
        name=str(folder),
        storage=storage,
        normalization="none",
        augmentation="pad_crop_flip",
        pad=2,
    )


@pytest.fixture(scope="module")
def images(config: DataConfig) -> DataSet:
    return datasets.load(config)


def train(images: DataSet, config: DataConfig, first: int, last: int, **options: Any) -> list:
    options = {"batch_size": BATCH, "seed": 7} | options
    dataset = batches.training_batches(images, config, first_step=first, last_step=last, **options)
    return list(dataset.as_numpy_iterator())


def plain(config: DataConfig) -> DataConfig:
    return dataclasses.replace(config, augmentation="none")


@pytest.fixture(scope="module")
def replayed(images: DataSet, config: DataConfig) -> list:
    """The batches of nearly three epochs, whose images are cropped."""
    return train(images, config, 0, 14)


@pytest.fixture(scope="module")
def uncropped(images: DataSet, config: DataConfig) -> list:
    """Two epochs' of the same order."""
    return train(images, plain(config), 0, 2 * STEPS_PER_EPOCH)


def numbers(batch: tuple) -> list[int]:
    """Which images these are, if not augmented."""
    return batch[0][:, 0, 0, 0].astype(int).tolist()


def assert_same(one: list, other: list) -> None:
    assert len(one) == len(other)
    for batch, twin in zip(one, other, strict=True):
        for part, twin_part in zip(batch, twin, strict=True):
            np.testing.assert_array_equal(part, twin_part)


def test_every_epoch_is_a_permutation_of_its_own(images: DataSet, config: DataConfig) -> None:
    seen = [numbers(batch) for batch in train(images, plain(config), 0, 3, batch_size=23)]
    assert [sorted(epoch) for epoch in seen] == [list(range(23))] * 3
    assert list(range(23)) != seen[0] != seen[1] != seen[2]


def test_training_on_the_images_taken_sees_the_first_and_no_others(config: DataConfig) -> None:
    config = dataclasses.replace(plain(config), take=9, train_split="train[10%:]")
    taken = datasets.load(config)
    assert taken.train.count == 9
    seen = [numbers(batch) for batch in train(taken, config, 0, 2, batch_size=9)]
    assert [sorted(epoch) for epoch in seen] == [list(range(2, 11))] * 2


def test_batches_are_whole_and_no_image_comes_twice_in_an_epoch(
    images: DataSet, uncropped: list
) -> None:
    assert batches.steps_per_epoch(images, BATCH) == STEPS_PER_EPOCH
    seen = [numbers(batch) for batch in uncropped]
    assert [len(batch) for batch in seen] == [BATCH] * 10
    left_over = []
    for epoch in (seen[:STEPS_PER_EPOCH], seen[STEPS_PER_EPOCH:]):
        images_seen = {number for batch in epoch for number in batch}
        assert len(images_seen) == 20
        left_over.append(set(range(23)) - images_seen)
    assert left_over[0] != left_over[1]


def test_labels_stay_with_their_images(uncropped: list) -> None:
    for batch in uncropped:
        assert batch[0].dtype == np.float32
        assert batch[1].dtype == np.int32
        assert batch[1].tolist() == [number % 2 for number in numbers(batch)]


def test_entering_at_a_step_gives_what_replaying_to_it_gives(
    images: DataSet, config: DataConfig, replayed: list
) -> None:
    tf.random.set_seed(1)  # is of no influence
    for first in (5, 12):  # at the begin of an epoch, and later in one
        assert_same(replayed[first:], train(images, config, first, 14))


def test_replicas_and_workers_share_the_rows_of_one_replica(
    images: DataSet, config: DataConfig, replayed: list
) -> None:
    def share(first: int, replicas: int, in_all: int) -> list:
        return train(images, config, 3, 12, share=Share(first, replicas, in_all))

    def rows(width: int, *begins: int) -> list:
        return [
            tuple(part[begin : begin + width] for part in batch)
            for batch in replayed[3:12]
            for begin in begins
        ]

    assert_same(rows(2, 2), share(1, 1, 2))
    assert_same(rows(1, 2, 3), share(2, 2, 4))  # the second of two workers of two replicas each


def test_order_is_a_function_of_the_seed(
    images: DataSet, config: DataConfig, uncropped: list
) -> None:
    other = train(images, plain(config), 0, 3, seed=2)
    assert [numbers(batch) for batch in uncropped[:3]] != [numbers(batch) for batch in other]


def test_unshuffled_images_keep_their_order_and_change_their_crops(
    images: DataSet, config: DataConfig
) -> None:
    config = dataclasses.replace(config, shuffle=False)
    order = [numbers(batch) for batch in train(images, plain(config), 0, 6)]
    assert order == [list(range(k, k + 4)) for k in (0, 4, 8, 12, 16, 0)]
    epochs = train(images, config, 0, 6)
    assert (epochs[0][0] != epochs[5][0]).any(axis=(1, 2, 3)).sum() >= 3  # of 4 images


@pytest.mark.parametrize(("batch_size", "replicas"), [(2, 1), (8, 2)])
def test_evaluation_counts_every_image_once_in_order(
    images: DataSet, batch_size: int, replicas: int
) -> None:
    batch_size *= replicas
    steps = batches.evaluation_steps(images, batch_size)
    assert steps == -(-7 // batch_size)
    share = Share(0, replicas, replicas)
    seen = list(batches.evaluation_batches(images, batch_size, share).as_numpy_iterator())
    assert [len(x) for x, _, _ in seen] == [batch_size // replicas] * steps * replicas
    assert [len(w) for _, _, w in seen] == [len(x) for x, _, _ in seen]
    x, y, weight = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert weight.tolist() == [1] * 7 + [0] * (steps * batch_size - 7)
    assert x[:7, 0, 0, 0].tolist() == list(range(23, 30))
    assert y[:7].tolist() == [number % 2 for number in range(23, 30)]


def test_second_worker_evaluates_the_other_rows(images: DataSet) -> None:
    workers = [
        list(batches.evaluation_batches(images, 4, Share(k, 1, 2)).as_numpy_iterator())
        for k in (0, 1)
    ]
    seen = [[x[:, 0, 0, 0][weight == 1].tolist() for x, _, weight in part] for part in workers]
    assert seen == [[[23, 24], [27, 28]], [[25, 26], [29]]]


def test_more_rows_than_images_are_refused(images: DataSet, config: DataConfig) -> None:
    with pytest.raises(UserError, match=r"batch_size is 24, but .* has 23 training examples"):
        train(images, config, 0, 1, batch_size=24)


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_memory_and_indexed_files_give_the_same_bits(tmp_path: Path, file_format: str) -> None:
    folder = write_noise(tmp_path, file_format=file_format, files=2)
    seen = []
    for storage in ("memory", "disk"):
        config = DataConfig(
            name=str(folder),
            storage=storage,
            normalization="imagenet",
            augmentation="pad_crop_flip",
            pad=2,
            train_split="test[3:]+train[5:20]",  # parts, of parquet files too
        )
        data = datasets.load(config)
        assert data.train.count == 4 + 15
        assert (data.train.arrays is None) == (storage == "disk")
        seen.append(train(data, config, 2, 7))
    assert_same(*seen)


def test_entering_late_reads_by_index_only_the_steps_asked_for(
    images: DataSet, config: DataConfig
) -> None:
    read: list[int] = []

    def fetch(indices: np.ndarray) -> Any:
        read.extend(indices.tolist())
        pixels = np.broadcast_to(indices[:, None, None, None], (len(indices), 6, 5, 3))
        return pixels.astype(np.uint8), indices

    specs = (tf.TensorSpec((6, 5, 3), tf.uint8), tf.TensorSpec((), tf.int64))
    images = dataclasses.replace(images, train=splits.by_python(23, fetch, specs))
    seen = train(images, plain(config), 10**9 + 3, 10**9 + 5)
    # Read in any order: several steps at a time.
    assert sorted(number for batch in seen for number in numbers(batch)) == sorted(read)
    assert len(read) == 2 * BATCH


def test_flip_shows_every_image_as_it_is_or_mirrored(images: DataSet, config: DataConfig) -> None:
    plain, flipped = (
        np.concatenate([x for x, _ in train(images, changed, 0, STEPS_PER_EPOCH)])
        for changed in (dataclasses.replace(config, augmentation=kind) for kind in ("none", "flip"))
    )
    same = [np.array_equal(one, other) for one, other in zip(plain, flipped, strict=True)]
    mirrored = np.where(np.array(same)[:, None, None, None], plain, plain[:, :, ::-1])
    np.testing.assert_array_equal(flipped, mirrored)
    assert 3 < sum(same) < len(same) - 3
