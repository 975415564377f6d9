"""Callback that checks that Kolen-Pollack's law can hold, and whether it does."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror import optimizer_internals
from tfweightmirror.callbacks.gap_law import GapLaw, angle_at_gap_deg, first_velocities
from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.mirror.mirror_model import assign_on_replicas
from tfweightmirror.pathway import Pathway
from tfweightmirror.rules import KolenPollack as KolenPollackRule
from tfweightmirror.walk import pathways

# Optimizers whose update depends on more than gradient, state and learning rate.
_REFUSED = {
    "Adafactor": "it scales the step by the weights' own size",
    "Ftrl": "it computes weights anew from accumulated gradients",
    "Lamb": "it scales the step by the weights' norm",
    "LAMB": "it scales the step by the weights' norm",
    "Lars": "it scales the step by the weights' norm",
    "LARS": "it scales the step by the weights' norm",
    "ScheduleFreeAdamW": "its weights are an average over its own history",
    "MultiOptimizer": "it may send W and B to different optimizers",
}


class KolenPollack(keras.callbacks.Callback):
    """Checks at the begin of training that the gap B - W must die out, and reports it.

    Under `kolen_pollack` B and W get the same step and the same decoupled weight decay, so
    `|B - W|_t = prod_t (1 - learning_rate_t * weight_decay) |B - W|_0` (Kolen and Pollack 1994;
    Akrout et al. 2019, eq. 13 to 18), in any optimizer whose update depends on gradient, state and
    learning rate alone.

    The paper's decay is decoupled and not scaled by the learning rate (Akrout et al. 2019, eq. 16
    and 17): `w <- w - learning_rate * gradient - decay * w`, so that the gap is `(1 - decay)^t`.
    Keras has none such: an optimizer of your own that takes it in `update_step`, before the step,
    says so by an attribute `per_step_weight_decay`.

    Nor has Keras coupled decay, PyTorch's `gradient + weight_decay * weight` (so Xiao et al. 2018).
    An optimizer that adds it in `update_step` has an attribute `coupled_weight_decay`. The gap then
    has a momentum of its own: with `v` 0 at first, learning rate `r` and decay `d`,
    `v <- momentum * v - r * d * gap`, `gap <- gap + v` (Nesterov: `gap + momentum * v - r * d *
    gap`); without momentum that is the law above. It holds for SGD alone.

    At each epoch's end `logs` get `feedback_gap`, the largest measured `|B - W|_t / |B - W|_0` of
    all pathways, and `feedback_gap_predicted`; where they part by more than 5 %, a warning says so
    once.

    The two gradients are one tensor: this callback lets it cross the network once under data
    parallelism, and keeps it from counting twice in `global_clipnorm`.

    Raises:
        ValueError: At the begin of training: no `kolen_pollack` layer, or none that trains, no or
            unequal weight decay, a regularizer or constraint on a kernel, an optimizer under which
            the law cannot hold (Adafactor, Ftrl, LAMB, LARS, schedule-free AdamW, several
            optimizers at once, coupled decay in others than SGD), averaged weights (`use_ema`), or
            weights in 16 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pairs: list[Pathway] = []
        self._law = GapLaw(decoupled=(), coupled=(), per_step=())
        self._first_gaps: Any = None
        self._predicted: Any = None
        self._velocity: Any = None
        self._warned = False

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint of a running training must hold of this callback.

        There from `on_train_begin` on; to be restored after it.
        """
        return {
            "first_gaps": self._first_gaps,
            "predicted": self._predicted,
            "velocity": self._velocity,
        }

    def on_train_begin(self, logs: Any = None) -> None:
        """Check everything that the law needs."""
        optimizer = _inner(self.model.optimizer)
        self._pairs = _checked_pairs(self.model, optimizer)
        self._law = GapLaw.of(optimizer, self._pairs)
        self._warned = False
        first = tf.ones(len(self._pairs)), first_velocities(optimizer, self._pairs)
        with self.model.distribute_strategy.scope():
            self._first_gaps = tf.Variable(self._gaps(), trainable=False)
            self._predicted, self._velocity = (
                tf.Variable(
                    value,
                    trainable=False,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                for value in first
            )
        twins = [(p.kernel, p.feedback_kernel) for p in self._pairs]
        undo = optimizer_internals.share_gradients(optimizer, twins)
        step = TrainStep.of(self.model)
        step.add("kolen_pollack", self._around_step, undo)
        step.predicted_angles["kolen_pollack"] = self._predicted_angles

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the gap, measured and predicted."""
        predicted = abs(self._predicted.numpy())  # under momentum gaps may swing through 0
        start, now = self._first_gaps.numpy(), self._gaps().numpy()
        ratios = now / start.clip(min=1e-30)
        if logs is not None:
            logs["feedback_gap"] = float(ratios.max())
            logs["feedback_gap_predicted"] = float(predicted.max())
        # Below this, the difference of two float32 kernels is rounding.
        floor = 1e-4 * tf.stack([tf.norm(p.kernel) for p in self._pairs]).numpy()
        broken = (abs(ratios - predicted) > 0.05 * predicted) & (now > floor)
        if broken.any() and not self._warned:
            self._warned = True
            worst = int((abs(ratios - predicted) / predicted * broken).argmax())
            warnings.warn(
                f"Kolen-Pollack's law does not hold in '{self._pairs[worst].name}': |B - W| is "
                f"{ratios[worst]:.4g} of what it was, the law says {predicted[worst]:.4g}. "
                "Something else moves W or B: another callback, or assignments between steps.",
                UserWarning,
                stacklevel=2,
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Give the model its own train step back."""
        step = TrainStep.existing(self.model)
        if step is not None:
            step.remove("kolen_pollack")

    def _predicted_angles(self) -> dict[str, float]:
        """The weight angles at the predicted gaps and the norms that W and B have now."""
        gaps = abs(self._predicted.numpy()) * self._first_gaps.numpy()
        norms = (
            [
                float(tf.norm(tf.convert_to_tensor(kernel)))
                for kernel in (p.kernel, p.feedback_kernel)
            ]
            for p in self._pairs
        )
        return {
            pathway.name: angle_at_gap_deg(float(gap), w, b)
            for pathway, gap, (w, b) in zip(self._pairs, gaps, norms, strict=True)
        }

    def _gaps(self) -> tf.Tensor:
        return tf.stack(
            [
                tf.norm(tf.convert_to_tensor(p.feedback_kernel) - tf.convert_to_tensor(p.kernel))
                for p in self._pairs
            ]
        )

    @contextlib.contextmanager
    def _around_step(self) -> Iterator[None]:
        """The predicted gap, carried along with the step: traced, in replica context."""
        optimizer = _inner(self.model.optimizer)
        rate = tf.cast(tf.convert_to_tensor(optimizer.learning_rate), tf.float32)
        before = tf.convert_to_tensor(optimizer.iterations)
        yield
        # No update while gradients accumulate, or after a loss-scale overflow.
        updated = tf.convert_to_tensor(optimizer.iterations) > before
        variables = [self._predicted, self._velocity]
        gap, velocity = (tf.convert_to_tensor(variable) for variable in variables)
        new_gap, new_velocity = self._law.after_update(gap, velocity, rate)
        values = [tf.where(updated, new_gap, gap), tf.where(updated, new_velocity, velocity)]
        assign_on_replicas(variables, values)


def _inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer below loss scaling."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _checked_pairs(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[Pathway]:
    """The `kolen_pollack` pathways that train, after all refusals."""
    pairs = [p for p in pathways(model) if isinstance(p.rule, KolenPollackRule)]
    if not pairs:
        raise ValueError(
            f"The KolenPollack callback found no layer with the rule 'kolen_pollack' in "
            f"'{model.name}': convert the model with 'kolen_pollack', or leave the callback out."
        )
    name = type(optimizer).__name__
    if name in _REFUSED:
        raise ValueError(
            f"Kolen-Pollack cannot hold under {name}: {_REFUSED[name]}. Use an optimizer whose "
            "update depends on gradient, state and learning rate alone, such as SGD or AdamW with "
            "weight_decay."
        )
    if optimizer.use_ema:
        raise ValueError(
            f"Kolen-Pollack cannot hold under {name} with use_ema=True, which overwrites weights "
            "by their average. Use use_ema=False."
        )
    if getattr(optimizer, "coupled_weight_decay", None) and not isinstance(
        optimizer, keras.optimizers.SGD
    ):
        raise ValueError(
            f"Kolen-Pollack cannot hold under {name} with coupled weight decay: it divides each "
            "step by the size of gradients that hold the decay, so W and B get unequal steps. Use "
            "decoupled decay (weight_decay), or SGD."
        )
    for pathway in pairs:
        _check_pair(pathway, optimizer)
    training = [p for p in pairs if p.kernel.trainable]
    if not training:
        raise ValueError(
            f"All 'kolen_pollack' layers of '{model.name}' are frozen, so there is no gap to "
            "close: set trainable=True and compile again, or leave the KolenPollack callback out."
        )
    return training


def _check_pair(pathway: Pathway, optimizer: keras.optimizers.Optimizer) -> None:
    kernel, feedback, name = pathway.kernel, pathway.feedback_kernel, type(optimizer).__name__
    where = f"layer '{pathway.name}'"
    for kind in ("regularizer", "constraint"):
        found = getattr(kernel, kind)
        if found is not None:
            raise ValueError(
                f"Kolen-Pollack needs equal changes of W and B, but {where} has a kernel {kind} "
                f"({type(found).__name__}), which changes W alone. Use the optimizer's "
                "weight_decay instead."
            )
    if kernel.dtype not in ("float32", "float64"):
        raise ValueError(
            f"Kolen-Pollack needs weights in float32: in {where} they are {kernel.dtype}, where "
            "equal decays round differently and the gap stops shrinking. Use a mixed policy such "
            "as 'mixed_bfloat16'."
        )
    if kernel.trainable != feedback.trainable:
        raise ValueError(
            f"Kolen-Pollack needs equal changes of W and B, but in {where} trainable is "
            f"{kernel.trainable} for W and {feedback.trainable} for B. Set both alike."
        )
    if not optimizer_internals.same_update(optimizer, kernel, feedback):
        raise ValueError(
            f"Kolen-Pollack needs equal changes of W and B, but {name} excludes one of the pair in "
            f"{where} from its update (exclude_layers). Exclude both or none."
        )
    decays = [
        optimizer_internals.decay_of(optimizer, v)
        or optimizer_internals.coupled_decay_of(optimizer, v)
        or optimizer_internals.per_step_decay_of(optimizer, v)
        for v in (kernel, feedback)
    ]
    if decays[0] != decays[1]:
        raise ValueError(
            f"Kolen-Pollack needs equal decay of W and B, but in {where} {name} decays W by "
            f"{decays[0]} and B by {decays[1]} (exclude_from_weight_decay). Exclude both or none."
        )
    if decays[0] <= 0:
        raise ValueError(
            f"Kolen-Pollack needs weight decay, without which the gap between W and B never "
            f"shrinks (that is 'updated_random_feedback'), but {name} has weight_decay="
            f"{optimizer.weight_decay} for {where}. Try weight_decay so that learning rate x decay "
            "x steps is about 4."
        )
