"""The launcher's networks."""

import keras
import numpy as np
import pytest

from train import models
from train.config import ModelConfig, ResNetConfig


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize("name", models.BUILDERS)
def test_every_model_gives_logits(name: str) -> None:
    model = models.build(
        ModelConfig(name=name, resnet=ResNetConfig(width=4)), (8, 8, 1), num_classes=7
    )
    assert model.output_shape == (None, 7)
    assert model.get_layer("head").activation is keras.activations.linear


@pytest.mark.parametrize(
    ("stem", "shape", "classes", "parameters"),
    [("cifar", (32, 32, 3), 10, 11_173_962), ("imagenet", (224, 224, 3), 1000, 11_689_512)],
)
def test_resnet18_has_the_published_number_of_parameters(
    stem: str, shape: tuple[int, int, int], classes: int, parameters: int
) -> None:
    options = ModelConfig(name="resnet18", resnet=ResNetConfig(stem=stem))
    assert trainable(models.build(options, shape, num_classes=classes)) == parameters


@pytest.mark.parametrize("place", ["before_relu", "after_relu"])
def test_batch_norm_stands_on_its_side_of_every_relu(place: str) -> None:
    model = models.build(
        ModelConfig(name="resnet18", resnet=ResNetConfig(width=4, batch_norm=place)),
        (32, 32, 3),
        num_classes=10,
    )
    relus = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert len(relus) == 17
    for relu in relus:
        behind = [type(node.operation) for node in relu._outbound_nodes]
        before = type(relu.input._keras_history.operation)
        if place == "after_relu":
            assert behind == [keras.layers.BatchNormalization]
        else:
            # The last ReLU of a block follows the sum of normalised branches.
            assert before in (keras.layers.BatchNormalization, keras.layers.Add)


def test_same_random_seed_gives_the_same_weights() -> None:
    built = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        built.append(models.build(ModelConfig(), (8, 8, 1), num_classes=10).get_weights())
    for first, second in zip(*built, strict=True):
        np.testing.assert_array_equal(first, second)
    kernels = [weights for weights in built[0] if weights.ndim == 4]
    assert not np.array_equal(kernels[1][..., :16, 0], kernels[2][..., :16, 0])
