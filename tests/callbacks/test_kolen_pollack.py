"""KolenPollack: the law holds in every optimizer it lets through."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.gaps import HOOKS, LAW, SCHEDULE, Optimizer, gaps, law
from tests.callbacks.training import (
    SGD,
    Fails,
    assert_same_on_replicas,
    compiled,
    convolutional,
    dense,
    fit,
    kernels,
    own_train_step,
    weights,
)
from tests.slow import slow_but
from tfweightmirror.callbacks import KolenPollack

o = keras.optimizers

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


# Of each way in which an optimizer decays, scales or postpones an update.
MOST_UNLIKE = (
    *("Nesterov", "Lion", "Muon"),
    *("global_clipnorm", "schedule"),
)


@pytest.mark.parametrize("name", slow_but(MOST_UNLIKE, UNDER_THE_LAW))
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


@pytest.mark.slow
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


@pytest.mark.slow  # test_kolen_pollack_coupled.py has a quick one
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


# --- one gradient, not two ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.always
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
