"""The papers' networks: layers, initial weights, and what they refuse."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from train.config import DataConfig, Part
from train.data.characters import next_character
from train.data.datasets import load
from train.errors import UserError
from train.parts import models
from train.parts.models.tokens import check_tokens

IMAGE, CLASSES = (32, 32, 3), (10,)


def build(name: str, shape: tuple[int, ...] = IMAGE, **options: Any) -> keras.Model:
    return models.build(Part(name, options), shape, CLASSES)


def test_alexnet_has_the_maps_of_torchvisions() -> None:
    model = build("alexnet", (224, 224, 3), width=8, units=16)
    maps = [model.get_layer(f"conv_{n}").output.shape[1:3] for n in range(1, 6)]
    assert maps == [(55, 55), (27, 27), (13, 13), (13, 13), (13, 13)]
    assert model.get_layer("flatten").output.shape == (None, 6 * 6 * 32)
    for layer in model.layers:
        if isinstance(layer, keras.layers.ReLU):  # BatchNorm before every one, as Xiao et al. say
            assert isinstance(layer.input._keras_history.operation, keras.layers.BatchNormalization)
    assert not [x for x in model.layers if isinstance(x, keras.layers.Dropout)]


@pytest.mark.parametrize("name", ["simpnet", "deepernet", "deepernet_s"])
def test_amits_networks_have_the_layers_of_the_text(name: str) -> None:
    model = build(name)
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    texts = {
        "simpnet": [(5, 32)],
        "deepernet": [(3, n) for n in (16, 16, 32, 32, 64, 64, 128, 128)],
        "deepernet_s": [(3, 16), (3, 16), (3, 64), (3, 64), (2, 64), (2, 64)],
    }
    assert [(x.kernel_size[0], x.filters) for x in convolutions] == texts[name]
    flat = {"simpnet": 16 * 16 * 32, "deepernet": 4 * 4 * 128, "deepernet_s": 3 * 3 * 64}
    assert model.get_layer("dense").kernel.shape == (flat[name], 500)
    drops = {"simpnet": [0.8, 0.3], "deepernet": [0.5, 0.8], "deepernet_s": [0.5, 0.5]}
    assert [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)] == drops[name]
    assert not any(x.use_bias for x in model.layers if hasattr(x, "use_bias"))
    # The sum adds two convolutions, of which the first feeds the second.
    for layer in model.layers:
        if isinstance(layer, keras.layers.Add):
            a, b = (tensor._keras_history.operation for tensor in layer.input)
            assert b.input._keras_history.operation.input is a.output


def test_initializers_of_papers_codes_have_their_variance() -> None:
    variances = {
        "xiao2018_code": 2 / (9 * 128),  # footnote 2 of the paper: 2 / (kw kh c_out)
        "akrout2019_code": 1 / (9 * 64 + 9 * 128),
        "pytorch": 1 / (3 * 9 * 64),
    }
    for name, variance in variances.items():
        model = build("resnet18", initializer=name, width=64)
        layer = model.get_layer("stage_2_block_1_a_conv")
        assert np.var(layer.kernel.numpy()) == pytest.approx(variance, rel=0.03)
        bound = np.abs(layer.kernel.numpy()).max()
        assert (bound < variance**0.5 * 3**0.5 * 1.001) == (name == "pytorch")
    same = [build("resnet18", width=4, initializer="pytorch") for _ in range(2)]
    a, b = (m.get_layer("stage_1_block_1_a_conv").kernel.numpy() for m in same)
    c = same[0].get_layer("stage_1_block_1_b_conv").kernel.numpy()  # no draw is shared
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)
    with pytest.raises(UserError, match="initializer=he_norml is not known"):
        build("resnet18", initializer="he_norml")


def test_rnn_of_khandwala_and_bedi_adds_its_inputs() -> None:
    model = build("rnn", (5, 3), units=[3], cell="added_input")
    tfwm.convert_model(model, "feedback_alignment")
    cell, head = model.get_layer("recurrent_1").cell, model.get_layer("head")
    assert cell.kernel.trainable is False
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    state = np.zeros((4, 3), "float32")
    for step in range(5):
        state = 1 / (1 + np.exp(-(state @ cell.recurrent_kernel.numpy() + x[:, step])))
    np.testing.assert_allclose(model(x), state @ head.kernel.numpy(), rtol=1e-5)
    assert {v.path.split("/")[-1] for v in model.trainable_variables} == {
        "recurrent_kernel",
        "kernel",
    }


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("rnn", (5, 3), {"units": [4], "cell": "added_input"}, r"Expected one layer .*\[3\]"),
        ("rnn", (5, 3), {"tokens": 7}, "Expected rows of whole numbers, or tokens=0"),
        ("rnn", (5,), {}, "tokens with model.options.tokens"),
        ("transformer", (5, 3), {"width": 9, "heads": 2}, "Expected heads that divide the width"),
        ("transformer", (5, 3), {"blocks": -1}, "blocks is -1"),
        ("rnn", (5, 3), {"units": []}, "Expected the cells of one layer or more"),
        ("simpnet", IMAGE, {"activation": "saturated"}, "activation=saturated is not known"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    name: str, shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(name, shape, **options)


@pytest.mark.parametrize("name", ["rnn", "transformer"])
def test_tokens_are_seen_one_hot(name: str) -> None:
    model = build(name, (6,), tokens=5)
    assert not np.allclose(model(np.full((1, 6), 1)), model(np.full((1, 6), 2)))
    shuffled = np.array([[1, 2, 3, 4, 0, 1], [2, 1, 3, 4, 0, 1]])
    assert not np.allclose(*model(shuffled).numpy())  # the order counts


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("embeds", [False, True])
def test_other_inputs_than_tokens_are_refused(embeds: bool, split: str, tmp_path: Path) -> None:
    """The layers themselves make nothing of them, and say nothing."""
    text = tmp_path / "text.txt"
    text.write_text("c" * 10 + "ab" * 50 if split == "train" else "ab" * 50 + "c" * 10)
    own = {"length": 2, "file": str(text), "test_share": 0.5}
    config = DataConfig("train.data.characters:next_character", options=own, normalization="none")
    data = load(config)
    layer = keras.layers.Embedding(2, 3) if embeds else None
    model = keras.Sequential([keras.Input((2,)), layer]) if layer else build("rnn", (2,), tokens=2)
    with pytest.raises(UserError, match=rf"data\.{split}_split has tokens from 0 to 2, but .*=3"):
        check_tokens(model, data)
    check_tokens(build("rnn", (2,), tokens=3), data)
    if split == "test":  # tokens for the training are 0 and 1, and are so in units, too
        return
    for normalization in ("standard", "unit"):
        data = load(dataclasses.replace(config, normalization=normalization))
        with pytest.raises(UserError, match=r"normalization changes .* takes inputs for tokens"):
            check_tokens(build("rnn", (2,), tokens=3), data)


def test_transformer_is_converted_without_a_warning_and_saved(tmp_path: Path) -> None:
    model = tfwm.convert_model(build("transformer", (6,), tokens=5), "feedback_alignment")
    x = np.arange(12).reshape(2, 6) % 5
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


def test_characters_are_windows_and_what_comes_next(tmp_path: Path) -> None:
    sets = next_character(4, stride=2)
    inputs, targets = sets.train
    assert inputs.shape == (len(targets), 4)
    np.testing.assert_array_equal(inputs[2:, 0], targets[:-2])  # two windows on, it is the first
    assert sets.num_classes == 62 == len({*np.unique(inputs)} | {*np.unique(targets)})
    text = tmp_path / "text.txt"
    text.write_text("abcab" * 40)
    own = next_character(2, stride=1, test_share=0.5, file=str(text))
    assert own.num_classes == 3
    assert len(own.train[0]) == 100 - 2
    for changed, message in (
        ({"length": 0}, "Expected whole numbers of at least 1"),
        ({"length": 200}, "has 200 characters. Expected more than 200"),
        ({"file": str(tmp_path / "none.txt")}, "cannot be read"),
    ):
        options: dict[str, Any] = {"length": 2, "file": str(text), **changed}
        with pytest.raises(UserError, match=message):
            next_character(**options)
