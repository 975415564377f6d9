"""Trains by backprop, under impulses and by feedback alignment, and says which weights differ.

A process of its own, `python -m tests.callbacks.bit_equality 1:1 2:4` (replicas and
`steps_per_execution`): TensorFlow's deterministic operations, without which two equal runs may
sum in two orders, are for good. One thread an operation: with two, a product on two replicas was
seen to be cut otherwise beside a mirror step than without one (1.2e-7, every time).
"""

import json
import os
import sys
from collections.abc import Sequence

os.environ["TF_NUM_INTRAOP_THREADS"] = "1"

from tests import conftest  # noqa: F401  two logical devices, before TensorFlow starts

# isort: split
import numpy as np
import tensorflow as tf

from tests.callbacks.training import compiled, convolutional, fit, weights
from tfweightmirror.callbacks import WeightMirror


def after_16_batches(rule: str | None, replicas: int, steps: int) -> dict[str, np.ndarray]:
    """All weights, B apart, of a model that was trained with so many steps at once."""
    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
    with strategy.scope():
        model = compiled(convolutional(rule), steps_per_execution=steps)
    assert model.distribute_strategy.num_replicas_in_sync == replicas
    callbacks = [WeightMirror(noise="impulse")] if rule == "weight_mirror" else []
    fit(model, *callbacks, batches=16)
    return weights(model)


def differing(settings: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each comparison with plain Keras backprop: largest difference of each weight."""
    tf.config.experimental.enable_op_determinism()
    report = {}
    for setting in settings:
        replicas, steps = map(int, setting.split(":"))
        plain = after_16_batches(None, replicas, steps)
        control = ["feedback_alignment"] if setting == settings[0] else []
        for rule in ["weight_mirror", *control]:
            other = after_16_batches(rule, replicas, steps)
            assert other.keys() == plain.keys()
            report[f"{rule} {setting}"] = {
                name: float(np.abs(value - other[name]).max()) for name, value in plain.items()
            }
    return report


if __name__ == "__main__":
    print(json.dumps(differing(sys.argv[1:])))
