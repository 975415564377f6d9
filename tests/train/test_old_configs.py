"""Configurations of earlier versions say in today's keys what they said."""

from typing import Any

import pytest

from train.config import FitConfig, MirrorConfig, Part
from train.config.old import modern
from train.parsing.config_file import config_from
from train.parsing.phases import differences, leaves


def config(**tree: Any) -> FitConfig:
    return config_from(tree, source="old")


def test_model_keeps_the_options_of_its_own_kind_alone() -> None:
    tables = {
        "small_conv": {"filters": [3]},
        "mlp": {"units": [5], "activation": "tanh"},
        "resnet": {"width": 4},
    }
    for name, table in (("mlp", "mlp"), ("small_conv", "small_conv"), ("resnet50", "resnet")):
        assert config(model={"name": name, **tables}).model == Part(name, tables[table])
    # A file that changes its base need not name the model.
    assert modern({"model": {"mlp": {"units": [7]}}})["model"] == {"options": {"units": [7]}}


def test_loss_has_left_the_training() -> None:
    old = config(training={"epochs": 3, "loss": "sigmoid"})
    assert old == config(training={"epochs": 3}, loss="sigmoid")
    assert old.loss == Part("sigmoid")


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        # The noise that a mode of the paper's did not use was written, and is not told again.
        (
            {"mode": "akrout2019", "noise": "orthogonal", "noise_options": {"samples": 8}},
            MirrorConfig(mode="akrout2019", noise=Part(None, {"samples": 8})),
        ),
        (
            {"mode": "linear", "noise": "impulse", "noise_options": {}, "eta": 0.5},
            MirrorConfig(noise=Part("impulse")),
        ),
        (
            {"mode": "akrout2019_code", "eta": 0.5, "activations": {"head": "sigmoid"}},
            MirrorConfig(
                mode="akrout2019_code", options={"eta": 0.5, "activations": {"head": "sigmoid"}}
            ),
        ),
        (
            {"mode": "akrout2019_code", "eta": 0.01, "activations": {"head": "linear"}, "steps": 2},
            MirrorConfig(mode="akrout2019_code", steps=2),
        ),
    ],
)
def test_mirror_is_what_trained(old: dict[str, Any], expected: MirrorConfig) -> None:
    assert config(mirror=old).mirror == expected


def test_what_is_of_today_stays() -> None:
    tree = {"model": {"name": "mlp", "options": {"units": [3]}}, "mirror": {"noise": "impulse"}}
    assert modern(tree) == tree


@pytest.mark.parametrize(
    ("phases", "same"),
    [
        # An alias, what the phase has from outside anyway, a number in another form.
        ([{"feedback": {"rule": "kp"}}, {"optimizer": {"learning_rate": 1}}], True),
        (
            [
                {"feedback": {"rule": "kp"}, "mirror": {"steps": 1}},
                {"optimizer": {"learning_rate": 1.0}},
            ],
            True,
        ),
        ([{"feedback": {"rule": "fa"}}, {"optimizer": {"learning_rate": 1}}], False),
        ([{"feedback": {"rule": "kp"}}], False),
        ([], False),
    ],
)
def test_phases_are_compared_under_one_spelling(phases: list[Any], same: bool) -> None:
    rule = {"name": "kolen_pollack", "options": {}}
    kept = config(phases=[{"feedback": {"rule": rule}}, {"optimizer": {"learning_rate": 1.0}}])
    assert (leaves(config(phases=phases)) == leaves(kept)) == same


def test_what_differs_is_told_key_by_key() -> None:
    there = config(phases=[{"feedback": {"rule": "fa"}}], optimizer={"options": {"momentum": 0.9}})
    here = config(phases=[{"feedback": {"rule": "kp"}}], feedback={"layers": {"head": "bp"}})
    assert list(differences(leaves(there), leaves(here)).values()) == [
        "feedback.layers is {} there and {'head': 'backprop'} here",
        "phases[0].feedback.rule.name is 'feedback_alignment' there and 'kolen_pollack' here",
        "optimizer.options.momentum is 0.9 there and not given here",
    ]
