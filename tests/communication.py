"""Every way of learning, and how often it sends B between replicas beside what backprop sends."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras

from tfweightmirror.callbacks import KolenPollack, WeightMirror
from tfweightmirror.mirror import Schedule


class Way(NamedTuple):
    """A way of learning.

    Attributes:
        rule: Name in `tests.layers.kinds.RULES`.
        callback: Makes its callback; None where it has none.
        times_b: How often all B cross the network in a step.
    """

    rule: str
    callback: Callable[[], keras.callbacks.Callback] | None = None
    times_b: int = 0


# Without a warm-up, which would run at once, where there are no other replicas.
mirror = functools.partial(WeightMirror, schedule=Schedule(warm_up_steps=0))
# Akrout et al.'s mode listens behind an activation; logits have none.
paper = functools.partial(
    WeightMirror.akrout2019,
    activations={"head": "linear"},
    schedule=Schedule(every_batches=3, steps=2, warm_up_steps=0),
)
WAYS = {
    **{rule: Way(rule) for rule in ("bp", "fa", "usf", "frsf", "brsf")},
    "wm": Way("wm", mirror),
    "wm, impulse": Way("wm", functools.partial(mirror, "impulse")),
    # The average over what every replica's own noise has taught.
    "wm, gaussian": Way("wm", functools.partial(mirror, "gaussian"), times_b=1),
    "wm, the paper's": Way("wm", paper, times_b=1),
    "kp": Way("kp", KolenPollack),
    # A gradient of its own.
    "kp, no callback": Way("kp", times_b=1),
    "urfb": Way("urfb", times_b=1),
}
