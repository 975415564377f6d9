"""The optimizer and its learning rate."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from train.config.part import Count, NotNegative, Positive, WholeNotNegative
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes.

    Args:
        name: `constant`, `piecewise` (times `factor` at each boundary), `cosine` (to
            `final_factor` at the last epoch), a Keras schedule, such as PolynomialDecay, or the
            import path of one; it counts in steps.
        options: Arguments of a Keras schedule or one of your own; its `initial_learning_rate` is
            set from `learning_rate`.
        boundaries_epochs: Epochs after which `piecewise` drops the rate, counted with the warm-up.
        boundaries_steps: The same in training steps, instead.
        factor: Of each drop of `piecewise`.
        final_factor: Of `cosine`: the last rate over the first.
        warm_up_epochs: Epochs, or a fraction of one, over which the rate first rises linearly from
            0 (as in Keras).
        warm_up_steps: The same in training steps, instead.
    """

    name: str = "constant"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    boundaries_epochs: tuple[float, ...] = ()
    boundaries_steps: tuple[int, ...] = ()
    factor: Positive = 0.1
    final_factor: NotNegative = 0.0
    warm_up_epochs: NotNegative = 0.0
    warm_up_steps: WholeNotNegative = 0

    def __post_init__(self) -> None:
        for unit in ("epochs", "steps"):
            given = getattr(self, f"boundaries_{unit}")
            if list(given) != sorted(set(given)) or any(b <= 0 for b in given):
                raise UserError(
                    f"optimizer.schedule.boundaries_{unit} is {list(given)}. Expected {unit} above "
                    f"0 in rising order."
                )
        for key in ("boundaries", "warm_up"):
            if getattr(self, f"{key}_epochs") and getattr(self, f"{key}_steps"):
                raise UserError(
                    f"optimizer.schedule.{key}_epochs and {key}_steps are both given. Expected one "
                    f"of them."
                )
        if self.options and self.name in ("constant", "piecewise", "cosine"):
            raise UserError(
                f"optimizer.schedule.options is {self.options}, which {self.name} does not have: "
                f"it has keys of its own. Expected options of a Keras schedule, or none."
            )
        boundaries = self.boundaries_epochs or self.boundaries_steps
        if (self.name == "piecewise") != bool(boundaries):
            raise UserError(
                f"optimizer.schedule.name is {self.name} and "
                f"boundaries_{'steps' if self.boundaries_steps else 'epochs'} is "
                f"{list(boundaries)}. Expected boundaries with piecewise, and with it alone."
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, a Keras one.

    Args:
        name: Keras name, such as sgd, adam, adamw or rmsprop, or the import path of a Keras
            optimizer of your own.
        learning_rate: Step size.
        learning_rate_scaling: How the step size follows the global batch size: `none`, `linear`
            (times batch size / `reference_batch_size`) or `sqrt` (times the root of that).
        reference_batch_size: Global batch size, in images, for which `learning_rate` was chosen.
        weight_decay: Decay of the weights, forward and feedback alike; null: none.
        decay: `decoupled` (Keras'): a step takes `learning_rate x weight_decay` of each weight.
            `coupled` (PyTorch's, so Xiao et al. 2018): `weight_decay x weight` is added to its
            gradient, behind clipping and before momentum; under momentum m that is about decoupled
            `weight_decay / (1 - m)`. `per_step` (Akrout et al. 2019, eq. 16 and 17): a step takes
            `weight_decay` of each weight, whatever the learning rate; below 1.
        decay_biases: Whether biases and BatchNorm's scale and offset decay, too.
        bias_learning_rate_factor: The step size of biases over that of weights. Decay that is not
            coupled takes of both alike.
        options: The optimizer's other arguments by their Keras names, such as momentum, nesterov,
            beta_1, clipnorm.
    """

    name: str = "sgd"
    learning_rate: Positive = 0.05
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch_size: Count = 256
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: NotNegative | None = None
    decay: Literal["decoupled", "coupled", "per_step"] = "decoupled"
    decay_biases: bool = True
    bias_learning_rate_factor: Positive = 1.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.decay == "per_step" and (self.weight_decay or 0.0) >= 1:
            raise UserError(
                f"optimizer.decay is per_step and optimizer.weight_decay {self.weight_decay}, "
                f"which would leave nothing of the weights after a step. Expected a share below "
                f"1: the learning rate times the weight_decay of decoupled decay."
            )
