"""Keras optimizers from the configuration."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf

from train.config import OptimizerConfig
from train.errors import UserError, did_you_mean

# They wrap other optimizers or are the base class: not to be named in a configuration.
_NOT_BY_NAME = {"optimizer", "lossscaleoptimizer"}


def known_optimizers() -> dict[str, Any]:
    """Name in lower case to class, for every optimizer of the installed Keras."""
    return {
        name.lower(): member
        for name, member in vars(keras.optimizers).items()
        if inspect.isclass(member)
        and issubclass(member, keras.optimizers.Optimizer)
        and name.lower() not in _NOT_BY_NAME
    }


def build_optimizer(
    config: OptimizerConfig, *, batch_size: int, steps_per_epoch: int, epochs: int
) -> Any:
    """The optimizer, with its exclusions from weight decay.

    Raises:
        UserError: If the optimizer or an option is not known, or Keras refuses a value.
    """
    known = known_optimizers()
    name = config.name.lower()
    if name not in known:
        raise UserError(
            f"optimizer.name={config.name} is not known. Expected one of {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )
    accepted = set(inspect.signature(known[name].__init__).parameters)
    # Every Keras optimizer takes these, many of them through **kwargs.
    accepted |= set(inspect.signature(keras.optimizers.Optimizer.__init__).parameters)
    accepted -= {"self", "kwargs", "learning_rate", "weight_decay", "name"}
    for option in config.options:
        if option not in accepted:
            raise UserError(
                f"optimizer.options.{option} is not an option of {name}. Expected one of "
                f"{', '.join(sorted(accepted))}.{did_you_mean(option, accepted)}"
            )
    build = known[name]
    if config.bias_learning_rate_factor != 1:
        build = _with_bias_factor(build, config.bias_learning_rate_factor)
    try:
        optimizer = build(
            learning_rate=config.learning_rate, weight_decay=config.weight_decay, **config.options
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {name} refuses its options: {error}") from error
    if config.weight_decay and not config.decay_biases:
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def _with_bias_factor(optimizer_class: Any, factor: float) -> Any:
    """The optimizer whose step size for biases is `factor` times that for other weights."""

    class BiasFactor(optimizer_class):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
            # Variables of TensorFlow or of Keras: both are named by their path.
            name = getattr(variable, "path", variable.name).rpartition("/")[2].partition(":")[0]
            rate = learning_rate * factor if name == "bias" else learning_rate
            return super().update_step(gradient, variable, rate)

    BiasFactor.__name__ = optimizer_class.__name__
    return BiasFactor


def scaled_learning_rate(config: OptimizerConfig, batch_size: int) -> float:
    return config.learning_rate


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def reduce_learning_rate(optimizer: Any, factor: float) -> None:
    inner = _inner(optimizer)
    inner.learning_rate.assign(inner.learning_rate * factor)


def learning_rate_now(optimizer: Any) -> float:
    return float(tf.convert_to_tensor(_inner(optimizer).learning_rate))


def rate_variables(optimizer: Any) -> list[Any]:
    return []
