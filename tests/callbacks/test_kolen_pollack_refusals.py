"""KolenPollack refuses what the law cannot hold under."""

from collections.abc import Callable
from typing import Any

import keras
import pytest

from tests.callbacks.gaps import COUPLED_SGD, HOOKS, LAW, Optimizer, coupled, excluding, gaps, law
from tests.callbacks.training import SGD, compiled, dense, fit, kernels, own_train_step, same
from tfweightmirror.callbacks import KolenPollack

o = keras.optimizers


def sgd(**options: Any) -> Optimizer:
    """An optimizer that would do."""
    return SGD(0.1, **{"weight_decay": 0.6, **options})


def built_under(policy: str) -> keras.Model:
    """The dense network with weights in 16 bits."""
    keras.config.set_dtype_policy(policy)
    return dense("kolen_pollack")


def frozen() -> keras.Model:
    """A network that does not train at all."""
    model = dense("kolen_pollack")
    model.trainable = False
    return model


def several() -> Optimizer:
    """Two optimizers at once."""
    return o.MultiOptimizer(lambda variable: o.SGD(0.1))


def pair() -> keras.Model:
    """What would do."""
    return dense("kolen_pollack")


# What came, what was expected, what to do.
REFUSED: dict[str, tuple[Callable[[], keras.Model], Callable[[], Optimizer], list[str]]] = {
    "Adafactor": (
        pair,
        lambda: o.Adafactor(0.1, weight_decay=0.6),
        ["under Adafactor", "scales the step by the weights' own size", "Use an optimizer"],
    ),
    "Ftrl": (
        pair,
        lambda: o.Ftrl(0.1, weight_decay=0.6),
        ["under Ftrl", "weights anew from accumulated gradients", "such as SGD or AdamW"],
    ),
    "Lamb": (
        pair,
        lambda: o.Lamb(0.1, weight_decay=0.6),
        ["under Lamb", "scales the step by the weights' norm", "such as SGD or AdamW"],
    ),
    "a subclass": (
        pair,
        lambda: type("Own", (o.Lamb,), {})(0.1, weight_decay=0.6),
        ["under Own (a Lamb)", "scales the step by the weights' norm", "such as SGD or AdamW"],
    ),
    "ScheduleFreeAdamW": (
        pair,
        lambda: o.ScheduleFreeAdamW(0.1, weight_decay=0.6),
        ["under ScheduleFreeAdamW", "average over its own history", "such as SGD or AdamW"],
    ),
    "coupled decay under Adam": (
        pair,
        lambda: coupled(o.Adam)(0.1, coupled_weight_decay=0.6),
        ["with coupled weight decay", "unequal steps", "Use decoupled decay (weight_decay), or"],
    ),
    "B not decayed, coupled": (
        pair,
        lambda: excluding(COUPLED_SGD(0.1, coupled_weight_decay=0.6), "feedback"),
        ["equal decay", "'hidden'", "W by 0.6 and B by 0.0", "Exclude both or none"],
    ),
    "zero coupled decay": (
        pair,
        lambda: COUPLED_SGD(0.1, coupled_weight_decay=0.0),
        ["needs weight decay", "'hidden'", "Try weight_decay"],
    ),
    "MultiOptimizer": (
        pair,
        several,
        ["under MultiOptimizer", "W and B to different optimizers", "such as SGD or AdamW"],
    ),
    "under loss scaling": (
        pair,
        lambda: o.LossScaleOptimizer(o.Ftrl(0.1, weight_decay=0.6)),
        ["under Ftrl", "Use an optimizer"],
    ),
    "no decay": (
        pair,
        lambda: SGD(0.1),
        ["needs weight decay", "SGD has weight_decay=None", "'hidden'", "Try weight_decay"],
    ),
    "zero decay": (
        pair,
        lambda: sgd(weight_decay=0.0),
        ["needs weight decay", "SGD has weight_decay=0.0", "'hidden'", "Try weight_decay"],
    ),
    "B not decayed": (
        pair,
        lambda: excluding(sgd(), "feedback"),
        ["equal decay", "'hidden'", "W by 0.6 and B by 0.0", "Exclude both or none"],
    ),
    "W not decayed": (
        pair,
        lambda: excluding(sgd(), "head/kernel"),
        ["equal decay", "'head'", "W by 0.0 and B by 0.6", "Exclude both or none"],
    ),
    "neither decayed": (
        pair,
        lambda: excluding(sgd(), "head"),
        ["needs weight decay", "excludes layer 'head' from its weight_decay=0.6"],
    ),
    "Muon without B": (
        pair,
        lambda: o.Muon(0.01, weight_decay=6.0, exclude_layers=["feedback"]),
        ["equal changes", "Muon excludes one of the pair", "'hidden'", "Exclude both or none"],
    ),
    "regularizer": (
        lambda: dense("kolen_pollack", kernel_regularizer="l2"),
        sgd,
        ["equal changes", "'hidden' has a kernel regularizer (L2)", "Use the optimizer's"],
    ),
    "constraint": (
        lambda: dense("kolen_pollack", kernel_constraint="max_norm"),
        sgd,
        ["equal changes", "'hidden' has a kernel constraint (MaxNorm)", "weight_decay instead"],
    ),
    "averaged weights": (
        pair,
        lambda: sgd(use_ema=True),
        ["SGD with use_ema=True", "overwrites weights", "Use use_ema=False"],
    ),
    "float16": (
        lambda: built_under("float16"),
        sgd,
        ["needs weights in float32", "'hidden' they are float16", "Use a mixed policy"],
    ),
    "bfloat16": (
        lambda: built_under("bfloat16"),
        sgd,
        ["needs weights in float32", "'hidden' they are bfloat16", "Use a mixed policy"],
    ),
    "frozen": (
        frozen,
        sgd,
        ["All 'kolen_pollack' layers of 'dense' are frozen", "no gap to close: set trainable"],
    ),
    "no such rule": (
        lambda: dense("weight_mirror"),
        sgd,
        ["no layer with the rule 'kolen_pollack'", "'dense'", "convert the model"],
    ),
    "no feedback layer": (
        lambda: dense(None),
        sgd,
        ["no layer with the rule 'kolen_pollack'", "'dense'", "leave the callback out"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_the_law_cannot_hold_training_is_refused(name: str) -> None:
    make_model, make_optimizer, said = REFUSED[name]
    model = compiled(make_model(), make_optimizer())
    callback = KolenPollack()
    callback.set_model(model)
    with pytest.raises(ValueError) as refusal:
        callback.on_train_begin()
    for part in said:
        assert part in str(refusal.value)
    assert own_train_step(model)
    assert not any(hook in vars(model.optimizer) for hook in HOOKS)


def test_what_is_refused_never_trains() -> None:
    model = compiled(pair(), SGD(0.1))
    before = kernels(model)
    with pytest.raises(ValueError, match="needs weight decay"):
        fit(model, KolenPollack())
    assert same(kernels(model), before)


def test_mixed_precision_is_let_through_and_holds_the_law() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(dense("kolen_pollack"), sgd())
    before = gaps(model)
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    fit(model, KolenPollack(), batches=16)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(law(model.optimizer, 0.6), rel=LAW), pathway


def test_two_callbacks_are_a_clear_error() -> None:
    model = compiled(pair(), sgd())
    with pytest.raises(ValueError, match=r"'dense' is already trained with a kolen_pollack"):
        fit(model, KolenPollack(), KolenPollack())
