"""What Kolen-Pollack's law needs of layers and optimizers: refusals, and what it leaves open."""

import warnings
from collections.abc import Collection, Sequence

import keras
import tensorflow as tf

from tfweightmirror._internals import optimizer_hooks, twin_gradient
from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import pathways
from tfweightmirror.pathway import Pathway
from tfweightmirror.rules import KolenPollack

# Optimizers whose update depends on more than gradient, state and learning rate. By name, since
# some are of other packages.
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


def pairs_of(model: keras.Model) -> list[Pathway]:
    """All `kolen_pollack` pathways of `model`, frozen ones too, that the law can hold in.

    Raises:
        ValueError: There is none, or none that trains; a rule of a user's own gives B another
            gradient than W's; a kernel has a regularizer or constraint; weights in 16 bits; W and B
            are not trainable alike.
    """
    pairs = [p for p in pathways(model) if isinstance(p.rule, KolenPollack)]
    if not pairs:
        raise ValueError(
            f"The KolenPollack callback found no layer with the rule 'kolen_pollack' in "
            f"'{model.name}': convert the model with 'kolen_pollack', or leave the callback out."
            + see("the-callback-finds-no-layer")
        )
    for pathway in pairs:
        _check_pair(pathway)
    if not any(pathway.kernel.trainable for pathway in pairs):
        raise ValueError(
            f"All 'kolen_pollack' layers of '{model.name}' are frozen, so there is no gap to "
            "close: set trainable=True and compile again, or leave the KolenPollack callback out."
        )
    return pairs


def _check_pair(pathway: Pathway) -> None:
    kernel, feedback = pathway.kernel, pathway.feedback_kernel
    where = f"layer '{pathway.name}'"
    if not twin_gradient.is_kernels(pathway.rule):
        raise ValueError(
            f"Kolen-Pollack needs equal changes of W and B, but in {where} the rule "
            f"{type(pathway.rule).__name__} gives B a gradient of its own. "
            "Leave the KolenPollack callback out, which would give B the increments of W."
            + see("the-gap-under-kolen-pollack", "science")
        )
    if pathway.sparse is not None:
        raise ValueError(
            f"Kolen-Pollack needs equal changes of W and B, but {where} has masks of its own for "
            "W and for B (Sparse), and what only one of them has cannot come closer. Leave the "
            "KolenPollack callback out, or the layer out of Sparse by patterns."
            + see("sparse-connectivity", "science")
        )
    for kind in ("regularizer", "constraint"):
        found = getattr(kernel, kind)
        if found is not None:
            raise ValueError(
                f"Kolen-Pollack needs equal changes of W and B, but {where} has a kernel {kind} "
                f"({type(found).__name__}), which changes W alone. Use the optimizer's "
                "weight_decay instead." + see("a-regularizer-or-a-constraint")
            )
    if kernel.dtype not in ("float32", "float64"):
        raise ValueError(
            f"Kolen-Pollack needs weights in float32: in {where} they are {kernel.dtype}, where "
            "equal decays round differently and the gap stops shrinking. Use a mixed policy such "
            "as 'mixed_bfloat16'." + see("weights-in-16-bits")
        )
    if kernel.trainable != feedback.trainable:
        raise ValueError(
            f"Kolen-Pollack needs equal changes of W and B, but in {where} trainable is "
            f"{kernel.trainable} for W and {feedback.trainable} for B. Set both alike."
            + see("the-gap-under-kolen-pollack", "science")
        )


def check_optimizer(optimizer: keras.optimizers.Optimizer, pairs: Sequence[Pathway]) -> None:
    """Refuse an optimizer (the inner one under loss scaling) that does not give `pairs` the law.

    Raises:
        ValueError: It is one under which the law cannot hold, it averages weights, or it does not
            decay W and B alike.
    """
    name = type(optimizer).__name__
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _REFUSED:
            kind = "" if cls.__name__ == name else f" (a {cls.__name__})"
            raise ValueError(
                f"Kolen-Pollack cannot hold under {name}{kind}: {_REFUSED[cls.__name__]}. Use an "
                "optimizer whose update depends on gradient, state and learning rate alone, such "
                "as SGD or AdamW with weight_decay." + see("an-optimizer-that-cannot-hold-the-law")
            )
    if optimizer.use_ema:
        raise ValueError(
            f"Kolen-Pollack cannot hold under {name} with use_ema=True, which overwrites weights "
            "by their average. Use use_ema=False." + see("an-optimizer-that-cannot-hold-the-law")
        )
    if getattr(optimizer, "coupled_weight_decay", None) and not isinstance(
        optimizer, keras.optimizers.SGD
    ):
        raise ValueError(
            f"Kolen-Pollack cannot hold under {name} with coupled weight decay: it divides each "
            "step by the size of gradients that hold the decay, so W and B get unequal steps. Use "
            "decoupled decay (weight_decay), or SGD." + see("an-optimizer-that-cannot-hold-the-law")
        )
    for pathway in pairs:
        _check_decay(optimizer, pathway)


def _check_decay(optimizer: keras.optimizers.Optimizer, pathway: Pathway) -> None:
    kernel, feedback, name = pathway.kernel, pathway.feedback_kernel, type(optimizer).__name__
    where = f"layer '{pathway.name}'"
    if not optimizer_hooks.same_update(optimizer, kernel, feedback):
        raise ValueError(
            f"Kolen-Pollack needs equal changes of W and B, but {name} excludes one of the pair in "
            f"{where} from its update (exclude_layers). Exclude both or none."
            + see("the-gap-under-kolen-pollack", "science")
        )
    decays = [optimizer_hooks.any_decay_of(optimizer, v) for v in (kernel, feedback)]
    if decays[0] != decays[1]:
        raise ValueError(
            f"Kolen-Pollack needs equal decay of W and B, but in {where} {name} decays W by "
            f"{decays[0]} and B by {decays[1]} (exclude_from_weight_decay). Exclude both or none."
            + see("unequal-decay")
        )
    if decays[0] <= 0:
        decay = f"weight_decay={optimizer.weight_decay}"
        excludes = f"excludes {where} from its {decay}"
        has = excludes if optimizer.weight_decay else f"has {decay} for {where}"
        raise ValueError(
            f"Kolen-Pollack needs weight decay, without which the gap between W and B never "
            f"shrinks (that is 'updated_random_feedback'), but {name} {has}. Try "
            "weight_decay so that learning rate x decay x steps is about 4."
            + see("it-needs-weight-decay")
        )


def check_update(
    optimizer: keras.optimizers.Optimizer, pairs: Sequence[Pathway], updated: Collection[int]
) -> None:
    """Refuse an update that moves one of a pair: `updated` are ids of TensorFlow variables."""
    for pathway in pairs:
        given = [id(v.value) in updated for v in (pathway.kernel, pathway.feedback_kernel)]
        if given[0] != given[1]:
            one, other = ("W", "B") if given[0] else ("B", "W")
            raise ValueError(
                f"Kolen-Pollack needs equal changes of W and B, but {type(optimizer).__name__} is "
                f"given {one} of layer '{pathway.name}' without {other}. Give it the gradients of "
                "both, as in the layer's trainable_variables. (If no fit is running, the last one "
                "has failed: the next fit, or train_on_batch, ends its callbacks.)"
                + see("the-gap-under-kolen-pollack", "science")
            )


def unknown_optimizer(model: keras.Model, pathway: Pathway) -> ValueError:
    """W has moved, and no optimizer of the model has moved it."""
    return ValueError(
        f"The KolenPollack callback does not know what updates layer '{pathway.name}': its W moved "
        f"in the first batch, but by no optimizer among the attributes of '{model.name}'. Make "
        "that optimizer an attribute of the model, or leave the callback out."
    )


def warn_if_w_shrank(model: str, pairs: Sequence[Pathway]) -> None:
    """Warn where |B - W| is above half of |W|, in `pairs` whose gap is closed by the law."""
    ratios = {
        p.name: float(tf.norm(p.feedback_kernel - p.kernel) / tf.norm(p.kernel)) for p in pairs
    }
    # B lies in a ball around W: at a radius of |W| / 2 the angle is at most asin(0.5), 30 degrees.
    wide = sorted((name for name in ratios if ratios[name] > 0.5), key=lambda n: -ratios[n])
    if wide:
        worst = ", ".join(f"{ratios[name]:.2g} in '{name}'" for name in wide[:3])
        warnings.warn(
            f"The gap B - W has closed by Kolen-Pollack's law, but in {len(wide)} of {len(pairs)} "
            f"layers of '{model}' W has shrunk with it, and the angle is large: |B - W| / |W| is "
            f"{worst}." + see("a-closed-gap-and-a-large-angle"),
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )
