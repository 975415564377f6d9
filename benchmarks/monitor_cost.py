"""What measuring costs on ResNet-50: all weight measures, and delta angles, over a training step.

    python -m benchmarks.monitor_cost

One process, ResNet-50 (CIFAR stem, 32x32 images) under feedback alignment; medians, compilation
left out. An epoch of 50,000 images is so many steps; its share for one probe an epoch follows.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.diagnostics import WEIGHT_MEASURES
from tfweightmirror.diagnostics.deltas import Probe
from train.config import Part
from train.parts import models

EPOCH_IMAGES = 50_000


def median_s(call: Callable[[], Any], turns: int) -> float:
    """Seconds of a call, the first (which compiles) left out."""
    call()
    seconds = []
    for _ in range(turns):
        begin_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = models.build(Part("resnet50"), (32, 32, 3), (10,))
    tfwm.convert_model(model, "feedback_alignment")
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(options.batch, 32, 32, 3)).astype("float32")
    y = random.integers(0, 10, options.batch)
    measured = tfwm.pathways(model)
    weights = sum(int(np.prod(p.kernel.shape)) for p in measured)
    print(f"{len(measured)} pathways, {weights / 1e6:.1f} million weights, batch {options.batch}")

    @tf.function(autograph=False)
    def measure() -> list[tf.Tensor]:
        return [
            tf.stack([one(pathway) for pathway in measured]) for one in WEIGHT_MEASURES.values()
        ]

    probe = Probe(model, (x, y, None))
    step_s = median_s(lambda: model.train_on_batch(x, y), options.turns)
    epoch_s = step_s * EPOCH_IMAGES / options.batch
    print(f"training step: {step_s:.2f} s, so an epoch of {EPOCH_IMAGES} images {epoch_s:.0f} s")
    for name, call in (
        (f"all {len(WEIGHT_MEASURES)} weight measures", lambda: measure()[0].numpy()),
        ("delta angles", lambda: [float(angle) for angle in probe.delta_angles().values()]),
    ):
        call_s = median_s(call, options.turns)
        print(
            f"{name}: {call_s:.2f} s, {call_s / step_s:.2f} of a step, "
            f"{100 * call_s / epoch_s:.3f} % of an epoch"
        )


if __name__ == "__main__":
    main()
