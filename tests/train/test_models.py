"""The launcher's networks."""

from typing import Any

import keras
import numpy as np
import pytest

from tests.slow import slow_but
from train.config import Part
from train.errors import UserError
from train.parts import models


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"units": [4]},
    "small_conv": {"filters": [4, 4, 4]},
    "alexnet": {"width": 2, "units": 4, "stem": "small"},
    "simpnet": {"filters": 2, "units": 4},
    "deepernet": {"filters": 2, "units": 4},
    "deepernet_s": {"filters": 2, "units": 4},
    "autoencoder": {"units": [4]},
    "rnn": {"units": [4]},
    "transformer": {"width": 8, "blocks": 1},
    "brain_like": {},
    "mobilenet": {},
    "densenet": {"blocks": [1, 1, 1, 1]},
}
SIDE = {"alexnet": 32, "mobilenet": 32, "densenet": 32}  # pixels; others 8


NAMES = models.MODELS.keys() - {"retinanet"}  # test_retinanet.py: it gives no logits alone


@pytest.mark.parametrize("name", slow_but(NAMES - {"resnet50"}, sorted(NAMES)))
def test_every_model_gives_logits(name: str) -> None:
    side = SIDE.get(name, 8)
    model = models.build(Part(name, SMALL.get(name, {"width": 4})), (side, side, 1), (7,))
    assert model.output_shape == (None, 7)
    assert model.get_layer("head").activation is keras.activations.linear


@pytest.mark.parametrize(
    ("name", "stem", "shape", "classes", "parameters"),
    [
        # torchvision's 61,100,840; of 9,344 cells two numbers of BatchNorm instead of a bias.
        ("alexnet", "imagenet", (224, 224, 3), 1000, 61_110_184),
        ("resnet18", "cifar", (32, 32, 3), 10, 11_173_962),
        ("resnet18", "imagenet", (224, 224, 3), 1000, 11_689_512),  # torchvision's
        ("resnet50", "imagenet", (224, 224, 3), 1000, 25_557_032),  # torchvision's
    ],
)
def test_network_has_the_published_number_of_parameters(
    name: str, stem: str, shape: tuple[int, int, int], classes: int, parameters: int
) -> None:
    options = Part(name, {"stem": stem})
    assert trainable(models.build(options, shape, (classes,))) == parameters


RESNETS = {"resnet18": 17, "resnet50": 49}  # ReLUs: one for each convolution but the projections


def small_resnet(name: str, **options: Any) -> keras.Model:
    config = Part(name, {"width": 4, **options})
    return models.build(config, (32, 32, 3), (10,))


@pytest.mark.parametrize("name", slow_but(["resnet18"], RESNETS))
@pytest.mark.parametrize("place", ["before_relu", "after_relu"])
def test_batch_norm_stands_on_its_side_of_every_relu(name: str, place: str) -> None:
    model = small_resnet(name, batch_norm=place)
    relus = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert len(relus) == RESNETS[name]
    for relu in relus:
        behind = [type(node.operation) for node in relu._outbound_nodes]
        before = type(relu.input._keras_history.operation)
        if place == "after_relu":
            assert behind == [keras.layers.BatchNormalization]
        else:
            # The last ReLU of a block follows the sum of normalised branches.
            assert before in (keras.layers.BatchNormalization, keras.layers.Add)


@pytest.mark.parametrize("name", slow_but(["resnet18"], RESNETS))
def test_width_and_stem_set_the_shapes_of_the_stages(name: str) -> None:
    expansion = {"resnet18": 1, "resnet50": 4}[name]
    for stem, first in (("cifar", 32), ("imagenet", 8)):
        model = small_resnet(name, stem=stem)
        ends = [layer.output.shape for layer in model.layers if layer.name.endswith("_sum")]
        stages = list(dict.fromkeys(ends))
        sizes = [first // 2**stage for stage in range(4)]
        widths = [4 * expansion * 2**stage for stage in range(4)]
        expected = [(None, n, n, width) for n, width in zip(sizes, widths, strict=True)]
        assert stages == expected


def test_strides_of_resnet50_stand_in_the_3x3_convolutions() -> None:
    strided = {
        layer.name: layer.kernel_size
        for layer in small_resnet("resnet50").layers
        if isinstance(layer, keras.layers.Conv2D) and layer.strides != (1, 1)
    }
    stages = [f"stage_{stage}_block_1" for stage in (2, 3, 4)]
    assert strided == {f"{stage}_b_conv": (3, 3) for stage in stages} | {
        f"{stage}_shortcut_conv": (1, 1) for stage in stages
    }


def test_mlp_of_the_released_code_draws_weights_and_biases_from_one_normal_law() -> None:
    options = {"units": [500], "activation": "sigmoid", "initializer": "akrout2019_code"}
    model = models.build(Part("mlp", options), (28, 28, 1), (10,))
    for name, fans in (("hidden_1", 784 + 500), ("head", 500 + 10)):
        layer = model.get_layer(name)
        assert np.std(layer.kernel.numpy()) == pytest.approx(fans**-0.5, rel=0.05)
        biases = layer.bias.numpy() * fans**0.5
        assert 0.3 < np.std(biases) < 2.0
    assert model.get_layer("hidden_1").activation is keras.activations.sigmoid


def no_model(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    return 3


def other_shape(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> keras.Model:
    return models.mlp(input_shape, (3,), units=(2,))


def needs(
    input_shape: tuple[int, ...], output_shape: tuple[int, ...], *, depth: int
) -> keras.Model:
    return models.mlp(input_shape, output_shape, units=(2,) * depth)


def test_a_users_own_model_is_built_with_its_options() -> None:
    model = models.build(Part("tests.train.test_models:needs", {"depth": 3}), (5,), (2, 2))
    assert model.output_shape == (None, 2, 2)
    assert len([layer for layer in model.layers if layer.name.startswith("hidden")]) == 3


@pytest.mark.parametrize("scale", [True, False])
def test_batch_norm_and_dropout_are_options(scale: bool) -> None:
    for name in ("mlp", "small_conv"):
        small = SMALL[name]
        options = {"batch_norm": True, "batch_norm_scale": scale, "batch_norm_momentum": 0.5}
        model = models.build(Part(name, {**small, **options, "dropout": 0.1}), (8, 8, 1), (7,))
        norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert norms
        assert {norm.momentum for norm in norms} == {0.5}
        assert all((norm.gamma is not None) == scale for norm in norms)
        assert all((norm.beta is not None) == scale for norm in norms)
        assert any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)
        plain = models.build(Part(name, {**small, "batch_norm": False}), (8, 8, 1), (7,))
        assert not [x for x in plain.layers if isinstance(x, keras.layers.BatchNormalization)]
        # Without BatchNorm's shift the layers in front need biases of their own.
        assert all(layer.use_bias for layer in plain.layers if hasattr(layer, "use_bias"))


@pytest.mark.parametrize("name", ["mlp", "small_conv"])
def test_activations_and_statistics_of_the_papers_have_names(name: str) -> None:
    def layers(**options: Any) -> list[Any]:
        options |= {"batch_norm": True} if "batch_norm_statistics" in options else {}
        model = models.build(Part(name, options), (8, 8, 1), (7,))
        return [x for x in model.layers if type(x).__module__.startswith("tfweightmirror")]

    (half, *_), (mixed, *_) = (
        layers(activation=a) for a in ("saturated_linear_half", "mixed_relu")
    )
    assert half.slope == 0.5
    assert mixed.signs.shape[-1] in (16, 500)
    assert {x.slope for x in layers(activation="saturated_linear")} == {1.0}
    for statistics, current in (("running", True), ("earlier", False)):
        norms = layers(batch_norm_statistics=statistics)
        assert {norm.include_current for norm in norms} == {current}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Part("resnet19"), "Did you mean 'resnet18'?"),
        (
            Part("mlp", {"activation": "rel"}),
            "model.options.activation=rel is not known. Expected the name of a Keras activation",
        ),
        (
            Part("mlp", {"unit": 4}),
            "model.options.unit is not an option of mlp. Expected one of units, activation",
        ),
        (
            Part("mlp", {"units": [1, "b"]}),
            "units is [1, 'b']. Expected a list, each entry",
        ),
        (Part("mlp", {"batch_norm": 1}), "model.options.batch_norm is 1. Expected true or false."),
        (Part("mlp", {"initializer": "he"}), "model=mlp refuses its options:"),
        (Part("small_conv", {"filters": [3]}), "has 1 filters and 3 strides."),
        (Part("resnet18", {"width": 0}), "model.options.width is 0. Expected 1 or more."),
        (Part("resnet18", {"stem": "cifa"}), "Expected cifar or imagenet. Did you mean 'cifar'?"),
        (Part("mlp", {"input_shape": [3]}), "model.options.input_shape is not an option of mlp."),
        (Part("no_such_module:net"), "model is 'no_such_module:net', but there is no module"),
        (Part("train.parts.models.mlp:net"), "but train.parts.models.mlp has no 'net'."),
        (Part("math:pi"), "model=math:pi is 3.14"),
        (Part("tests.train.test_models:no_model"), "gave 3. Expected a Keras model."),
        (
            Part("tests.train.test_models:other_shape"),
            "gives outputs of shape (3,). Expected",
        ),
        (
            Part("tests.train.test_models:needs"),
            "model.options.depth is missing, which",
        ),
    ],
)
def test_unknown_name_is_told_in_one_sentence(config: Part, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        models.build(config, (8, 8, 1), (10,))
    assert expected in str(caught.value)


def test_same_random_seed_gives_the_same_weights() -> None:
    built = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        built.append(models.build(Part("small_conv"), (8, 8, 1), (10,)).get_weights())
    for first, second in zip(*built, strict=True):
        np.testing.assert_array_equal(first, second)
    kernels = [weights for weights in built[0] if weights.ndim == 4]
    assert not np.array_equal(kernels[1][..., :16, 0], kernels[2][..., :16, 0])
