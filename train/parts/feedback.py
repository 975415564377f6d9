"""Gives a model its feedback rules, and the callbacks these rules need."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import tfweightmirror as tfwm
from train.config import FeedbackConfig, MirrorConfig, MonitorConfig
from train.errors import UserError, did_you_mean


def convert(
    model: Any, config: FeedbackConfig, *, seed: int, measures_backprop: bool = False
) -> None:
    """Converts `model` in place. Under backprop alone it stays the stock Keras model.

    Args:
        model: Built.
        config: Rules, and what is frozen.
        seed: Of feedback weights.
        measures_backprop: Whether it is converted nevertheless, to be measured.
    """
    _check_rules(config)
    last = _last_layer_with_weights(model)
    stock = not config.layers and isinstance(tfwm.rules.get(config.rule), tfwm.rules.Backprop)
    if not stock or measures_backprop:
        rule = {**config.layers, "*": config.rule} if config.layers else config.rule
        tfwm.convert_model(model, rule, last_layer=config.last_layer, seed=seed)
    if config.only_last_layer_learns:
        learn = {id(variable) for variable in last.variables}
        for variable in model.trainable_variables:
            # The variables, not the layers: a frozen BatchNorm would stop following the data.
            variable.trainable = id(variable) in learn


def _last_layer_with_weights(model: Any) -> Any:
    return [layer for layer in model.layers if layer.trainable_variables][-1]


def _check_rules(config: FeedbackConfig) -> None:
    """Raises UserError, which names the key, if a rule is not known."""
    layers = {f"feedback.layers.{pattern}": rule for pattern, rule in config.layers.items()}
    named = {"feedback.rule": config.rule, "feedback.last_layer": config.last_layer, **layers}
    for key, rule in named.items():
        try:
            tfwm.rules.get(rule if rule is not None else config.rule)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error


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
        UserError: If the noise has no option of that name.
    """
    schedule = tfwm.mirror.Schedule(
        every_batches=config.every_batches,
        steps=config.steps,
        warm_up_steps=config.warm_up_steps,
        epoch_begin_steps=config.epoch_begin_steps,
        epoch_end_steps=config.epoch_end_steps,
    )
    name = {"linear": config.noise, "akrout2019": "gaussian", "akrout2019_code": "uniform"}[
        config.mode
    ]
    noise = type(tfwm.mirror.noise.get(name))
    accepted = [field.name for field in dataclasses.fields(noise) if field.init]
    for option in config.noise_options:
        if option not in accepted:
            raise UserError(
                f"mirror.noise_options.{option} is not an option of {name} noise. Expected one of "
                f"{', '.join(accepted)}.{did_you_mean(option, accepted)}"
            )
    options: dict[str, Any] = dict(config.noise_options)
    if config.mode == "akrout2019":
        return tfwm.callbacks.WeightMirror.akrout2019(
            activations=config.activations, schedule=schedule, seed=seed, **options
        )
    if config.mode == "akrout2019_code":
        # Uniform on +-0.05, the sum over samples times eta, nothing that bounds B.
        return tfwm.callbacks.WeightMirror(
            noise(**{"std": 0.05 / 3**0.5, "samples": 128, **options}),
            schedule=schedule,
            seed=seed,
            through_activation=True,
            bias_blocking=False,
            activations=config.activations,
            eta=config.eta,
            norm=None,
        )
    return tfwm.callbacks.WeightMirror(noise(**options), schedule=schedule, seed=seed)


@contextlib.contextmanager
def refusals_as_user_errors() -> Iterator[None]:
    """What the library refuses (no weight decay under Kolen-Pollack, ...) is the user's to mend."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if error.__traceback__ is not None:
            raised_in = inspect.getinnerframes(error.__traceback__)[-1].frame.f_globals["__name__"]
            if raised_in.partition(".")[0] == tfwm.__name__:
                raise UserError(str(error)) from error
        raise
