"""Conversion of networks that other people wrote: all of `keras.applications`, RetinaNet."""

import gc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import changes, fit
from tfweightmirror.conversion.twins import has_twin

# Name, the smallest input that it takes (width of a square).
FAST = {
    "MobileNet": 32,
}
SLOW = {
    "MobileNetV2": 32,
    "ResNet50": 32,
    "EfficientNetV2B0": 32,
    "Xception": 71,
    "DenseNet121": 32,
    "ConvNeXtTiny": 32,
    "MobileNetV3Small": 32,
    "ConvNeXtBase": 32,
    "ConvNeXtLarge": 32,
    "ConvNeXtSmall": 32,
    "ConvNeXtXLarge": 32,
    "DenseNet169": 32,
    "DenseNet201": 32,
    "EfficientNetB0": 32,
    "EfficientNetB1": 32,
    "EfficientNetB2": 32,
    "EfficientNetB3": 32,
    "EfficientNetB4": 32,
    "EfficientNetB5": 32,
    "EfficientNetB6": 32,
    "EfficientNetB7": 32,
    "EfficientNetV2B1": 32,
    "EfficientNetV2B2": 32,
    "EfficientNetV2B3": 32,
    "EfficientNetV2L": 32,
    "EfficientNetV2M": 32,
    "EfficientNetV2S": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNetV3Large": 32,
    "NASNetLarge": 331,
    "NASNetMobile": 224,
    "ResNet101": 32,
    "ResNet101V2": 32,
    "ResNet152": 32,
    "ResNet152V2": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "VGG19": 32,
}
CONSTRUCTORS = [
    *(pytest.param(name, width, id=name) for name, width in FAST.items()),
    *(pytest.param(name, width, id=name, marks=pytest.mark.slow) for name, width in SLOW.items()),
]


@pytest.fixture(autouse=True)
def _large_networks_are_freed() -> Iterator[None]:
    yield
    gc.collect()


def test_the_list_is_complete() -> None:
    found = {name for name in dir(keras.applications) if name[0].isupper()}
    assert found == FAST.keys() | SLOW.keys()


@pytest.mark.parametrize(("name", "width"), CONSTRUCTORS)
def test_an_application_is_converted_and_stripped(name: str, width: int) -> None:
    """Outputs do not change by a bit; without B of the classifier nothing below it learns."""
    small = {"weights": None, "input_shape": (width, width, 3), "classes": 7}
    model = getattr(keras.applications, name)(**small, classifier_activation=None)
    x = tf.constant(np.random.default_rng(0).uniform(0, 255, (2, width, width, 3)), "float32")
    plain = [layer for layer in model._flatten_layers() if has_twin(layer)]
    classes, names = [type(layer) for layer in plain], [weight.path for weight in model.weights]
    trainable, output = [weight.trainable for weight in model.weights], model(x).numpy()

    tfwm.convert_model(model, "fa", seed=0)
    assert np.array_equal(model(x), output)
    pathways = tfwm.pathways(model)
    assert {id(pathway.layer) for pathway in pathways} == {id(layer) for layer in plain}
    assert all(pathway.feedback_kernel is not None for pathway in pathways)
    paths = [weight for weight in model.weights if "feedback" not in weight.name]
    assert [weight.path for weight in paths] == names
    assert [weight.trainable for weight in paths] == trainable
    last = pathways[-1]
    kernels = [pathway.kernel for pathway in pathways]

    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True)[:, :3] ** 2)
        return tape.gradient(loss, [kernel.value for kernel in kernels])

    start = gradients()[0]
    last.feedback_kernel.assign(-last.feedback_kernel)
    other = gradients()[0]
    last.feedback_kernel.assign(0 * last.feedback_kernel)
    nothing = gradients()
    assert np.any(start)
    assert not np.array_equal(other, start)
    assert np.any(nothing[-1])
    for pathway, gradient in zip(pathways[:-1], nothing[:-1], strict=True):
        assert not np.any(gradient), f"{pathway.name} learns without the classifier's B"

    tfwm.strip_feedback(model)
    assert [type(layer) for layer in plain] == classes
    assert [weight.path for weight in model.weights] == names


def retinanet() -> keras.Model:
    """A small RetinaNet, compiled its own way."""
    keras_cv = pytest.importorskip("keras_cv")
    backbone = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[64, 8, 8, 8],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        block_type="basic_block",
        include_rescaling=False,
        input_shape=(None, None, 3),
        name="backbone",
    )
    model = keras_cv.models.RetinaNet(
        num_classes=2, bounding_box_format="xywh", backbone=backbone, name="retinanet"
    )
    optimizer = keras.optimizers.SGD(0.01)
    model.compile(optimizer=optimizer, classification_loss="focal", box_loss="smoothl1")
    return model


def boxes() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Two images with a box each."""
    x = np.random.default_rng(0).uniform(0, 1, (2, 64, 64, 3)).astype("float32")
    places = np.array([[[5, 5, 20, 20]], [[10, 10, 30, 20]]], "float32")
    return x, {"boxes": places, "classes": np.array([[0], [1]], "float32")}


def _last_layers(model: keras.Model) -> dict[str, str]:
    """Patterns that leave the last layer of both heads to backprop."""
    heads = (model.classification_head, model.box_head)
    return {f"*/{head.prediction_layer.name}": "backprop" for head in heads}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # KerasCV's own, of many kinds.
def test_retinanet_is_converted_trained_stripped_and_saved_by_weights(tmp_path: Any) -> None:
    """As Xiao et al. 2018 ran it: the last layer of both heads stays on backprop."""
    model, (x, y) = retinanet(), boxes()
    fit(model, x, y)
    tfwm.convert_model(model, {**_last_layers(model), "*": "kp"})
    assert type(model.box_head.prediction_layer) is keras.layers.Conv2D
    names = [pathway.name for pathway in tfwm.pathways(model)]
    assert len(names) == 20 + 8 + 6
    backbone = [name for name in names if name.startswith("backbone")]
    # The way from the pyramid down to the backbone.
    lateral = [p for p in tfwm.pathways(model) if "pyramid" in p.name and p.kernel.shape[2] == 8]
    assert len(lateral) == 4
    start = changes(model, x, y, fit)
    values = [pathway.feedback_kernel.numpy() for pathway in lateral]
    for pathway, value in zip(lateral, values, strict=True):
        pathway.feedback_kernel.assign(-value)
    other = changes(model, x, y, fit)
    for pathway, value in zip(lateral, values, strict=True):
        pathway.feedback_kernel.assign(0 * value)
    nothing = changes(model, x, y, fit)
    for name in backbone:
        assert not np.array_equal(other[name], start[name]), name
        assert np.abs(nothing[name]).max() == 0, f"{name} learns without the pyramid's B"

    model.save_weights(tmp_path / "r.weights.h5")
    loaded = retinanet()
    tfwm.convert_model(loaded, {**_last_layers(loaded), "*": "kp"}, seed=5)
    loaded.load_weights(tmp_path / "r.weights.h5")
    for one, other_one in zip(model.variables, loaded.variables, strict=True):
        assert np.array_equal(one, other_one), one.path
    tfwm.strip_feedback(model)
    fit(model, x, y)
