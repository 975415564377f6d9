"""Data of a user's own: folders of images, arrays, and what a function returns."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from train.__main__ import main
from train.config import DataConfig
from train.data import Sets, batches, datasets, own_function, splits
from train.data.datasets import DataSet
from train.data.splits import Share
from train.errors import UserError
from train.local_cluster import start
from train.run.directory import RunDirectory

RAW = {"normalization": "none"}


def train(data: DataSet, config: DataConfig, first: int, last: int, **options: Any) -> list:
    options = {"batch_size": 4, "seed": 7} | options
    made = batches.training_batches(data, config, first_step=first, last_step=last, **options)
    return list(made.as_numpy_iterator())


def evaluated(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the test set, as the model sees them."""
    rows = [
        (x[weight == 1], y[weight == 1])
        for x, y, weight in batches.evaluation_batches(data, 4).as_numpy_iterator()
    ]
    inputs, targets = (np.concatenate(part) for part in zip(*rows, strict=True))
    return inputs, targets


def assert_same(one: list, other: list) -> None:
    assert len(one) == len(other) > 0
    for batch, twin in zip(one, other, strict=True):
        for part, twin_part in zip(batch, twin, strict=True):
            np.testing.assert_array_equal(part, twin_part)


def images(
    folder: Path, *, size: tuple[int, int] = (5, 4), grey: bool = False, ending: str = "png"
) -> Path:
    """7 training and 3 test images of each of the classes bees and ants; the value is unique."""
    value = 0
    for split, count in (("train", 7), ("test", 3)):
        for name in ("bees", "ants"):
            (folder / split / name / "deep").mkdir(parents=True)
            for number in range(count):
                pixels = np.full((*size, 3), value, np.uint8)
                image = PIL.Image.fromarray(pixels[..., 0] if grey else pixels)
                below = "deep" if number % 2 else "."
                image.save(folder / split / name / below / f"{number}.{ending}")
                value += 10
    return folder


@pytest.mark.parametrize(
    ("storage", "ending"), [("memory", "png"), ("disk", "bmp"), ("disk", "GIF")]
)
def test_folder_of_images_has_classes_in_alphabetical_order(
    tmp_path: Path, storage: str, ending: str
) -> None:
    config = DataConfig(name=str(images(tmp_path, ending=ending)), storage=storage, **RAW)
    data = datasets.load(config)
    assert data.input_shape == (5, 4, 3)
    assert data.output_shape == (2,)
    assert (data.train.count, data.test.count) == (14, 6)
    inputs, labels = evaluated(data)
    by_value = dict(zip(inputs[:, 2, 1, 0].astype(int).tolist(), labels.tolist(), strict=True))
    # 140, 150, 160 are bees, 170, 180, 190 ants.
    assert by_value == {140: 1, 150: 1, 160: 1, 170: 0, 180: 0, 190: 0}


def test_folder_of_images_agrees_with_keras(tmp_path: Path) -> None:
    folder = images(tmp_path, ending="jpeg")
    theirs = keras.utils.image_dataset_from_directory(
        folder / "train", batch_size=1, image_size=(5, 4), shuffle=False, verbose=0
    )
    expected = sorted((float(x.numpy().mean()), int(y[0])) for x, y in theirs)
    data = datasets.load(DataConfig(name=str(folder), **RAW))
    inputs, labels = data.train.arrays
    ours = [(float(x.mean()), int(y)) for x, y in zip(inputs, labels, strict=True)]
    assert sorted(ours) == expected


def test_part_of_a_folder_of_images_has_every_class(tmp_path: Path) -> None:
    parts = {"train_split": "train[:50%]", "test_split": "train[50%:]"}
    data = datasets.load(DataConfig(name=str(images(tmp_path)), **parts))
    seen = [set(split.arrays[1].tolist()) for split in (data.train, data.test)]
    assert seen == [{0, 1}, {0, 1}]
    pixels = [set(split.arrays[0][:, 0, 0, 0].tolist()) for split in (data.train, data.test)]
    assert not pixels[0] & pixels[1]
    assert len(pixels[0] | pixels[1]) == 14


def test_grey_images_have_one_channel_and_images_of_many_sizes_are_cropped(tmp_path: Path) -> None:
    folder = images(tmp_path, size=(9, 9), grey=True)
    PIL.Image.fromarray(np.zeros((20, 12), np.uint8)).save(folder / "train" / "ants" / "large.png")
    with pytest.raises(UserError, match=r"many sizes\. Expected data\.image_size"):
        datasets.load(DataConfig(name=str(folder), **RAW))
    config = DataConfig(name=str(folder), image_size=6, augmentation="random_resized_crop", **RAW)
    data = datasets.load(config)
    assert data.input_shape == (6, 6, 1)
    assert data.train.by_index
    assert train(data, config, 0, 1)[0][0].shape == (4, 6, 6, 1)


def arrays(count: int = 23) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Rows of 3 values, the first of which is the row's number, and classes."""
    rows = np.random.default_rng(3).normal(size=(count + 6, 3)).astype(np.float32)
    rows[:, 0] = np.arange(count + 6)
    labels = np.arange(count + 6) % 3
    return (rows[:count], labels[:count]), (rows[count:], labels[count:])


def write_arrays(folder: Path, kind: str) -> str:
    (x, y), (test_x, test_y) = arrays()
    named = {"x_train": x, "y_train": y, "x_test": test_x, "y_test": test_y}
    if kind == "npz":
        np.savez(folder / "rows.npz", **named)
        return str(folder / "rows.npz")
    for name, array in named.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


@pytest.mark.parametrize(("kind", "storage"), [("npz", "auto"), ("npy", "auto"), ("npy", "disk")])
def test_files_of_arrays_are_read_by_index_and_normalised_by_value(
    tmp_path: Path, kind: str, storage: str
) -> None:
    config = DataConfig(name=write_arrays(tmp_path, kind), storage=storage)
    data = datasets.load(config)
    assert data.train.by_index
    assert (data.input_shape, data.output_shape) == ((3,), (3,))
    (x, _), (test_x, test_y) = arrays()
    inputs, labels = evaluated(data)
    np.testing.assert_allclose(inputs, (test_x - x.mean(0)) / x.std(0), atol=1e-5)
    assert labels.tolist() == test_y.tolist()
    replayed = train(data, config, 0, 12)
    assert_same(replayed[7:], train(data, config, 7, 12))
    if storage == "disk":
        assert isinstance(data.train.arrays[0], np.memmap)


class Rows:
    """An indexable source that counts what is read of it."""

    def __init__(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        self.inputs, self.targets = rows
        self.read = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        self.read += 1
        return self.inputs[index], self.targets[index]


def stream(rows: tuple[np.ndarray, np.ndarray], *, unknown: bool = False) -> tf.data.Dataset:
    dataset = tf.data.Dataset.from_tensor_slices(rows)
    return dataset.filter(lambda *_: True) if unknown else dataset


def returning(monkeypatch: pytest.MonkeyPatch, made: Any, **options: Any) -> DataConfig:
    """A configuration whose data function returns `made`."""
    monkeypatch.setattr(own_function, "imported", lambda key, path: lambda: made)
    return DataConfig(**{"name": "own.data:make"} | options)


def test_array_indexable_and_stream_in_memory_give_the_same_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = arrays()
    makers: list[Callable[[Any], Any]] = [lambda rows: rows, Rows, stream]
    seen = []
    for maker in makers:
        sets = Sets(*map(maker, both), num_classes=3)
        config = returning(monkeypatch, sets, storage="memory")
        data = datasets.load(config)
        assert data.remark == ""
        seen.append([*train(data, config, 2, 9), evaluated(data)])
    assert_same(seen[0], seen[1])
    assert_same(seen[0], seen[2])


def test_indexable_source_is_read_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Rows(one) for one in arrays()]
    config = returning(monkeypatch, Sets(*rows, num_classes=3), **RAW)
    data = datasets.load(config)
    before = rows[0].read
    seen = train(data, config, 10**6, 10**6 + 3)
    assert rows[0].read == before + 12
    assert_same(seen[2:], train(data, config, 10**6 + 2, 10**6 + 3))
    two = train(data, config, 10**6, 10**6 + 3, share=Share(0, 2, 2))
    assert_same([tuple(part[:2] for part in batch) for batch in seen], two[0::2])


def test_stream_is_entered_where_it_was_left_and_says_what_it_cannot_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, unknown = arrays()
    sets = Sets(stream(known), stream(unknown, unknown=True), num_classes=3)
    config = returning(monkeypatch, sets, **RAW)
    data = datasets.load(config)
    assert not data.train.by_index
    assert (data.train.count, data.test.count) == (23, 6)
    assert "is read from the front" in data.remark
    replayed = train(data, config, 0, 12)
    assert_same(replayed[7:], train(data, config, 7, 12))
    orders = [np.concatenate([x[:, 0] for x, _ in replayed[k : k + 5]]) for k in (0, 5)]
    assert (orders[0] != orders[1]).any()
    assert all(len(set(order)) == 20 for order in orders)


def test_kinds_of_targets_decide_what_a_model_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (test_x, test_y) = arrays()

    def load(train_y: Any, other_y: Any, **options: Any) -> DataSet:
        sets = ((x, train_y), (test_x, other_y))
        return datasets.load(returning(monkeypatch, sets, **options))

    values = load(y + 0.5, test_y + 0.5)
    assert (values.target.kind, values.output_shape) == ("values", (1,))
    assert evaluated(values)[1].tolist() == (test_y + 0.5)[:, None].tolist()
    wide = np.ones((len(y), 2, 5)), np.ones((len(test_y), 2, 5))
    assert load(*wide).output_shape == (2, 5)
    assert load(y, test_y, target="values").output_shape == (1,)
    assert load(y[:, None], test_y[:, None]).target.kind == "classes"
    alone = load(None, None, target="inputs")
    assert alone.output_shape == alone.input_shape == (3,)
    inputs, targets = evaluated(alone)
    np.testing.assert_array_equal(inputs, targets)


def test_boxes_of_a_function_are_shares_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((5, 32, 64, 3), np.uint8)
    boxes = {
        "boxes": np.tile([0.25, 0.5, 0.75, 1.0], (5, 6, 1)),
        "classes": np.tile([2, 0, 1, 1, -1, -1], (5, 1)),
    }
    pair = (pixels, boxes)
    data = datasets.load(returning(monkeypatch, (pair, pair)))
    assert (data.target.kind, data.target.shape, data.target.num_classes) == ("boxes", (6, 4), 3)
    [(_, targets), *_] = train(data, DataConfig(), 0, 1)
    assert targets.shape == (4, 6, 5)
    np.testing.assert_array_equal(targets[0, :2], [[8, 32, 24, 64, 2], [8, 32, 24, 64, 0]])
    with pytest.raises(UserError, match=r"shape \(32, 64, 3\). Expected square images whose side"):
        _ = data.output_shape
    boxes["classes"][0, 0] = -2
    with pytest.raises(UserError, match=r"classes from -2 to 2. Expected -1 to 2, or"):
        datasets.load(returning(monkeypatch, (pair, pair)))


def test_grey_pixels_without_a_channel_are_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    pair = (pixels, np.arange(5) % 2)
    config = returning(monkeypatch, (pair, pair), augmentation="pad_crop_flip", pad=1)
    data = datasets.load(config)
    assert data.input_shape == (4, 4, 1)
    assert train(data, config, 0, 1)[0][0].shape == (4, 4, 4, 1)


def test_arrays_too_large_for_memory_are_read_batch_by_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "MAX_BYTES_IN_MEMORY", 100)
    config = returning(monkeypatch, arrays())
    read: list[Any] = []
    original = splits.in_memory
    monkeypatch.setattr(splits, "in_memory", lambda *a, **b: read.append(a) or original(*a, **b))
    large = datasets.load(config)
    assert not read
    monkeypatch.undo()
    small = datasets.load(returning(monkeypatch, arrays()))
    assert_same(train(large, config, 0, 7), train(small, config, 0, 7))


class FaultyRows(Rows):
    """One of whose examples cannot be read."""

    fault = "missing"

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        if index == 5 and self.fault == "missing":
            raise KeyError("row five\nis missing")
        if index == 5 and self.fault == "end":
            raise StopIteration
        cut = 2 if index == 5 else 3
        return self.inputs[index][:cut], self.targets[index]


def faulty() -> Sets:
    return Sets(*map(FaultyRows, arrays()), num_classes=3)


MISSING = f"fails in __getitem__ ({__file__}, line {{}}): KeyError: 'row five\\nis missing'"


@pytest.mark.parametrize(
    ("storage", "fault", "expected"),
    [
        ("memory", "missing", MISSING),
        ("disk", "missing", MISSING),
        ("disk", "end", "fails in __getitem__ ("),  # which would end a dataset in silence
        ("disk", "shape", "is of (TensorSpec(shape=(2,)"),
    ],
    ids=["memory", "missing", "end", "shape"],
)
def test_failing_getitem_is_named_with_its_place_and_its_error(
    monkeypatch: pytest.MonkeyPatch, storage: str, fault: str, expected: str
) -> None:
    monkeypatch.setattr(FaultyRows, "fault", fault)
    config = returning(monkeypatch, faulty(), storage=storage, **RAW)

    def read() -> None:
        data = datasets.load(config)
        with splits.faults_named(data.train, data.test):
            train(data, config, 0, 10)

    with pytest.raises(UserError) as caught:
        read()
    line = FaultyRows.__getitem__.__code__.co_firstlineno + 2
    of_five = f"data.name=own.data:make: example 5 of train {expected.format(line)}"
    assert of_five in str(caught.value)
    assert "\n" not in str(caught.value)
    if fault != "shape":  # the user's own error, not that of TensorFlow
        assert isinstance(caught.value.__cause__, (KeyError, StopIteration))


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_failing_generator_of_a_dataset_is_named_with_its_place_and_its_error(
    monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    rows = FaultyRows(arrays()[0])

    def examples() -> Iterator[tuple[np.ndarray, Any]]:
        return (rows[index] for index in range(len(rows)))

    signature = (tf.TensorSpec(3), tf.TensorSpec((), tf.int64))
    dataset = tf.data.Dataset.from_generator(examples, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(rows)))
    sets = Sets(dataset, stream(arrays()[1]), num_classes=3)
    config = returning(monkeypatch, sets, storage=storage, **RAW)

    def read() -> None:
        data = datasets.load(config)
        with splits.faults_named(data.train, data.test):
            train(data, config, 0, 5)

    line = FaultyRows.__getitem__.__code__.co_firstlineno + 2
    with pytest.raises(UserError) as caught:
        read()
    assert str(caught.value) == f"data.name=own.data:make {MISSING.format(line)}"


def test_failing_getitem_ends_a_run_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "--data.name=tests.train.data.test_own_data:faulty"
    small = ["--model=mlp", "--training.batch_size=4", "--training.progress=none"]
    raw = "--data.normalization=none"
    assert main(["fit", name, raw, *small, f"--run_directory={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "example 5 of train fails in __getitem__ (" in error
    assert error.count("\n") == 1


def test_failing_function_is_named_with_its_place_and_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise OSError("no disk")

    monkeypatch.setattr(own_function, "imported", lambda key, path: broken)
    with pytest.raises(UserError, match=r"fails in broken \(.*, line \d+\): OSError: no disk"):
        datasets.load(DataConfig(name="own.data:make"))


X, Y = arrays()[0]
PAIR = (X, Y)
BAD_SETS: list[tuple[Any, dict[str, Any], str]] = [
    (5, {}, "returned int. Expected (train, test), or train.data.Sets."),
    ((PAIR, stream(PAIR)), {}, "a test set of type"),
    ((PAIR, (X[:4], Y)), {}, "has 4 inputs and 23 targets for test"),
    ((PAIR, (X[:, :2], Y)), {}, "Expected one shape and type of inputs"),
    ((PAIR, (X.astype(object), Y)), {}, "Expected arrays of numbers"),
    ((PAIR, (X, None)), {}, "Expected arrays of numbers"),
    (((X, np.stack([Y, Y], 1)),) * 2, {}, "Expected data.target=values, or whole numbers"),
    (((X, Y + 0.5),) * 2, {"target": "classes"}, "but its target is classes"),
    (((X, Y - 1),) * 2, {}, "has classes from -1 to 1. Expected 0 to 1"),
    (Sets(PAIR, PAIR, num_classes=2), {}, "has classes from 0 to 2. Expected 0 to 1"),
    ((Rows(PAIR), Rows(PAIR)), RAW, "does not say how many classes it has"),
    (Sets(Rows(PAIR), Rows(PAIR), num_classes=3), {}, "or data.storage=memory"),
    (
        Sets(Rows(PAIR), Rows(PAIR), num_classes=3),
        {"normalization": "unit"},
        "are no pixels of 0 to 255",
    ),
    (Sets(stream(PAIR).batch(4), stream(PAIR), num_classes=3), RAW, "unbatch() them"),
    (Sets(stream(PAIR).repeat(), stream(PAIR), num_classes=3), RAW, "a train set without end"),
    ((PAIR, PAIR), {"augmentation": "pad_crop_flip"}, "data.augmentation is pad_crop_flip, but"),
    ((PAIR, PAIR), {"image_size": 8}, "data.image_size is 8, but"),
    ((PAIR, PAIR), {"normalization": "imagenet"}, "has inputs of shape (3,)"),
    ((PAIR, PAIR), {"test_split": "tset"}, "Did you mean 'test'?"),
    ((PAIR, PAIR), {"take": 24}, "data.take is 24, but data.train_split=train has 23 examples"),
    (((np.full_like(X, np.nan), Y),) * 2, {}, "training inputs that are not finite"),
    (({"x": 1}, PAIR), {}, "Expected of both a pair of arrays"),
    (([], []), RAW, "Expected at least one of each"),
    (([1.5], [2.5]), RAW, "Expected (input, target)"),
]


@pytest.mark.parametrize(("made", "options", "expected"), BAD_SETS, ids=range(len(BAD_SETS)))
def test_unusable_data_of_a_function_get_one_sentence(
    monkeypatch: pytest.MonkeyPatch, made: Any, options: dict[str, Any], expected: str
) -> None:
    config = returning(monkeypatch, made, **options)
    with pytest.raises(UserError) as caught:
        datasets.load(config)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def broken(folder: Path) -> str:
    (images(folder / "set") / "train" / "ants" / "text.png").write_text("no image")
    return str(folder / "set")


def class_of_the_test_set_alone(folder: Path) -> str:
    (images(folder / "set") / "test" / "wasps").mkdir()
    return str(folder / "set")


def no_arrays(folder: Path) -> str:
    (folder / "a.npz").write_bytes(b"PK")
    return str(folder / "a.npz")


def one_array(folder: Path) -> str:
    np.savez(folder / "a.npz", z=X)
    return str(folder / "a.npz")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: str(folder / "no" / "where"), "/no/where does not exist. Expected a .npz"),
        (lambda folder: str(Path(__file__)), "is no .npz file. Expected"),
        (lambda folder: str(folder), "has no folder train with a folder of images for every class"),
        (broken, "text.png is no image"),
        (class_of_the_test_set_alone, "has the class wasps in"),
        (no_arrays, "cannot be read"),
        (one_array, "Expected x_train, y_train, x_test and y_test"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_path_gets_one_sentence(
    tmp_path: Path, make: Callable[[Path], str], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        datasets.load(DataConfig(name=make(tmp_path), **RAW))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_damaged_image_is_named_when_its_turn_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    folder = images(tmp_path / "set", size=(30, 30), ending="jpeg")
    file = folder / "train" / "bees" / "2.jpeg"
    noise = np.random.default_rng(1).integers(0, 256, (30, 30, 3), np.uint8)
    PIL.Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-300])
    arguments = [f"--data.name={folder}", f"--data.storage={storage}", "--data.normalization=unit"]
    small = ["--model=mlp", "--training.batch_size=14", "--training.progress=none"]
    assert main(["fit", *arguments, *small, f"--run_directory={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert f"data.name names a folder in which {file} is damaged. Expected a whole image" in error
    assert error.count("\n") == 1


def test_name_that_is_no_function_gets_one_sentence() -> None:
    with pytest.raises(UserError, match=r"is 3\.14\d+\. Expected a function that returns"):
        datasets.load(DataConfig(name="math:pi"))


def test_options_without_a_function_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.options is given, but data\.name=mnist:3\.0\.1 is"):
        DataConfig(name="mnist:3.0.1", options={"a": 1})


@pytest.mark.parametrize("kind", ["values", pytest.param("autoencoder", marks=pytest.mark.slow)])
def test_regression_and_autoencoder_train_and_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    data = ["--data.name=digits", "--data.target=inputs", "--data.take=160"]
    if kind == "values":
        (x, _), (test_x, _) = arrays(64)
        law = np.array([0.1, 2, -1], np.float32)
        data = [f"--data.name={tmp_path / 'rows.npz'}"]
        rows = {"x_train": x, "y_train": x @ law, "x_test": test_x, "y_test": test_x @ law}
        np.savez(tmp_path / "rows.npz", **rows)
    model = ["--model=mlp", "--model.options.units=[16]", "--feedback.rule=bp"]
    training = ["--training.epochs=3", "--training.batch_size=16", "--training.progress=none"]
    loss = ["--loss=mean_squared_error", '--metrics=["mean_absolute_error"]']
    run = tmp_path / "run"
    assert main(["fit", *data, *model, *training, *loss, f"--run_directory={run}"]) == 0
    lines = RunDirectory(run).metrics()
    measures = {key for key in lines[0] if key.startswith("val_")}
    assert measures == {"val_loss", "val_mean_absolute_error"}
    assert lines[-1]["val_loss"] < 0.9 * lines[0]["val_loss"]
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert f"loss            {lines[-1]['val_loss']:.4f}" in capsys.readouterr().out


def by_index() -> Sets:
    return Sets(*map(Rows, arrays()), num_classes=3)


def from_the_front() -> Sets:
    return Sets(*map(stream, arrays()), num_classes=3)


def small_run(name: str, directory: Path) -> list[str]:
    options = ["--data.normalization=none", "--model=mlp", "--model.options.units=[8]"]
    training = ["--training.epochs=2", "--training.batch_size=4", "--training.progress=none"]
    rate = ["--optimizer.learning_rate=0.001", "--training.test_batch_size=4"]
    data = f"--data.name={__name__}:{name}"
    return ["fit", data, *options, *training, *rate, f"--run_directory={directory}"]


def on_two_workers(name: str, directory: Path) -> list[tuple[int, str]]:
    """Statuses, and what the workers say."""
    workers = start(
        2,
        small_run(name, directory),
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = [worker.communicate(timeout=240)[0] for worker in workers]
    return [(worker.returncode, text) for worker, text in zip(workers, said, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["by_index", "from_the_front"])
def test_two_workers_train_on_the_same_data_of_a_function_as_one(tmp_path: Path, name: str) -> None:
    ended = on_two_workers(name, tmp_path / "two")
    assert [status for status, _ in ended] == [0, 0], ended
    assert main(small_run(name, tmp_path / "one")) == 0
    one, two = (
        keras.models.load_model(tmp_path / run / "model.keras").get_weights()
        for run in ("one", "two")
    )
    for weights, twin in zip(one, two, strict=True):
        np.testing.assert_allclose(weights, twin, atol=1e-5)
    last, twin = (RunDirectory(tmp_path / run).metrics()[-1] for run in ("one", "two"))
    assert last["val_loss"] == pytest.approx(twin["val_loss"], abs=1e-5)


@pytest.mark.slow
def test_example_that_one_worker_cannot_read_ends_both(tmp_path: Path) -> None:
    """Each reads its own rows, so that one alone comes to the faulty example."""
    ended = on_two_workers("faulty", tmp_path / "run")
    assert all(status for status, _ in ended), ended
    assert sum("example 5 of train fails in __getitem__ (" in said for _, said in ended) == 1
    assert not any("Traceback" in said for _, said in ended), ended
