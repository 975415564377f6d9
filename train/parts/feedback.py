"""Gives a model its feedback rules, and the callbacks these rules need."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

import tfweightmirror as tfwm
from tfweightmirror.layers.locally_connected import LocallyConnected
from tfweightmirror.mirror.noise import NOISES, Noise
from train.config import FeedbackConfig, MirrorConfig, MonitorConfig, Part
from train.config.part import RULES, canonical_rule
from train.errors import UserError
from train.parts.initial_weights import by_path, matching
from train.parts.named import checked_options, classes_of, imported, instance, options_of, refusals

# What the modes of mirror mode set, for `tfweightmirror.mirror.MirrorMode`.
_PAPER: dict[str, Any] = {
    "through_activation": True,
    "bias_blocking": False,
    "activations": {"head": "linear"},
}
MODES: dict[str, tuple[Part, dict[str, Any]]] = {
    "linear": (Part("orthogonal"), {}),
    "akrout2019": (Part("gaussian"), _PAPER),
    # Uniform on +-0.05, the sum over samples times eta, nothing that bounds B.
    "akrout2019_code": (
        Part("uniform", {"std": 0.05 / 3**0.5, "samples": 128}),
        _PAPER | {"eta": 0.01, "norm": None},
    ),
}
# Arguments of `MirrorMode` that have keys of their own.
OWN_KEYS = ("noise", "seed")
KNOWN_RULES = {name: type(tfwm.rules.get(name)) for name in RULES}
KNOWN_NOISES = {kind.name: kind for kind in NOISES}


def build_rule(part: Part, key: str) -> tfwm.rules.FeedbackRule:
    """The rule of that name, alias, registered name or import path."""
    part, known = canonical_rule(part), dict[str, Any](KNOWN_RULES)
    if part.name and (registered := keras.saving.get_registered_object(part.name)):
        known[part.name] = registered
    return instance(
        key,
        part,
        known,
        tfwm.rules.FeedbackRule,
        "a subclass of tfweightmirror.rules.FeedbackRule",
        aliases=[alias for aliases in RULES.values() for alias in aliases],
    )


def build_rules(config: FeedbackConfig) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The rule, those of layers by pattern, and those of the first and the last layer, or None."""
    layers = {
        pattern: build_rule(part, f"feedback.layers.{pattern}")
        for pattern, part in config.layers.items()
    }
    ends = {
        key: build_rule(part, f"feedback.{key}") if part.name else None
        for key in ("first_layer", "last_layer")
        for part in (getattr(config, key),)
    }
    return build_rule(config.rule, "feedback.rule"), layers, ends


def known_initializers() -> dict[str, Any]:
    """The initializers of Keras in snake case."""
    return classes_of(keras.initializers, keras.initializers.Initializer, snake_case=True)


def convert(
    model: Any, config: FeedbackConfig, *, seed: int, measures_backprop: bool = False
) -> None:
    """Gives a built model its rules, in place. A layer keeps its B where its rule stays the same.

    Under backprop alone it is the stock Keras model, unless that is to be measured.
    """
    rule, layers, ends = build_rules(config)
    initializer = None
    if config.initializer.name is not None:
        initializer = instance(
            "feedback.initializer",
            config.initializer,
            known_initializers(),
            keras.initializers.Initializer,
            "a Keras initializer",
        )
    before = {p.name: (p.rule, [v.numpy() for v in _kept(p)]) for p in tfwm.pathways(model)}
    if before:
        tfwm.strip_feedback(model)
    if (
        layers
        or any(ends.values())
        or measures_backprop
        or not isinstance(rule, tfwm.rules.Backprop)
    ):
        tfwm.convert_model(
            model,
            {**layers, "*": rule} if layers else rule,
            **ends,
            feedback_initializer=initializer,
            seed=seed,
        )
    for pathway in tfwm.pathways(model) if before else ():
        old_rule, values = before.get(pathway.name, (None, []))
        if pathway.rule == old_rule:
            for variable, value in zip(_kept(pathway), values, strict=True):
                variable.assign(value)


def _kept(pathway: tfwm.Pathway) -> list[Any]:
    """What holds B: one variable, two where it is a product, or none."""
    both = (pathway.feedback_kernel, pathway.feedback_factor)
    return [variable for variable in both if variable is not None]


def untie(model: Any, patterns: Sequence[str]) -> None:
    """Makes convolutions locally connected; every position gets a copy of W and B."""
    for pattern in patterns:
        with refusals(f"untie={pattern}"):
            tfwm.conversion.untie(model, pattern)


def draw_positions_apart(model: Any) -> None:
    """Draws the untied layers of a model anew, whose positions are copies of one filter."""
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, LocallyConnected):
            # Masks stay the convolution's, and are put on what is drawn when the phase begins.
            drawn = type(layer).from_config(layer.get_config() | {"kernel_constraint": None})
            drawn.build(layer.get_build_config()["input_shape"])
            masks = {id(v) for v in getattr(layer.kernel_constraint, "variables", ())}
            own = [variable for variable in layer.weights if id(variable) not in masks]
            for variable, value in zip(own, drawn.get_weights(), strict=True):
                variable.assign(value)


def freeze(model: Any, patterns: Sequence[str], *, only_last_layer_learns: bool) -> list[Any]:
    """Keeps optimizers from weights and feedback weights, and returns those that trained before.

    The variables, not the layers: a frozen BatchNorm layer would stop following the data.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    paths = {path: v for path, v in by_path(model).items() if id(v) in trained}
    frozen = list(matching(paths, patterns, "freeze").values())
    if only_last_layer_learns:
        last = [layer for layer in model.layers if layer.trainable_variables][-1]
        learn = {id(variable) for variable in last.variables}
        frozen += [v for v in model.trainable_variables if id(v) not in learn]
    if not trained:
        raise UserError(f"{model.name} has no weights to train. Expected a model that has some.")
    if {id(variable) for variable in frozen} == trained:
        raise UserError(f"freeze={list(patterns)} leaves no weights to train. Expected some.")
    for variable in frozen:
        variable.trainable = False
    return frozen


def build_callbacks(
    model: Any,
    config: MirrorConfig,
    *,
    seed: int,
    monitor: MonitorConfig = MonitorConfig(),
    probe: Callable[[], tuple[Any, Any]] | None = None,
) -> list[Any]:
    """The callbacks that the rules of a converted model need, in their order, monitor last.

    `probe` gives the batch on which delta angles are measured, if they are.
    """
    rules = [pathway.rule for pathway in tfwm.pathways(model)]
    callbacks: list[Any] = []
    if any(rule.learns_by == "mirror" for rule in rules):
        callbacks.append(build_mirror(config, seed=seed))
    if any(isinstance(rule, tfwm.rules.KolenPollack) for rule in rules):
        callbacks.append(tfwm.callbacks.KolenPollack())
    if rules or monitor.measures:  # whose names are checked in any case
        probes = bool(rules) and (monitor.delta_angles or monitor.gradient_angles)
        batch = probe() if probe is not None and probes else None
        with refusals("monitor.measures"):
            watcher = tfwm.callbacks.FeedbackMonitor(
                measures=monitor.measures,
                probe=batch,
                delta_angles=monitor.delta_angles,
                gradient_angles=monitor.gradient_angles and bool(rules),
            )
        if rules:
            callbacks.append(watcher)
    return callbacks


def build_mirror(config: MirrorConfig, *, seed: int) -> tfwm.callbacks.WeightMirror:
    """The callback of mirror mode: what the mode sets, changed by the keys of the configuration."""
    noise, options = MODES[config.mode]
    if config.noise.name in (None, noise.name):
        noise = Part(noise.name, noise.options | config.noise.options)
    else:
        noise = config.noise
    mode = tfwm.mirror.MirrorMode
    options = options | checked_options("mirror.options", mode, config.options, set_by_us=OWN_KEYS)
    if isinstance(options.get("respond"), str):
        options["respond"] = imported("mirror.options.respond", options["respond"])
    fired = instance(
        "mirror.noise",
        noise,
        KNOWN_NOISES,
        Noise,
        "a subclass of tfweightmirror.mirror.noise.Noise",
    )
    times = [field.name for field in dataclasses.fields(tfwm.mirror.Schedule)]
    try:
        schedule = tfwm.mirror.Schedule(**{name: getattr(config, name) for name in times})
        return tfwm.callbacks.WeightMirror(fired, schedule=schedule, seed=seed, **options)
    except (TypeError, ValueError) as error:
        sentence = " ".join(str(error).split())
        name = re.split("[ =]", sentence)[0]
        key = "mirror"
        if name in times:
            key = f"mirror.{name}"
        elif name in options_of(mode, OWN_KEYS):
            key = f"mirror.options.{name}"
        raise UserError(f"{key}: {sentence}") from error
