"""Images with boxes: folders in COCO's layout, sets of TensorFlow Datasets, functions."""

import json
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.train.data.coco_folder import COLOURS, annotations, write_folder, write_split
from train.config import DataConfig
from train.data import batches, datasets
from train.data.datasets import DataSet
from train.data.splits import Share
from train.errors import UserError
from train.parsing.command_line import parse
from train.parts.losses import build_loss

SIDE = 64
CLASSES = [3, 7, 90]  # by rising id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("coco"))


def config_of(folder: Path, **options: Any) -> DataConfig:
    given = {
        "train_split": "train2017",
        "test_split": "val2017",
        "normalization": "imagenet",
        "augmentation": "flip",
        "image_size": SIDE,
    }
    return DataConfig(name=str(folder), **(given | options))


def train(
    data: DataSet, config: DataConfig, first: int, last: int, share: Share = Share()
) -> list[Any]:
    return list(
        batches.training_batches(
            data, config, batch_size=4, seed=3, first_step=first, last_step=last, share=share
        ).as_numpy_iterator()
    )


def assert_boxes_are_where_they_are_seen(data: DataSet, batch: Any) -> list[float]:
    """Every box has its class' colour inside and none around; the left sides of all boxes."""
    lefts = []
    for image, objects in zip(*batch, strict=True):
        pixels = data.normalization.undone(image)
        there = objects[objects[:, 4] >= 0]
        assert len(there) in (1, 2)
        assert np.all(objects[len(there) :, 4] == -1)  # padding is behind
        for box in there:
            top, left, bottom, right = np.rint(box[:4]).astype(int)
            colour = COLOURS[CLASSES[int(box[4])]]
            inside = pixels[top + 2 : bottom - 2, left + 2 : right - 2]
            np.testing.assert_allclose(inside, colour, atol=2)
            around = pixels[top + 2 : bottom - 2, [max(left - 3, 0), min(right + 2, SIDE - 1)]]
            assert np.all(np.abs(around - colour) > 20) or left < 3
            lefts.append(float(left))
        taken = np.abs(image).max(axis=2) > 0.01  # padding has the mean colour, 0 for the model
        assert taken.any(axis=1).all() or taken.any(axis=0).all()
        assert not taken.all()
    return lefts


def test_boxes_follow_their_images_through_resizing_padding_and_flips(folder: Path) -> None:
    config = config_of(folder)
    data = datasets.load(config)
    assert (data.train.count, data.test.count, data.train.by_index) == (11, 3, True)
    assert (data.target.kind, data.target.names) == ("boxes", ("dog", "cup", "kite"))
    assert data.output_shape == (9 * (64 + 16 + 4 + 1 + 1), 4 + 3)
    lefts = [
        left
        for batch in train(data, config, 0, 4)
        for left in assert_boxes_are_where_they_are_seen(data, batch)
    ]
    [(test_images, test_objects, weights)] = batches.evaluation_batches(data, 4).as_numpy_iterator()
    assert weights.tolist() == [1, 1, 1, 0]
    whole = assert_boxes_are_where_they_are_seen(data, (test_images[:3], test_objects[:3]))
    assert {left for left in whole if left < SIDE / 2 - 15} <= {3.0, 4.0}  # nobody is flipped
    assert len({left for left in lefts if left > SIDE / 2}) > 1  # some are


def test_any_step_and_any_number_of_replicas_see_the_same(folder: Path) -> None:
    config = config_of(folder)
    data = datasets.load(config)
    whole = train(data, config, 0, 5)
    for part, expected in zip(train(data, config, 3, 5), whole[3:], strict=True):
        assert all(map(np.array_equal, part, expected))
    halves = [train(data, config, 0, 5, Share(n, 1, 2)) for n in (0, 1)]
    for step, expected in enumerate(whole):
        both = [np.concatenate(parts) for parts in zip(*(h[step] for h in halves), strict=True)]
        assert all(map(np.array_equal, both, expected))


def mistaken(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> DataConfig:
    """A folder whose training file was changed after its images were drawn."""
    folder = write_folder(tmp_path / "coco")
    content = annotations(11)
    change(content)
    (folder / "instances_train2017.json").write_text(json.dumps(content))
    return config_of(folder)


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing image": (
        lambda c: c["images"][2].update(file_name="9999.png"),
        r"instances_train2017.json names 9999.png, but \S+ does not exist. Expected every image",
    ),
    "other size": (
        lambda c: c["images"][0].update(width=300),
        "says that 0.png is 300x40 pixels, but it is 90x40. Expected the images that the boxes",
    ),
    "box outside": (
        lambda c: c["annotations"][0].update(bbox=[80, 5, 20, 10]),
        r"annotation 1 has the bbox \[80, 5, 20, 10\] outside its image, 0.png of 90x40 pixels. "
        "Expected x, y, width and height in pixels",
    ),
    "no box": (
        lambda c: c["annotations"][0].update(bbox=[1, 2]),
        r"annotation 1 has the bbox \[1, 2\]. Expected x, y, width and height in pixels",
    ),
    "unknown category": (
        lambda c: c["annotations"][3].update(category_id=4),
        "annotation 4 has category_id 4, which is not among the categories of the file",
    ),
    "unknown image": (
        lambda c: c["annotations"][3].update(image_id=77),
        "annotation 4 has image_id 77, which is not among the images of the file",
    ),
    "no annotations": (
        lambda c: c.update(annotations=[]),
        "has 11 images and 0 annotations. Expected some of each",
    ),
    "no list": (
        lambda c: c.pop("images"),
        r"is no annotation file of COCO \(KeyError: 'images'\). Expected JSON with the lists",
    ),
    "other categories": (
        lambda c: c.update(categories=[*c["categories"], {"id": 91, "name": "owl"}]),
        "has other categories than .* Expected the same ids and names in both",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_files_is_one_sentence(name: str, tmp_path: Path) -> None:
    change, sentence = MISTAKES[name]
    with pytest.raises(UserError, match=sentence):
        datasets.load(mistaken(change, tmp_path))


def test_crowds_and_flat_boxes_are_left_out_and_said(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["iscrowd"] = 1  # of image 0, which has no other
        content["annotations"][1]["bbox"][2] = 0.0

    config = mistaken(change, tmp_path)
    data = datasets.load(config)
    assert data.remark.endswith("train2017: 1 crowds and 1 boxes without an area left out")
    targets = np.concatenate([y for _, y in train(data, config, 0, 4)])
    counts = (targets[..., 4] >= 0).sum(axis=1)
    assert set(counts) == {0, 1, 2}

    def all_crowds(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            one["iscrowd"] = 1

    with pytest.raises(UserError, match="no objects beside 18 crowds left out"):
        datasets.load(mistaken(all_crowds, tmp_path / "more"))


def test_what_boxes_do_not_go_with_is_refused(folder: Path, tmp_path: Path) -> None:
    for options, sentence in (
        ({"augmentation": "pad_crop_flip"}, "which a crop would cut. Expected flip or none"),
        ({"image_size": None}, "has images of many sizes. Expected data.image_size"),
        ({"train_split": "train"}, "train_split is 'train', but data.name=.* has annotations of"),
    ):
        with pytest.raises(UserError, match=sentence):
            datasets.load(config_of(folder, **options))
    odd = datasets.load(config_of(folder, image_size=50))
    with pytest.raises(UserError, match=r"whose side is a multiple of 32 pixels: set data.image"):
        _ = odd.output_shape
    config = parse(["fit", "--loss=softmax"])[0]
    with pytest.raises(UserError, match=r"the targets of data.name are boxes. Expected retinanet"):
        build_loss(config.loss, "boxes")
    config = parse(["fit", "--loss=retinanet"])[0]
    with pytest.raises(UserError, match=r"is of boxes, but data.target is classes. Expected data"):
        build_loss(config.loss, "classes")
    (tmp_path / "instances_a.json").write_text("{")
    with pytest.raises(UserError, match=r"is no annotation file of COCO .JSONDecodeError"):
        datasets.load(config_of(tmp_path, train_split="a", test_split="a"))


def test_small_twin_without_its_folder_says_what_to_give() -> None:
    files = ("coco_retinanet_ss", "small_retinanet")
    config = parse(["fit", *(f"--config=configs/xiao2018/{file}.yaml" for file in files)])[0]
    with pytest.raises(UserError, match=r"data.name=./coco does not exist. .* in COCO's layout"):
        datasets.load(config.data)


def test_cell_without_its_data_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    file = "--config=configs/xiao2018/coco_retinanet_ss.yaml"
    config = parse(["fit", file, f"--data.data_dir={tmp_path}"])[0]
    with pytest.raises(UserError, match=r"coco/2017 could not be fetched .* run the same command"):
        datasets.load(config.data)


def test_objects_of_tensorflow_datasets_are_those_of_the_folder(tmp_path: Path) -> None:
    content = annotations(6)
    content["annotations"][-1]["iscrowd"] = 1
    for split in ("train2017", "val2017"):
        write_split(tmp_path / "coco", split, content)
    inner = {
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(names=["dog", "cup", "kite"]),
        "is_crowd": np.bool_,
    }
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "objects": tfds.features.Sequence(inner),
        }
    )

    def examples() -> Any:
        for image in content["images"]:
            objects = []
            for one in content["annotations"]:
                if one["image_id"] == image["id"]:
                    x, y, width, height = one["bbox"]
                    sides = image["height"], image["width"]
                    box = tfds.features.BBox(
                        y / sides[0], x / sides[1], (y + height) / sides[0], (x + width) / sides[1]
                    )
                    label = CLASSES.index(one["category_id"])
                    crowd = bool(one["iscrowd"])
                    objects.append({"bbox": box, "label": label, "is_crowd": crowd})
            path = tmp_path / "coco" / "train2017" / image["file_name"]
            yield image["id"], {"image": str(path), "objects": objects}

    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        "boxed",
        "1.0.0",
        features,
        {"train": examples(), "test": examples()},
        data_dir=tmp_path,
        disable_shuffling=True,
        file_format="array_record",
    )
    named = config_of(tmp_path / "boxed" / "1.0.0", train_split="train", test_split="test")
    both = [datasets.load(named), datasets.load(config_of(tmp_path / "coco"))]
    assert both[0].target.names == both[1].target.names
    assert both[0].output_shape == both[1].output_shape
    assert "crowds" in both[0].remark
    for one, other in zip(*(train(data, named, 0, 2) for data in both), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1][:, :2], other[1], atol=1e-4)
        assert np.all(one[1][:, 2:, 4] == -1)
