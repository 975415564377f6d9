"""Constraints and sign flips from a configuration."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.train.test_resume import SMALL
from tfweightmirror.training import FixedSign, GlorotClip, Sparse
from train.config import Part
from train.errors import UserError
from train.parsing.command_line import parse
from train.parts import models
from train.parts.constraints import add_constraints, check_optimizer, renew_constraints
from train.run.fit import fit

TWO = Part("mlp", {"units": [8, 8]})


def network() -> Any:
    return models.build(TWO, (4,), (3,))


def test_the_first_pattern_that_matches_decides() -> None:
    model = network()
    options = {"per": "neuron", "hold": 1e-10}
    parts = {"head": "glorot_clip", "hidden_1": "max_norm", "*": ("fixed_sign", options)}
    table = {k: Part(v) if isinstance(v, str) else Part(*v) for k, v in parts.items()}
    add_constraints(model, table)
    head, first, second = (
        model.get_layer(name).kernel.constraint for name in ("head", "hidden_1", "hidden_2")
    )
    assert isinstance(head, GlorotClip)
    assert isinstance(first, keras.constraints.MaxNorm)
    assert isinstance(second, FixedSign)
    assert (second.per, second.hold, second.signs.shape) == ("neuron", 1e-10, (8, 1))


def sparse() -> Any:
    """Masks in all layers but the last, as Amit's code has them, and feedback weights."""
    model = network()
    options = {"connectivity": 0.5, "constraint": "glorot_clip", "seed": 1}
    add_constraints(model, {"hidden*": Part("sparse", options)})
    return tfwm.convert_model(model, "urfb")


def test_masks_are_those_of_the_layers_that_are_named() -> None:
    found = [layer.kernel.constraint for layer in sparse().layers if hasattr(layer, "kernel")]
    assert [type(each) for each in found] == [Sparse, Sparse, type(None)]
    assert isinstance(found[0].constraint, GlorotClip)


def test_weights_that_came_from_elsewhere_are_masked() -> None:
    model = sparse()
    layer = model.get_layer("hidden_2")
    for weight in (layer.kernel, layer.feedback_kernel):
        weight.assign(np.ones((8, 8)))
    renew_constraints(model)
    for weight, mask in (
        (layer.kernel, layer.kernel_constraint.mask),
        (layer.feedback_kernel, layer.kernel_constraint.feedback_mask),
    ):
        np.testing.assert_array_equal(weight.numpy() != 0, mask.numpy() == 1)


@pytest.mark.parametrize("name", ["fixed_sign", "glorot_clip"])
def test_averages_of_held_weights_are_refused_by_their_key(name: str) -> None:
    model = network()
    add_constraints(model, {"head": Part(name)})
    with pytest.raises(UserError, match=rf"^optimizer.options.use_ema=true .* \({name}\)"):
        check_optimizer(model, keras.optimizers.SGD(use_ema=True))


def test_averages_of_masked_weights_are_refused_by_their_key() -> None:
    check_optimizer(network(), keras.optimizers.SGD(use_ema=True))
    with pytest.raises(UserError, match=r"^optimizer.options.use_ema=true overwrites weights"):
        check_optimizer(sparse(), keras.optimizers.SGD(use_ema=True))


@pytest.mark.parametrize("per", ["synapse", "neuron"])
def test_signs_are_those_of_weights_that_came_from_elsewhere(per: str) -> None:
    model = network()
    add_constraints(model, {"*": Part("fixed_sign", {"per": per})})
    layer = model.get_layer("hidden_2")
    layer.kernel.assign(np.random.default_rng(1).normal(size=(8, 8)))
    before = np.abs(layer.kernel.numpy())
    renew_constraints(model)
    signs = layer.kernel_constraint.signs.numpy()
    np.testing.assert_array_equal(layer.kernel.numpy(), before * signs)
    kept = layer.kernel.numpy()
    renew_constraints(model)
    np.testing.assert_array_equal(layer.kernel.numpy(), kept)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"heat": "fixed_sign"}, "constraints.heat decides about no layer with weights. Did you m"),
        (
            {"*": ("fixed_sign", {"hold": -1.0})},
            "constraints.*=fixed_sign refuses its options: hold of FixedSign is -1.0.",
        ),
        (
            {"*": ("sparse", {"connectivity": 2.0})},
            "constraints.*=sparse refuses its options: connectivity of Sparse is 2.0.",
        ),
        ({"*": "fixed_sign", "head": "max_norm"}, "constraints.head decides about no layer"),
        (
            {"*": "fixed"},
            "constraints.* is 'fixed', which is not known. Expected one of fixed_sign",
        ),
        (
            {"*": ("fixed_sign", {"per": "row"})},
            "constraints.*.options.per is 'row'. Expected synapse or neuron.",
        ),
    ],
)
def test_mistake_is_told_in_one_sentence(parts: dict[str, Any], sentence: str) -> None:
    table = {k: Part(v) if isinstance(v, str) else Part(*v) for k, v in parts.items()}
    with pytest.raises(UserError) as caught:
        add_constraints(network(), table)
    assert sentence in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constraint", "said"),
    [("max_norm", "has a kernel constraint"), ("sparse", "has masks of its own")],
)
def test_kolen_pollack_with_a_constraint_is_refused_by_its_key(
    constraint: str, said: str, tmp_path: Path
) -> None:
    arguments = [
        "--feedback.rule=kp",
        "--optimizer.weight_decay=0.1",
        f"--constraints={{'*': {constraint}}}",
    ]
    config, _ = parse(["fit", *SMALL, *arguments, f"--run_directory={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=rf"^constraints: .* {said}"):
        fit(config)


@pytest.mark.slow
def test_layers_drawn_anew_and_other_models_bring_their_signs(tmp_path: Path) -> None:
    def run(name: str, *arguments: str) -> Any:
        config, _ = parse(["fit", *SMALL, *arguments, f"--run_directory={tmp_path / name}"])
        return fit(config).model

    plain = run("plain", "--feedback.rule=fa")
    fixed = "--constraints={'*': fixed_sign}"
    start = f"--init_from={tmp_path / 'plain' / 'model.keras'}"
    model = run("fixed", "--feedback.rule=fa", fixed, start, "--draw_anew=[head]")
    for name in ("hidden_1", "head"):
        layer = model.get_layer(name)
        signs = layer.kernel_constraint.signs.numpy()
        assert (layer.kernel.numpy() * signs >= 0).all()
        assert (layer.kernel.numpy() == 0).mean() < 0.2  # half of it, by the signs of other weights
        same = np.mean(plain.get_layer(name).kernel.numpy() * signs > 0)
        assert (same == 1) == (name == "hidden_1")


@pytest.mark.slow
def test_weights_of_other_models_and_those_drawn_anew_are_masked(tmp_path: Path) -> None:
    def run(name: str, *arguments: str) -> Any:
        rule = "--feedback.rule=fa"  # B stands still, so that no update masks it
        config, _ = parse(["fit", *SMALL, rule, *arguments, f"--run_directory={tmp_path / name}"])
        return fit(config).model

    plain = run("plain")
    start = f"--init_from={tmp_path / 'plain' / 'model.keras'}"
    model = run("sparse", "--constraints={'*': sparse}", start, "--draw_anew=[head]")
    for name in ("hidden_1", "head"):
        layer, before = model.get_layer(name), plain.get_layer(name).feedback_kernel.numpy()
        held, feedback = layer.kernel_constraint, layer.feedback_kernel.numpy()
        exists = held.feedback_mask.numpy() == 1
        np.testing.assert_array_equal(feedback != 0, exists)
        assert (layer.kernel.numpy()[held.mask.numpy() == 0] == 0).all()
        assert (feedback == before)[exists].all() == (name == "hidden_1")
