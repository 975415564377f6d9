"""Trains by backprop, under impulses and by feedback alignment, and says which weights differ.

A process of its own, `python -m tests.callbacks.bit_equality 2 1 4` (replicas, and every
`steps_per_execution`): TensorFlow's deterministic operations, without which two equal runs may
sum in two orders, are for good.
"""

import json
import sys
from collections.abc import Sequence

from tests import conftest  # noqa: F401  two logical devices, before TensorFlow starts

# isort: split
import numpy as np
import tensorflow as tf

from tests.callbacks.training import compiled, convolutional, fit, weights
from tfweightmirror.callbacks import WeightMirror


def differing(replicas: int, steps_per_execution: Sequence[int]) -> dict[str, dict[str, float]]:
    """For each comparison with plain Keras backprop: largest difference of each weight."""
    tf.config.experimental.enable_op_determinism()
    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )

    def after_16_batches(rule: str | None, steps: int) -> dict[str, np.ndarray]:
        with strategy.scope():
            model = compiled(convolutional(rule), steps_per_execution=steps)
        assert model.distribute_strategy.num_replicas_in_sync == replicas
        callbacks = [WeightMirror(noise="impulse")] if rule == "weight_mirror" else []
        fit(model, *callbacks, batches=16)
        return weights(model)

    report = {}
    for steps in steps_per_execution:
        plain = after_16_batches(None, steps)
        control = ["feedback_alignment"] if steps == steps_per_execution[0] else []
        for rule in ["weight_mirror", *control]:
            other = after_16_batches(rule, steps)
            assert other.keys() == plain.keys()
            report[f"{rule} {steps}"] = {
                name: float(np.abs(value - other[name]).max()) for name, value in plain.items()
            }
    return report


if __name__ == "__main__":
    replicas, *steps_per_execution = map(int, sys.argv[1:])
    print(json.dumps(differing(replicas, steps_per_execution)))
