"""KolenPollack under coupled decay: the gap has a momentum of its own."""

import math
from typing import Any

import pytest
import tensorflow as tf

from tests.callbacks.gaps import COUPLED_SGD, LAW, SCHEDULE, Optimizer, gaps
from tests.callbacks.training import compiled, dense, fit
from tfweightmirror.callbacks import KolenPollack


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


MOST_UNLIKE = (("momentum", 1), ("swinging through 0", 1), ("Nesterov", 2))


def predicted_of(optimizer: Optimizer, updates: int = 16) -> float:
    """`coupled_law` of `optimizer`."""
    rate = optimizer._learning_rate
    rates = [float(rate(t) if callable(rate) else rate.numpy()) for t in range(updates)]
    return coupled_law(
        rates, optimizer.coupled_weight_decay, optimizer.momentum, optimizer.nesterov
    )


@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        pytest.param(
            name,
            replicas,
            marks=() if (name, replicas) in MOST_UNLIKE else pytest.mark.slow,
        )
        for name in UNDER_COUPLED_DECAY
        for replicas in (1, 2)
    ],
)
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
