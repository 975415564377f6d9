"""Gives a model its feedback rules, and the callbacks these rules need."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

import tfweightmirror as tfwm
from tfweightmirror.mirror.noise import NOISES, Noise
from train.config import FeedbackConfig, MirrorConfig, MonitorConfig, Part
from train.config.part import RULES, canonical_rule
from train.errors import UserError
from train.parts.initial_weights import by_path, matching
from train.parts.named import checked_options, classes_of, find, imported, made, options_of

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


def build_rule(part: Part, key: str) -> tfwm.rules.FeedbackRule:
    """The rule.

    Raises:
        UserError: If it or an option is not known or refused.
    """
    part = canonical_rule(part)
    registered = keras.saving.get_registered_object(part.name) if part.name else None
    names = {name: type(tfwm.rules.get(name)) for name in RULES}
    found = registered or find(key, part.name, names, also=f" ({_aliases()})")
    if isinstance(found, tfwm.rules.FeedbackRule) and not part.options:
        return found
    rule = _made(key, part, found)
    if not isinstance(rule, tfwm.rules.FeedbackRule):
        raise UserError(
            f"{key}={part.name} is {rule!r}. Expected a subclass of "
            f"tfweightmirror.rules.FeedbackRule."
        )
    return rule


def build_noise(part: Part) -> Noise:
    """The noise.

    Raises:
        UserError: As `build_rule`.
    """
    noise = _made(
        "mirror.noise", part, find("mirror.noise", part.name, {n.name: n for n in NOISES})
    )
    if not isinstance(noise, Noise):
        raise UserError(
            f"mirror.noise={part.name} is {noise!r}. Expected a subclass of "
            f"tfweightmirror.mirror.noise.Noise."
        )
    return noise


def known_initializers() -> dict[str, Any]:
    """The initializers of Keras in snake case."""
    return classes_of(keras.initializers, keras.initializers.Initializer, snake_case=True)


def build_initializer(part: Part) -> Any:
    """The Keras initializer of feedback weights, or None.

    Raises:
        UserError: As `build_rule`.
    """
    if part.name is None:
        return None
    key = "feedback.initializer"
    return _made(key, part, find(key, part.name, known_initializers()))


def convert(
    model: Any, config: FeedbackConfig, *, seed: int, measures_backprop: bool = False
) -> None:
    """Converts `model` in place. Under backprop alone it stays the stock Keras model.

    Args:
        model: Built.
        config: Rules.
        seed: Of feedback weights.
        measures_backprop: Whether it is converted nevertheless, to be measured.

    Raises:
        UserError: If a rule or an option is not known.
    """
    rule = build_rule(config.rule, "feedback.rule")
    layers = {
        pattern: build_rule(part, f"feedback.layers.{pattern}")
        for pattern, part in config.layers.items()
    }
    last_rule = (
        build_rule(config.last_layer, "feedback.last_layer") if config.last_layer.name else None
    )
    initializer = build_initializer(config.initializer)
    stock = not layers and not last_rule and isinstance(rule, tfwm.rules.Backprop)
    if not stock or measures_backprop:
        tfwm.convert_model(
            model,
            {**layers, "*": rule} if layers else rule,
            last_layer=last_rule,
            feedback_initializer=initializer,
            seed=seed,
        )


def convert_again(
    model: Any, config: FeedbackConfig, *, seed: int, measures_backprop: bool = False
) -> None:
    """Gives a converted model other rules. A layer keeps its B where its rule stays the same.

    Args and raises as `convert`.
    """
    before = {
        p.name: (p.rule, p.feedback_kernel.numpy())
        for p in tfwm.pathways(model)
        if p.feedback_kernel is not None
    }
    if tfwm.pathways(model):
        tfwm.strip_feedback(model)
    convert(model, config, seed=seed, measures_backprop=measures_backprop)
    for pathway in tfwm.pathways(model):
        rule, kernel = before.get(pathway.name, (None, None))
        if pathway.feedback_kernel is not None and rule == pathway.rule:
            pathway.feedback_kernel.assign(kernel)


def freeze(model: Any, patterns: Sequence[str], *, only_last_layer_learns: bool) -> list[Any]:
    """Keeps optimizers from weights and feedback weights: the variables, not the layers.

    A frozen BatchNorm layer would stop following the data.

    Returns:
        The variables that trained before.

    Raises:
        UserError: If a pattern matches nothing, or nothing is left to train.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    paths = {path: v for path, v in by_path(model).items() if id(v) in trained}
    frozen = list(matching(paths, patterns, "freeze").values())
    if only_last_layer_learns:
        last = [layer for layer in model.layers if layer.trainable_variables][-1]
        learn = {id(variable) for variable in last.variables}
        frozen += [v for v in model.trainable_variables if id(v) not in learn]
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
    if rules:
        probes = monitor.delta_angles or monitor.gradient_angles
        try:
            watcher = tfwm.callbacks.FeedbackMonitor(
                measures=monitor.measures,
                probe=probe() if probe is not None and probes else None,
                delta_angles=monitor.delta_angles,
                gradient_angles=monitor.gradient_angles,
            )
        except ValueError as error:
            raise UserError(f"monitor.measures: {error}") from error
        callbacks.append(watcher)
    return callbacks


def build_mirror(config: MirrorConfig, *, seed: int) -> tfwm.callbacks.WeightMirror:
    """The callback of mirror mode.

    Raises:
        UserError: If the noise, or an option of it or of the mode, is not known or refused.
    """
    plan = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(tfwm.mirror.Schedule)
    }
    noise, preset = MODES[config.mode]
    if config.noise.name not in (None, noise.name):
        noise = config.noise
    else:
        noise = Part(noise.name, {**noise.options, **config.noise.options})
    accepted = tuple(options_of(tfwm.mirror.MirrorMode, OWN_KEYS))
    given = checked_options(
        "mirror.options", tfwm.mirror.MirrorMode, config.options, set_by_us=OWN_KEYS
    )
    options = {**preset, **given}
    if isinstance(options.get("respond"), str):
        options["respond"] = imported("mirror.options.respond", options["respond"])
    fired = build_noise(noise)
    try:
        schedule = tfwm.mirror.Schedule(**plan)
        return tfwm.callbacks.WeightMirror(fired, schedule=schedule, seed=seed, **options)
    except (TypeError, ValueError) as error:
        sentence = " ".join(str(error).split())
        name = re.split("[ =]", sentence)[0]
        key = f"mirror.{name}" if name in plan else f"mirror.options.{name}" * (name in accepted)
        raise UserError(f"{key or 'mirror'}: {sentence}") from error


def _made(key: str, part: Part, target: Any) -> Any:
    """An instance of a class (or the class of an instance), or what a function gives."""
    if not callable(target) or (dataclasses.is_dataclass(target) and not inspect.isclass(target)):
        target = type(target)
    return made(key, part, target)


def _aliases() -> str:
    return ", ".join(alias for aliases in RULES.values() for alias in aliases)


# What a refusal of the library says, to the key that it is about; the first that fits.
_KEYS = {
    "Pattern ": "feedback.layers",
    "activations=": "mirror.options.activations",
    "coupled weight decay": "optimizer.decay",
    "use_ema": "optimizer.options.use_ema",
    "needs weight decay": "optimizer.weight_decay",
    "weights in float32": "training.precision",
    "cannot hold under": "optimizer.name",
    "": "feedback.rule",
}


@contextlib.contextmanager
def refusals_as_user_errors() -> Iterator[None]:
    """What the library refuses (no weight decay under Kolen-Pollack, ...) is the user's to mend.

    Raises:
        UserError: With the key that the refusal is about in front.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if error.__traceback__ is not None:
            raised_in = inspect.getinnerframes(error.__traceback__)[-1].frame.f_globals["__name__"]
            if raised_in.partition(".")[0] == tfwm.__name__:
                key = next(key for words, key in _KEYS.items() if words in str(error))
                raise UserError(f"{key}: {error}") from error
        raise
