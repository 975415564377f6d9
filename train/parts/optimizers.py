"""Keras optimizers from the configuration, and what Keras' own do not have."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.training import BatchManhattan
from train.config import OptimizerConfig
from train.errors import UserError, see
from train.parts.named import checked_options, classes_of, find, options_of, refusals
from train.parts.schedules import build_schedule

_OPTIMIZER: Any = keras.optimizers.Optimizer
# Decay is decoupled by their definition.
_ALWAYS_DECOUPLED = {"adamw", "schedulefreeadamw", "muon"}
# What "biases" are to `decay_biases`: also scale and offset of normalisations. A pattern over
# paths, which under MirroredStrategy end in "/replica_1".
_BIASES = "(^|/)(bias|beta|gamma)($|[/:])"


def known_optimizers() -> dict[str, Any]:
    """Name in lower case to class: Keras' optimizers but those that wrap others, and ours."""
    classes = {n.lower(): c for n, c in classes_of(keras.optimizers, _OPTIMIZER).items()}
    wrappers = ("lossscaleoptimizer", "multioptimizer")
    known = {name: member for name, member in classes.items() if name not in wrappers}
    return known | {"batchmanhattan": BatchManhattan}


def scaled_learning_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The learning rate for a global batch of `batch_size` images.

    Linear scaling is that of Goyal et al. 2017, the root that of Krizhevsky 2014.
    """
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.learning_rate_scaling]
    return config.learning_rate * (batch_size / config.reference_batch_size) ** power


def build_optimizer(
    config: OptimizerConfig, *, batch_size: int, steps_per_epoch: int, steps: int
) -> Any:
    """The optimizer with its schedule and decay. Under a strategy: to be called in its scope.

    `batch_size` is that over all replicas, and the schedule ends at training step `steps`.
    """
    name = config.name.lower()
    optimizer_class = find("optimizer.name", config.name, known_optimizers())
    if not (inspect.isclass(optimizer_class) and issubclass(optimizer_class, _OPTIMIZER)):
        raise UserError(
            f"optimizer.name={config.name} is {optimizer_class!r}. Expected a subclass of "
            f"keras.optimizers.Optimizer." + see("parts-of-your-own", "own_parts")
        )
    ours = ("learning_rate", "weight_decay", "coupled_weight_decay", "name")
    options = checked_options("optimizer.options", optimizer_class, config.options, set_by_us=ours)
    accepted = options_of(optimizer_class)
    for option in [option for option in accepted if option in options]:
        # None of them takes a text, also where the default is null or a list, or the class ours.
        truth, value = isinstance(accepted[option].default, bool), options[option]
        if isinstance(value, str) or isinstance(value, bool) != truth:
            several = isinstance(accepted[option].default, tuple)
            expected = "true or false" if truth else "a list" if several else "a number or null"
            raise UserError(f"optimizer.options.{option} is {value!r}. Expected {expected}.")
    of_keras = config.decay == "decoupled"
    if not of_keras and name in _ALWAYS_DECOUPLED:
        raise UserError(
            f"optimizer.decay is {config.decay} and optimizer.name {name}, whose weight decay is "
            f"decoupled by definition. Expected decoupled, or another optimizer, such as adam."
        )
    extra: dict[str, Any] = {}
    if config.weight_decay and not of_keras:
        extra[f"{config.decay}_weight_decay"] = config.weight_decay
    if config.bias_learning_rate_factor != 1:
        extra["bias_learning_rate_factor"] = config.bias_learning_rate_factor
    if config.weight_decay and not config.decay_biases:
        extra["decay_biases"] = False
    if extra:
        optimizer_class = EXTENDED.get(name) or _extended(optimizer_class)
    rate = scaled_learning_rate(config, batch_size)
    schedule = build_schedule(config.schedule, rate, steps_per_epoch=steps_per_epoch, steps=steps)
    decay = config.weight_decay if of_keras else None
    with refusals(f"optimizer {name} refuses its options"):
        return optimizer_class(learning_rate=schedule, weight_decay=decay, **extra, **options)


def _extended(optimizer_class: Any) -> Any:
    """A Keras optimizer with other kinds of weight decay and a step size of its own for biases.

    Its name stays Keras', by which the library knows optimizers that it has to refuse.

    Args (beyond those of the Keras class):
        coupled_weight_decay: Times the weight, added to its gradient: behind clipping and before
            momentum, as in PyTorch (where `clip_grad_norm_` comes before `optimizer.step`).
        per_step_weight_decay: The share of each weight that an update takes before its step,
            whatever the learning rate (Akrout et al. 2019, eq. 16).
        bias_learning_rate_factor: Step size of biases over that of other weights. Decoupled decay
            has the full rate.
        decay_biases: Whether decay takes of biases and of BatchNorm's scale and offset.
    """

    # BatchManhattan adds it itself, behind the sign.
    adds_decay = "coupled_weight_decay" in options_of(optimizer_class)

    class Extended(optimizer_class):
        def __init__(
            self,
            *arguments: Any,
            coupled_weight_decay: float | None = None,
            per_step_weight_decay: float | None = None,
            bias_learning_rate_factor: float = 1.0,
            decay_biases: bool = True,
            **options: Any,
        ) -> None:
            if adds_decay:
                options["coupled_weight_decay"] = coupled_weight_decay
            super().__init__(*arguments, **options)
            # The library reads the decays.
            self.coupled_weight_decay = coupled_weight_decay
            self.per_step_weight_decay = per_step_weight_decay
            self.bias_learning_rate_factor = bias_learning_rate_factor
            self.decay_biases = decay_biases
            if not decay_biases:
                self.exclude_from_weight_decay(var_names=[_BIASES])

        def build(self, variables: Any) -> None:
            super().build(variables)
            # By place: a replica's part of a variable, as `update_step` gets it, has another name.
            self._biases = frozenset(
                place for place, variable in enumerate(variables) if variable.name == "bias"
            )

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            weight = tf.convert_to_tensor(variable)
            decays = self._use_weight_decay(variable)
            if self.coupled_weight_decay and decays and not adds_decay:
                gradient = tf.cast(gradient, weight.dtype) + self.coupled_weight_decay * weight
            if self.per_step_weight_decay and decays:
                self.assign_sub(variable, self.per_step_weight_decay * weight)
            if self._get_variable_index(variable) in self._biases:
                learning_rate = learning_rate * self.bias_learning_rate_factor
            super().update_step(gradient, variable, learning_rate)

        def get_config(self) -> dict[str, Any]:
            return super().get_config() | {
                "coupled_weight_decay": self.coupled_weight_decay,
                "per_step_weight_decay": self.per_step_weight_decay,
                "bias_learning_rate_factor": self.bias_learning_rate_factor,
                "decay_biases": self.decay_biases,
            }

    Extended.__name__ = Extended.__qualname__ = optimizer_class.__name__
    return keras.saving.register_keras_serializable("tfweightmirror_train")(Extended)


# All of them at import, so that Keras finds them when it loads a saved model.
EXTENDED = {name: _extended(member) for name, member in known_optimizers().items()}
