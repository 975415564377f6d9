"""Every option of rules, noises, mirror mode and constraints has a key; own parts are named.

The signatures are walked: an option that is added to the library is reached, or this fails.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import yaml

import tfweightmirror as tfwm
from tfweightmirror.mirror.noise import NOISES
from train.commands.listing import KINDS, print_all
from train.config import FeedbackConfig, FitConfig, MirrorConfig, Part
from train.config.part import RULES, canonical_rule
from train.errors import UserError
from train.parsing.command_line import parse
from train.parts import feedback
from train.parts.callbacks import build_callbacks, forgetful
from train.parts.constraints import OURS, add_constraints
from train.parts.named import options_of

# A value other than the default, where the type alone does not say one.
VALUES: dict[str, Any] = {
    "magnitude": "fixed",
    "scale": "glorot",
    "factor": "orthogonal",
    "norm": "scaling",
    "activations": {"head": "tanh"},
    "response_bits": 4,
    "decay": 0.25,
    "block": 8,
    "eta": 0.5,
    "dead_cells": 0.5,
    "error_cells": 10,
}
# What an option needs beside it.
WITH = {"activations": {"through_activation": True}, "centre": {}}


def other_value(target: Any, option: str) -> Any:
    if option in VALUES:
        return VALUES[option]
    default = inspect.signature(target).parameters[option].default
    return not default if isinstance(default, bool) else default * 2 + 1


def parsed(*keys: str) -> FitConfig:
    return parse(["fit", *keys])[0]


def rule_options() -> Iterator[Any]:
    for rule in tfwm.rules.RULES:
        for option in options_of(rule):
            yield pytest.param(rule, option, id=f"{rule.name}.{option}")


def noise_options() -> Iterator[Any]:
    for noise in NOISES:
        for option in options_of(noise):
            yield pytest.param(noise, option, id=f"{noise.name}.{option}")


@pytest.mark.parametrize(("rule", "option"), list(rule_options()))
def test_every_option_of_a_rule_has_a_key(rule: Any, option: str) -> None:
    value = other_value(rule, option)
    keys = [f"--feedback.rule={rule.name}", f"--feedback.rule.options.{option}={value}"]
    built = feedback.build_rule(parsed(*keys).feedback.rule, "feedback.rule")
    assert built == rule(**{option: value})
    assert built != rule()


@pytest.mark.parametrize(("noise", "option"), list(noise_options()))
def test_every_option_of_a_noise_has_a_key(noise: Any, option: str) -> None:
    value = other_value(noise, option)
    keys = [f"--mirror.noise={noise.name}", f"--mirror.noise.options.{option}={value}"]
    config = parsed("--feedback.rule=wm", *keys).mirror
    built = feedback.build_mirror(config, seed=0).mode.noise
    assert built == noise(**{option: value})
    assert built != noise()


@pytest.mark.parametrize(
    "option", [o for o in options_of(tfwm.mirror.MirrorMode) if o not in feedback.OWN_KEYS]
)
def test_every_option_of_mirror_mode_has_a_key(option: str) -> None:
    if option == "respond":
        value: Any = "tests.train.test_parts:silent"
    else:
        value = other_value(tfwm.mirror.MirrorMode, option)
    options = {**WITH.get(option, {}), option: value}
    given = yaml.safe_dump(options, default_flow_style=True, width=1000).strip()
    keys = ["--feedback.rule=wm", "--mirror.noise=gaussian", f"--mirror.options={given}"]
    mode = feedback.build_mirror(parsed(*keys).mirror, seed=0).mode
    expected = {"respond": silent, "activations": (("head", "tanh"),)}.get(option, value)
    assert getattr(mode, option) == expected
    assert getattr(mode, option) != getattr(tfwm.mirror.MirrorMode(), option)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        pytest.param(kind, option, id=f"{kind}.{option}")
        for kind, constraint in OURS.items()
        for option in options_of(constraint)
    ],
)
def test_every_option_of_a_constraint_has_a_key(kind: str, option: str) -> None:
    value = {"connectivity": 0.25, "constraint": "non_neg", "per": "neuron", "hold": 1e-10}.get(
        option, 3
    )
    given = f"{{hidden: {{name: {kind}, options: {{{option}: {value}}}}}}}"
    config = parsed(f"--constraints={given}")
    found, expected, default = (
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="hidden")])
        for _ in range(3)
    )
    add_constraints(found, config.constraints)
    tfwm.training.constrain(expected, OURS[kind](**{option: value}))
    tfwm.training.constrain(default, OURS[kind]())
    one, other, plain = (
        model.layers[0].kernel.constraint.get_config()[option]
        for model in (found, expected, default)
    )
    assert one == other
    assert one != plain


@pytest.mark.parametrize("option", list(inspect.signature(tfwm.mirror.Schedule).parameters))
def test_every_option_of_the_schedule_has_a_key(option: str) -> None:
    config = parsed("--feedback.rule=wm", f"--mirror.{option}=7").mirror
    schedule = feedback.build_mirror(config, seed=0).schedule
    assert schedule == dataclasses.replace(tfwm.mirror.Schedule(), **{option: 7})


def test_modes_of_the_paper_and_of_its_code_are_those_of_the_library() -> None:
    keys = ("--feedback.rule=wm", "--mirror.mode=akrout2019")
    ours = feedback.build_mirror(parsed(*keys).mirror, seed=3).mode
    theirs = tfwm.callbacks.WeightMirror.akrout2019(activations={"head": "linear"}, seed=3).mode
    assert ours == theirs
    impulses = parsed(*keys, "--mirror.noise=impulse").mirror
    assert feedback.build_mirror(impulses, seed=3).mode.noise == tfwm.mirror.noise.get("impulse")
    code = feedback.build_mirror(parsed(keys[0], "--mirror.mode=akrout2019_code").mirror, seed=0)
    assert (code.mode.noise.name, code.mode.eta, code.mode.norm) == ("uniform", 0.01, None)


def test_aliases_of_rules_are_those_of_the_library() -> None:
    for rule in tfwm.rules.RULES:
        assert RULES[rule.name] == rule.aliases
        for alias in (*rule.aliases, *(alias.upper() for alias in rule.aliases)):
            part = canonical_rule(Part(alias))
            assert part.name == rule.name
            assert feedback.build_rule(part, "") == tfwm.rules.get(alias)


def silent(pathway: tfwm.Pathway, signals: Any) -> Any:
    return 0.0 * pathway.respond(signals)


@keras.saving.register_keras_serializable("tests_parts")
@dataclasses.dataclass(frozen=True)
class Halved(tfwm.rules.FeedbackRule):
    """Carries the error on a part of W."""

    share: float = 0.5
    name: typing.ClassVar[str] = "halved"
    uses_feedback_kernel: typing.ClassVar[bool] = False

    def backward_kernel(self, kernel: Any, feedback: Any, seed: Any) -> Any:
        return self.share * kernel


class Loud(tfwm.mirror.noise.Gaussian):
    """Gaussian noise of a class of one's own."""


def test_a_rule_a_noise_and_an_initializer_of_a_users_own() -> None:
    here = "tests.train.test_parts"
    config = parsed(
        f"--feedback.rule={here}:Halved",
        "--feedback.rule.options.share=0.25",
        "--feedback.layers={hidden_1: wm}",
        "--feedback.initializer=constant",
        "--feedback.initializer.options.value=0.5",
        f"--mirror.noise={here}:Loud",
        "--mirror.noise.options.samples=3",
    )
    dense = keras.layers.Dense
    model = keras.Sequential(
        [keras.Input((3,)), dense(4, name="hidden_1"), dense(4, name="hidden_2"), dense(2)]
    )
    feedback.convert(model, config.feedback, seed=0)
    first, second, _ = tfwm.pathways(model)
    assert second.rule == Halved(share=0.25)
    np.testing.assert_array_equal(first.feedback_kernel, np.full((3, 4), 0.5))
    mirror = feedback.build_mirror(config.mirror, seed=0)
    assert type(mirror.mode.noise) is Loud
    assert mirror.mode.noise.samples == 3


def test_a_layer_that_keeps_its_rule_keeps_both_matrices_of_a_product() -> None:
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((3,)), dense(4, name="hidden"), dense(2, name="head")])
    feedback.convert(model, FeedbackConfig(rule=Part("pfa")), seed=0)
    hidden, head = ((p.feedback_kernel, p.feedback_factor) for p in tfwm.pathways(model))
    before = [value.numpy() for value in (*hidden, *head)]
    feedback.convert(model, FeedbackConfig(rule=Part("pfa"), layers={"head": Part("fa")}), seed=1)
    hidden_now, head_now = tfwm.pathways(model)
    np.testing.assert_array_equal(hidden_now.feedback_kernel, before[0])
    np.testing.assert_array_equal(hidden_now.feedback_factor, before[1])
    assert head_now.feedback_kernel.shape == (4, 2)
    assert head_now.feedback_factor is None


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: feedback.build_rule(Part("math:pi"), "feedback.rule"), "Expected a subclass of"),
        (
            lambda: feedback.build_mirror(MirrorConfig(noise=Part("keras.losses:Huber")), seed=0),
            "mirror.noise=keras.losses:Huber is <Loss",
        ),
        (lambda: feedback.build_rule(Part("urfb", {"epsilon": -1}), "r"), "refuses its options"),
        (lambda: build_callbacks((Part("EarlyStoping"),)), "Did you mean 'EarlyStopping'?"),
        (lambda: build_callbacks((Part("keras.losses:Huber"),)), "Expected a Keras callback."),
        (
            lambda: build_callbacks((Part("EarlyStopping", {"patiens": 3}),)),
            "callbacks[0].options.patiens is not an option of EarlyStopping.",
        ),
        (lambda: print_all("model"), "'model' cannot be listed. Expected one of models,"),
    ],
)
def test_mistake_is_told_in_one_sentence(build: Callable[[], Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        build()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_callbacks_of_keras_are_named_and_those_without_state_are_told() -> None:
    (early,) = build_callbacks((Part("keras.callbacks:EarlyStopping", {"patience": 4}),))
    assert isinstance(early, keras.callbacks.EarlyStopping)
    assert early.patience == 4
    assert forgetful([early, tfwm.callbacks.WeightMirror()]) == ["EarlyStopping"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_all(kind)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    if kind == "models":
        assert "    units = (500,): Cells of each hidden layer" in lines
    if kind == "rules":
        assert any(line.startswith("    epsilon = 1.0: ") for line in lines)
