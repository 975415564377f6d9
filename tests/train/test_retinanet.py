"""RetinaNet in the launcher: its rules, its logs, how it goes on, and a backbone from a file."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import tfweightmirror as tfwm
from tests.train import killing, stand_in
from train.__main__ import main
from train.config import FitConfig, Part
from train.data.source import Target
from train.detection import anchors
from train.detection.losses import RetinaNetLoss
from train.errors import UserError
from train.parsing.command_line import parse
from train.parts import feedback, models
from train.parts.initial_weights import take_weights
from train.report.frames import Group, read
from train.report.write import report
from train.run.fit import fit

SMALL = {"width": 2, "filters": 4, "depth": 1, "new_initializer": "he_normal"}
SHAPES = (64, 64, 3), (anchors.count(64), 4 + 5)
RETINANET = [
    "--config=configs/xiao2018/coco_retinanet_fa.yaml",
    "--model.options.width=2",
    "--model.options.filters=4",
    "--model.options.depth=1",
    "--optimizer.schedule.boundaries_steps=[6]",
]
TINY = [
    "--model=tests.train.stand_in:detector",
    "--loss=retinanet",
    "--feedback.rule=fa",
    "--data.augmentation=flip",
    "--training.epochs=null",
    "--optimizer.learning_rate=0.001",
]
RUN = [
    "--data.name=tests.train.stand_in:boxes",
    "--data.options={classes: 5, count: 10}",
    "--data.image_size=null",
    "--data.test_split=test",
    "--loss.options.anchor_size=2",
    "--training.steps=8",
    "--training.batch_size=2",
    "--training.test_batch_size=6",  # of 4 images
    "--training.losses_every=2",
    "--training.progress=none",
    "--monitor.measures=[weight_angle]",
    "--checkpoint.every_steps=3",
    "--checkpoint.keep=99",
]


def config_of(directory: Path, *arguments: str) -> FitConfig:
    return parse(["fit", *arguments, *RUN, f"--run_directory={directory}"])[0]


@pytest.fixture(scope="module", params=[TINY, pytest.param(RETINANET, marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 5 steps an epoch, and 3 in the second."""
    directory = tmp_path_factory.mktemp("run") / "run"
    fit(config_of(directory, *request.param))
    return directory


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("retinanet") / "run"
    fit(config_of(directory, *RETINANET))
    return directory


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_losses_are_logged_apart_over_epochs_and_steps(run: Path) -> None:
    epochs, steps = lines_of(run / "metrics.jsonl"), lines_of(run / "steps.jsonl")
    assert [line["step"] for line in steps] == [2, 4, 5, 6, 8]
    assert [line["epoch"] for line in steps] == [1, 1, 1, 2, 2]
    for kind in ("", "val_"):
        for line in epochs:
            both = line[f"{kind}box_loss"] + line[f"{kind}class_loss"]
            np.testing.assert_allclose(line[f"{kind}loss"], both, rtol=1e-5)
    lengths = np.array([2, 2, 1, 1, 2])
    for name in ("loss", "box_loss", "class_loss"):
        values = np.array([line[name] for line in steps])
        assert len(set(values)) == 5
        means = [np.average(values[:3], weights=lengths[:3])]
        means += [np.average(values[3:], weights=lengths[3:])]
        np.testing.assert_allclose(means, [line[name] for line in epochs], rtol=1e-5)
    picture = keras.utils.load_img(run / "boxes.png")
    assert min(picture.size) > 100
    events = EventAccumulator(str(run / "events"), size_guidance={"tensors": 0})
    events.Reload()
    shown = make_ndarray(events.Tensors("boxes")[-1].tensor_proto)
    assert tuple(map(int, shown[:2])) == picture.size
    assert [event.step for event in events.Tensors("by_step/box_loss")] == [2, 4, 5, 6, 8]
    if "val_map_percent" in epochs[0]:  # pycocotools is there
        assert 0 <= epochs[1]["val_map_percent"] <= epochs[1]["val_map_50_percent"] <= 100


def test_anchors_that_reach_no_object_are_told(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", *TINY)
    config = dataclasses.replace(config, loss=Part("retinanet", {"anchor_size": 40}))
    with warnings.catch_warnings(record=True) as caught:  # matplotlib's, too
        warnings.simplefilter("always")
        fit(config)
    told = [str(one.message) for one in caught if "box_loss is 0: in this" in str(one.message)]
    assert len(told) == 1, told
    assert all(line["box_loss"] == 0 for line in lines_of(tmp_path / "run" / "metrics.jsonl"))


def test_report_draws_three_curves_over_steps_and_the_boxes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = Group("one", [read(run)])
    assert list(group.losses) == ["loss", "box_loss", "class_loss"]
    assert list(group.losses.index) == [2, 4, 5, 6, 8]
    report([str(run)], str(tmp_path / "report"))
    assert "training loss of boxes" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.md").read_text()
    assert "](losses.png)" in page
    assert "](boxes_0.png)" in page
    same = (tmp_path / "report" / "boxes_0.png").read_bytes() == (run / "boxes.png").read_bytes()
    assert same
    svg = (tmp_path / "report" / "losses.svg").read_text()
    assert svg.count("<!-- training step -->") == 3


@pytest.mark.slow
@pytest.mark.always
def test_killed_between_two_lines_it_goes_on_to_the_same_bits(
    retinanet: Path, tmp_path: Path
) -> None:
    for step in (3, 5):
        copy = killing.killed_copy(retinanet, tmp_path / str(step), step=step)
        fit(config_of(copy, *RETINANET))
        killing.assert_same_lines_and_bits(retinanet, copy)


@pytest.mark.slow
def test_two_replicas_learn_what_one_does(
    tmp_path: Path, two_replicas: tf.distribute.Strategy
) -> None:
    """The loss of an image is its own, so that no replica needs to know those of the others."""
    mirrored = ("--strategy=mirrored", "--replicas=2")
    fit(config_of(tmp_path / "two", *TINY, *mirrored))
    fit(config_of(tmp_path / "one", *TINY))
    one, two = (lines_of(tmp_path / name / "metrics.jsonl")[-1] for name in ("one", "two"))
    for name in ("loss", "box_loss", "class_loss", "val_loss", "val_box_loss", "val_class_loss"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_evaluate_gives_the_run_s_own_numbers(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    shown, last = json.loads(capsys.readouterr().out), lines_of(run / "metrics.jsonl")[-1]
    for name, value in shown.items():
        np.testing.assert_allclose(value, last[f"val_{name}"], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("rule", [pytest.param("ss", marks=pytest.mark.slow), "fa"])
def test_last_layers_are_backprop_and_b_carries_the_error_below(rule: str) -> None:
    config = parse(["fit", f"--config=configs/xiao2018/coco_retinanet_{rule}.yaml"])[0]
    model = models.build(Part("retinanet", SMALL), *SHAPES)
    feedback.convert(model, config.feedback, seed=0)
    for name in ("class_subnet_last", "box_subnet_last"):
        assert type(model.get_layer(name)) is keras.layers.Conv2D
    pathways = {pathway.name: pathway for pathway in tfwm.pathways(model)}
    assert len(pathways) == 20 + 8 + 2  # ResNet-18, the pyramid, one layer of each subnet
    assert {pathway.rule.name for pathway in pathways.values()} == {config.feedback.rule.name}
    pixels, objects = stand_in.boxes(64, 5, 2)[0]
    images = tf.constant(pixels, tf.float32) / 255
    targets = Target("boxes", (3, 4), 5).prepared(objects, images)
    loss = RetinaNetLoss(anchor_size=2.0)
    trained = [pathway.kernel for pathway in pathways.values()]

    def gradients() -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            value = loss(targets, model(images, training=True))
        return [np.asarray(g) for g in tape.gradient(value, [k.value for k in trained])]

    start = dict(zip(pathways, gradients(), strict=True))
    assert all(np.any(gradient) for gradient in start.values())
    if rule == "ss":  # no variable: the signs of W carry it, with one magnitude
        for pathway in pathways.values():
            carried = np.unique(np.abs(pathway.backward_kernel()))
            assert len(carried) == 1
            assert not np.array_equal(carried, np.unique(np.abs(pathway.kernel)))
        return
    below = [name for name in pathways if name.startswith(("stem", "stage"))]
    doors = ["pyramid_3_lateral", "pyramid_4_lateral", "pyramid_5_lateral", "pyramid_6"]
    for name in doors:
        pathways[name].feedback_kernel.assign(0 * pathways[name].feedback_kernel)
    nothing = dict(zip(pathways, gradients(), strict=True))
    for name, gradient in nothing.items():
        if name in below:
            assert not np.any(gradient), f"{name} learns without the pyramid's B"
        else:
            np.testing.assert_array_equal(gradient, start[name])
    for subnet in ("class_subnet_1", "box_subnet_1"):
        pathways[subnet].feedback_kernel.assign(0 * pathways[subnet].feedback_kernel)
    nothing = dict(zip(pathways, gradients(), strict=True))
    learns = {name for name, gradient in nothing.items() if np.any(gradient)}
    assert learns == {"class_subnet_1", "box_subnet_1"}  # all that the last layers reach by W


def test_backbone_of_a_trained_classifier_is_taken_by_name(tmp_path: Path) -> None:
    options = {"width": 2, "stem": "imagenet"}
    classifier = models.build(Part("resnet18", options), (32, 32, 3), (7,))
    for variable in classifier.variables:  # moving averages, too
        variable.assign(variable + 0.1)
    tfwm.convert_model(classifier, "fa", seed=3)
    classifier.save(tmp_path / "model.keras")
    model = models.build(Part("retinanet", SMALL), *SHAPES)
    tfwm.convert_model(model, {"*_subnet_last": "backprop", "*": "fa"}, seed=4)
    before = {variable.path: np.asarray(variable) for variable in model.variables}
    take_weights(model, tmp_path / "model.keras", ["stem*", "stage*"])
    theirs = {v.path: np.asarray(v) for v in classifier.variables}
    taken = {path for path in before if path.startswith(("stem", "stage"))}
    assert taken == {path for path in theirs if not path.startswith(("head", "seed"))}
    for variable in model.variables:
        expected = theirs if variable.path in taken else before
        np.testing.assert_array_equal(variable, expected[variable.path], err_msg=variable.path)
    with pytest.raises(UserError, match=r"init_from.layers: 'backbone\*' matches no layer"):
        take_weights(model, tmp_path / "model.keras", ["backbone*"])
    with pytest.raises(UserError, match=r"pyramid_5_lateral/kernel is missing .* both have"):
        take_weights(model, tmp_path / "model.keras", ["stem*", "pyramid*"])
    other = models.build(Part("retinanet", SMALL | {"width": 4}), *SHAPES)
    with pytest.raises(UserError, match=r"stem_conv/kernel is \(7, 7, 3, 2\) there and"):
        take_weights(other, tmp_path / "model.keras", ["stem*", "stage*"])


def test_size_is_that_of_the_published_parts() -> None:
    model = models.build(Part("retinanet"), (128, 128, 3), (anchors.count(128), 4 + 80))
    convolution = 9 * 256 * 256 + 256
    pyramid = (128 + 256 + 512 + 3) * 256 + 3 * convolution + (9 * 512 * 256 + 256) + convolution
    subnets = 2 * 4 * convolution + (9 * 256 + 1) * 9 * (4 + 80)
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trained == 11_176_512 + pyramid + subnets  # torchvision's ResNet-18 without its head
    outputs = model(np.zeros((1, 128, 128, 3), "float32"))
    probabilities = 1 / (1 + np.exp(-np.asarray(outputs[..., 4:])))
    np.testing.assert_allclose(probabilities, 0.01, rtol=0.1)  # of each class, at the begin


def test_what_it_cannot_be_built_for_is_refused() -> None:
    for shapes, options, sentence in (
        (((60, 60, 3), (10, 9)), {}, r"a multiple of 32 pixels: set data.image_size"),
        (((64, 32, 3), (10, 9)), {}, r"inputs of shape \(64, 32, 3\). Expected square images"),
        (((64, 64, 3), (10,)), {}, r"outputs of shape \(10,\). Expected data whose targets are"),
        (SHAPES, {"depth": 0}, r"model.options.depth is 0. Expected 1 or more"),
    ):
        with pytest.raises(UserError, match=sentence):
            models.build(Part("retinanet", SMALL | options), *shapes)
