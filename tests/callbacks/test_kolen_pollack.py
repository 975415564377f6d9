"""KolenPollack: the law holds in every optimizer it lets through, and the others are refused."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import (
    SGD,
    Fails,
    assert_same_on_replicas,
    compiled,
    convolutional,
    dense,
    feedback,
    fit,
    kernels,
    own_train_step,
    same,
    weights,
)
from tfweightmirror.callbacks import KolenPollack

o = keras.optimizers
Optimizer = keras.optimizers.Optimizer

# Relative, of |B - W|: the project's own bound for the law in float32.
LAW = 2e-4
# What the callback replaces on the optimizer while it trains.
HOOKS = ("_all_reduce_sum_gradients", "_backend_apply_gradients", "_clip_gradients")
SCHEDULE = o.schedules.ExponentialDecay(0.1, decay_steps=4, decay_rate=0.7)


def gaps(model: keras.Model) -> dict[str, float]:
    """|B - W| of every pathway, in double precision."""
    held, trained = feedback(model), kernels(model)
    return {
        name: float(np.linalg.norm(held[name].astype("float64") - trained[name])) for name in held
    }


def law(optimizer: Optimizer, decay: float, updates: int = 16) -> float:
    """What `updates` of `optimizer` must leave of the gap."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = inner._learning_rate
    rates = [float(rate(t) if callable(rate) else rate.numpy()) for t in range(updates)]
    return math.prod(1 - r * decay for r in rates)


# --- the law ------------------------------------------------------------------------------------

# Rate x decay is about 0.06 and there are 16 batches: the gap falls to about a third.
UNDER_THE_LAW: dict[str, tuple[Callable[[], Optimizer], float]] = {
    "SGD": (lambda: SGD(0.1, weight_decay=0.6), 0.6),
    "momentum": (lambda: SGD(0.1, momentum=0.9, weight_decay=0.6), 0.6),
    "Nesterov": (lambda: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.6), 0.6),
    "AdamW": (lambda: o.AdamW(0.01, weight_decay=6.0), 6.0),
    "Adam": (lambda: o.Adam(0.01, amsgrad=True, weight_decay=6.0), 6.0),
    "Lion": (lambda: o.Lion(0.01, weight_decay=6.0), 6.0),
    "RMSprop": (lambda: o.RMSprop(0.01, centered=True, weight_decay=6.0), 6.0),
    "Nadam": (lambda: o.Nadam(0.01, weight_decay=6.0), 6.0),
    "Adagrad": (lambda: o.Adagrad(0.05, weight_decay=1.2), 1.2),
    "Adadelta": (lambda: o.Adadelta(0.5, weight_decay=0.12), 0.12),
    "Adamax": (lambda: o.Adamax(0.01, weight_decay=6.0), 6.0),
    "Muon": (lambda: o.Muon(0.01, weight_decay=6.0, adam_weight_decay=0.5), 6.0),
    "clipnorm": (lambda: SGD(0.1, clipnorm=0.05, weight_decay=0.6), 0.6),
    "clipvalue": (lambda: SGD(0.1, clipvalue=0.01, weight_decay=0.6), 0.6),
    "global_clipnorm": (lambda: SGD(0.1, global_clipnorm=0.05, weight_decay=0.6), 0.6),
    "schedule": (lambda: SGD(SCHEDULE, momentum=0.9, weight_decay=1.5), 1.5),
    "loss scale": (lambda: o.LossScaleOptimizer(SGD(0.1, weight_decay=0.6)), 0.6),
}


@pytest.mark.parametrize("name", UNDER_THE_LAW)
def test_the_gap_dies_out_by_the_law(name: str) -> None:
    make, decay = UNDER_THE_LAW[name]
    model = compiled(dense("kolen_pollack"), make())
    before, start = gaps(model), kernels(model)
    history = fit(model, KolenPollack(), batches=16)  # a warning that it is broken is an error
    predicted = law(model.optimizer, decay)
    assert 0.05 < predicted < 0.7
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
        assert not np.allclose(kernels(model)[pathway], start[pathway], atol=1e-3)
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)
    assert history["feedback_gap"] == pytest.approx([predicted], rel=LAW)


def test_the_gap_waits_while_gradients_accumulate() -> None:
    optimizer = SGD(0.1, momentum=0.9, weight_decay=3.0, gradient_accumulation_steps=4)
    model = compiled(dense("kolen_pollack"), optimizer)
    before = gaps(model)
    history = fit(model, KolenPollack(), batches=15)
    predicted = law(optimizer, 3.0, updates=3)  # 15 batches are three updates, and three wait
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)


def test_the_gap_waits_while_a_loss_scale_overflows() -> None:
    # A loss of about 100 times 2^127 is infinite; every overflow halves the scale.
    optimizer = o.LossScaleOptimizer(SGD(0.001, weight_decay=60.0), initial_scale=2.0**127)
    model = compiled(dense("kolen_pollack"), optimizer, loss_weights=100.0)
    before = gaps(model)
    history = fit(model, KolenPollack(), batches=16)
    updates = int(optimizer.inner_optimizer.iterations)
    assert 4 < updates < 16
    predicted = law(optimizer, 60.0, updates)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)


def test_the_gap_of_a_convolutional_network_dies_out_over_epochs_and_executions() -> None:
    model = compiled(
        convolutional("kolen_pollack"), o.AdamW(0.01, weight_decay=3.0), steps_per_execution=4
    )
    before = gaps(model)
    history = fit(model, KolenPollack(), epochs=3)
    predicted = [law(model.optimizer, 3.0, updates=8 * epoch) for epoch in (1, 2, 3)]
    assert history["feedback_gap_predicted"] == pytest.approx(predicted, rel=1e-5)
    assert history["feedback_gap"] == pytest.approx(predicted, rel=LAW)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted[-1], rel=LAW), pathway


def test_another_decay_for_kernels_outside_muon_is_predicted_for_each() -> None:
    optimizer = o.Muon(0.01, weight_decay=6.0, adam_weight_decay=3.0, exclude_layers=["head"])
    model = compiled(dense("kolen_pollack"), optimizer)
    before = gaps(model)
    history = fit(model, KolenPollack(), batches=16)
    after = gaps(model)
    assert after["hidden"] / before["hidden"] == pytest.approx(law(optimizer, 6.0), rel=LAW)
    assert after["head"] / before["head"] == pytest.approx(law(optimizer, 3.0), rel=LAW)
    assert history["feedback_gap_predicted"] == pytest.approx([law(optimizer, 3.0)], rel=1e-5)


@pytest.mark.parametrize("name", ["Nesterov", "AdamW", "global_clipnorm"])
def test_the_gap_dies_out_by_the_law_on_two_replicas(
    two_replicas: tf.distribute.Strategy, name: str
) -> None:
    make, decay = UNDER_THE_LAW[name]
    with two_replicas.scope():
        model = compiled(dense("kolen_pollack"), make())
    before = gaps(model)
    history = fit(model, KolenPollack(), batches=16)
    predicted = law(model.optimizer, decay)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)
    for pathway in tfwm.pathways(model):
        assert_same_on_replicas(pathway.kernel)
        assert_same_on_replicas(pathway.feedback_kernel)


def test_without_decay_for_b_the_law_would_not_hold() -> None:
    # The control: these bounds can fail.
    optimizer = SGD(0.1, weight_decay=0.6)
    optimizer.exclude_from_weight_decay(var_names=["feedback"])
    model = compiled(dense("kolen_pollack"), optimizer)
    before = gaps(model)
    fit(model, batches=16)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] != pytest.approx(law(optimizer, 0.6), rel=100 * LAW), pathway


# --- coupled decay ------------------------------------------------------------------------------


def coupled(optimizer_class: Any) -> Any:
    """An optimizer class with PyTorch's decay, as the callback expects it of users."""

    class Coupled(optimizer_class):
        def __init__(self, *arguments: Any, coupled_weight_decay: float, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.coupled_weight_decay = coupled_weight_decay

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if self._use_weight_decay(variable):
                gradient = gradient + self.coupled_weight_decay * tf.convert_to_tensor(variable)
            super().update_step(gradient, variable, learning_rate)

    return Coupled


COUPLED_SGD = coupled(SGD)


def coupled_law(rates: list[float], decay: float, momentum: float, nesterov: bool) -> float:
    """What these updates leave of the gap: heavy-ball SGD on `decay |B - W|^2 / 2`."""
    gap, velocity = 1.0, 0.0
    for rate in rates:
        velocity = momentum * velocity - rate * decay * gap
        gap += momentum * velocity - rate * decay * gap if nesterov else velocity
    return abs(gap)


# Without momentum the product law; with it 0.06 / (1 - momentum) a step, to first order.
UNDER_COUPLED_DECAY: dict[str, dict[str, Any]] = {
    "SGD": {"coupled_weight_decay": 0.6},
    "momentum": {"coupled_weight_decay": 0.06, "momentum": 0.9},
    "swinging through 0": {"coupled_weight_decay": 0.6, "momentum": 0.9},
    "Nesterov": {"coupled_weight_decay": 0.06, "momentum": 0.9, "nesterov": True},
    "clipping": {"coupled_weight_decay": 0.06, "momentum": 0.9, "global_clipnorm": 0.05},
    "schedule": {"coupled_weight_decay": 0.06, "momentum": 0.9, "learning_rate": SCHEDULE},
}


def predicted_of(optimizer: Optimizer, updates: int = 16) -> float:
    """`coupled_law` of `optimizer`."""
    rate = optimizer._learning_rate
    rates = [float(rate(t) if callable(rate) else rate.numpy()) for t in range(updates)]
    return coupled_law(
        rates, optimizer.coupled_weight_decay, optimizer.momentum, optimizer.nesterov
    )


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", UNDER_COUPLED_DECAY)
def test_the_gap_dies_out_by_the_law_of_coupled_decay(
    name: str, replicas: int, two_replicas: tf.distribute.Strategy
) -> None:
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        optimizer = COUPLED_SGD(**{"learning_rate": 0.1, **UNDER_COUPLED_DECAY[name]})
        model = compiled(dense("kolen_pollack"), optimizer)
    before = gaps(model)
    history = fit(model, KolenPollack(), batches=16)  # a warning that it is broken is an error
    predicted = predicted_of(optimizer)
    assert 0.05 < predicted < 0.7
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-4)
    assert history["feedback_gap"] == pytest.approx([predicted], rel=LAW)


def test_under_momentum_coupled_decay_counts_as_more_by_one_over_one_minus_mu() -> None:
    rates = [0.1] * 1000
    with_momentum = coupled_law(rates, 0.005, 0.9, nesterov=False)
    assert math.log(with_momentum) == pytest.approx(-0.1 * 0.005 / (1 - 0.9) * 1000, rel=0.05)


def test_the_gap_waits_while_gradients_accumulate_under_coupled_decay() -> None:
    options = {"coupled_weight_decay": 0.6, "gradient_accumulation_steps": 4}
    optimizer = COUPLED_SGD(0.1, momentum=0.9, **options)
    model = compiled(dense("kolen_pollack"), optimizer)
    before = gaps(model)
    history = fit(model, KolenPollack(), batches=15)
    predicted = coupled_law([0.1] * 3, 0.6, 0.9, nesterov=False)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)


def test_training_that_goes_on_takes_the_gaps_momentum_along() -> None:
    optimizer = COUPLED_SGD(0.1, momentum=0.9, coupled_weight_decay=0.1)
    model = compiled(dense("kolen_pollack"), optimizer)
    fit(model, KolenPollack())
    history = fit(model, KolenPollack())
    first, both = (coupled_law([0.1] * n, 0.1, 0.9, nesterov=False) for n in (8, 16))
    assert history["feedback_gap_predicted"] == pytest.approx([both / first], rel=1e-3)
    assert both / first != pytest.approx(first, rel=0.1)  # what a start without it would give


# --- one gradient, not two ----------------------------------------------------------------------


def test_with_the_callback_a_global_norm_counts_the_gradient_once() -> None:
    def optimizer() -> Optimizer:
        return SGD(0.1, momentum=0.9, global_clipnorm=0.05, weight_decay=0.6)

    def trained(rule: str | None, *callbacks: Any) -> dict[str, np.ndarray]:
        model = compiled(dense(rule), optimizer())
        for pathway in tfwm.pathways(model):  # B = W: the error flows as in backprop
            pathway.feedback_kernel.assign(pathway.kernel)
        fit(model, *callbacks)
        return weights(model)

    plain = trained(None)
    checked, unchecked = trained("kolen_pollack", KolenPollack()), trained("kolen_pollack")
    assert plain.keys() == checked.keys() == unchecked.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(checked[name], value, rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(unchecked[name] - value).max() > 1e-4, name


def test_with_the_callback_the_gradient_crosses_the_network_once(
    two_replicas: tf.distribute.Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    all_reduce = tf.distribute.ReplicaContext.all_reduce

    def counting(context: Any, op: Any, value: Any, options: Any = None) -> Any:
        sent.append(sum(t.shape.num_elements() for t in tf.nest.flatten(value)))
        return all_reduce(context, op, value, options)

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", counting)

    def sent_a_step(*callbacks: Any) -> int:
        with two_replicas.scope():
            model = compiled(dense("kolen_pollack"), SGD(0.1, weight_decay=0.6))
        sent.clear()
        fit(model, *callbacks, batches=1)
        assert len(sent) == 2  # traced once, in one reduction that both replicas enter
        assert sent[0] == sent[1]
        return sent[0]

    forward, kernels_alone = 64 * 6 + 6 + 6 * 4 + 4, 64 * 6 + 6 * 4
    assert sent_a_step(KolenPollack()) == forward
    assert sent_a_step() == forward + kernels_alone


def test_the_optimizers_methods_come_back() -> None:
    during: list[bool] = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            during.append(all(hook in self.model.optimizer.__dict__ for hook in HOOKS))

    model = compiled(dense("kolen_pollack"), SGD(0.1, weight_decay=0.6))
    fit(model, KolenPollack(), Looks(), batches=1)
    assert during == [True]
    assert not any(hook in model.optimizer.__dict__ for hook in HOOKS)
    assert own_train_step(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, KolenPollack(), Fails())
    fit(model, batches=1)
    assert not any(hook in model.optimizer.__dict__ for hook in HOOKS)
    assert own_train_step(model)


def test_a_second_fit_after_an_exception_starts_the_law_anew() -> None:
    model = compiled(dense("kolen_pollack"), SGD(0.1, weight_decay=0.6))
    callback = KolenPollack()
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, Fails())
    before = gaps(model)
    history = fit(model, callback)
    predicted = law(model.optimizer, 0.6, updates=8)
    for pathway, gap in gaps(model).items():
        assert gap / before[pathway] == pytest.approx(predicted, rel=LAW), pathway
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)


def test_frozen_pairs_keep_their_gap_and_are_left_out() -> None:
    model = compiled(dense("kolen_pollack"))
    model.get_layer("hidden").trainable = False
    compiled(model, SGD(0.1, weight_decay=0.6))
    before = gaps(model)
    history = fit(model, KolenPollack())
    predicted = law(model.optimizer, 0.6, updates=8)
    after = gaps(model)
    assert after["hidden"] == before["hidden"]
    assert after["head"] / before["head"] == pytest.approx(predicted, rel=LAW)
    assert history["feedback_gap"] == pytest.approx([predicted], rel=LAW)


# --- the warning --------------------------------------------------------------------------------


def test_a_callback_that_moves_b_is_reported_once() -> None:
    class Pushes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            feedback_kernel = self.model.get_layer("hidden").feedback_kernel
            feedback_kernel.assign(feedback_kernel + 0.1)

    model = compiled(dense("kolen_pollack"), SGD(0.1, weight_decay=0.6))
    with pytest.warns(
        UserWarning, match="law does not hold in 'hidden'.*else moves W or B"
    ) as caught:
        history = fit(model, KolenPollack(), Pushes(), epochs=2)
    assert sum("law does not hold" in str(w.message) for w in caught) == 1
    assert history["feedback_gap"][-1] > 2 * history["feedback_gap_predicted"][-1]


def test_a_gap_that_has_died_out_is_not_reported_as_broken() -> None:
    # Rounding is all that is left, and that does not shrink; a warning here is an error.
    model = compiled(dense("kolen_pollack"), SGD(0.1, weight_decay=5.0))
    history = fit(model, KolenPollack(), batches=32)
    assert history["feedback_gap_predicted"][-1] < 1e-8
    assert history["feedback_gap"][-1] < 1e-5


# --- refusals -----------------------------------------------------------------------------------


def excluding(optimizer: Optimizer, name: str) -> Optimizer:
    """`optimizer` without decay for variables of that name."""
    optimizer.exclude_from_weight_decay(var_names=[name])
    return optimizer


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
        ["needs weight decay", "weight_decay=0.6 for layer 'head'", "Try weight_decay"],
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
