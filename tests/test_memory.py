"""Cycles of converting, training and stripping leave nothing behind."""

import functools
import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from tensorflow.python.framework.func_graph import FuncGraph

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.convert_helpers import fit, vectors
from tests.slow import slow_but
from tfweightmirror.callbacks import KolenPollack, WeightMirror

Cycle = Callable[[keras.Model], Any]


def mlp(width: int = 5) -> keras.Model:
    """Four inputs, three layers, compiled as Kolen-Pollack needs."""
    layers = [keras.layers.Dense(units, activation="tanh") for units in (width, width, 3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), "mse", jit_compile=False)
    return model


def cycle_of(rule: str) -> Cycle:
    """Convert, fit, strip."""

    def cycle(model: keras.Model) -> None:
        tfwm.convert_model(model, rule)
        fit(model, *vectors())
        tfwm.strip_feedback(model)

    return cycle


def plain(model: keras.Model) -> None:
    """What Keras itself does in a cycle: compile again, and fit."""
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), "mse", jit_compile=False)
    fit(model, *vectors())


def refit(rule: str, callback: Callable[[], Any]) -> Cycle:
    """A fit under a callback, on a model that stays converted."""

    def cycle(model: keras.Model) -> None:
        if not tfwm.pathways(model):
            tfwm.convert_model(model, rule)
        x, y = vectors()
        model.fit(in_batches(x, y), shuffle=False, verbose=0, callbacks=[callback()])

    return cycle


CYCLES: dict[str, Cycle] = {
    "fa": cycle_of("fa"),
    "kp": cycle_of("kp"),
    "dfa": cycle_of("dfa"),
    "ia": cycle_of("ia"),
    "mirror": refit("wm", lambda: WeightMirror("impulse")),
    "gaussian_mirror": refit("wm", lambda: WeightMirror("gaussian")),
    "kolen_pollack": refit("kp", KolenPollack),
}


def traces() -> int:
    """How many traced functions are alive."""
    gc.collect()
    return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())


@pytest.mark.parametrize(
    "name", slow_but(["kolen_pollack"], ["fa", "dfa", "ia", "mirror", "kolen_pollack"])
)
def test_the_traces_of_a_cycle_are_gone_after_the_next(name: str) -> None:
    model = mlp()
    alive = []
    for _ in range(4):
        CYCLES[name](model)
        alive.append(traces())
    assert alive[3] <= alive[1], alive


def growth_per_cycle_mb(cycle: Cycle, cycles: int = 40) -> float:
    """The slope of resident memory over all cycles but the first ten."""
    model, resident = mlp(32), []
    for _ in range(cycles):
        cycle(model)
        gc.collect()
        with open("/proc/self/statm") as statm:
            resident.append(int(statm.read().split()[1]) * 4096 / 1e6)
    settled = resident[10:]
    return float(np.polyfit(np.arange(len(settled)), settled, 1)[0])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", CYCLES)
def test_forty_cycles_grow_by_no_more_than_plain_keras_and_half_a_megabyte(name: str) -> None:
    assert measured(name) <= measured("plain") + 0.5


@functools.cache
def measured(name: str) -> float:
    """`growth_per_cycle_mb` in a process of its own."""
    command = [sys.executable, "-m", "tests.test_memory", name]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


if __name__ == "__main__":
    print(growth_per_cycle_mb({"plain": plain, **CYCLES}[sys.argv[1]]))
