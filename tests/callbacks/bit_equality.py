"""Trains by backprop, under impulses and by feedback alignment, and says which weights differ.

A process of its own, `python -m tests.callbacks.bit_equality 1` (or 2, replicas): TensorFlow's
deterministic operations, without which two equal runs may sum in two orders, are for good.
"""

import json
import sys

from tests import conftest  # noqa: F401  two logical devices, before TensorFlow starts

# isort: split
import numpy as np
import tensorflow as tf

from tests.callbacks.training import compiled, convolutional, fit, weights
from tfweightmirror.callbacks import WeightMirror


def differing(replicas: int) -> dict[str, dict[str, float]]:
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
    for steps in (1, 4):
        plain = after_16_batches(None, steps)
        for rule in ["weight_mirror", "feedback_alignment"][: 2 if steps == 1 else 1]:
            other = after_16_batches(rule, steps)
            assert other.keys() == plain.keys()
            report[f"{rule} {steps}"] = {
                name: float(np.abs(value - other[name]).max()) for name, value in plain.items()
            }
    return report


if __name__ == "__main__":
    print(json.dumps(differing(int(sys.argv[1]))))
