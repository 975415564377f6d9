"""Images per second of the launcher's loop over those of `model.fit`, on one device.

    python -m benchmarks.loop_speed

One process; loop and fit take turns at epochs of their own model, with the same batches, the same
steps a call (`steps_per_execution`) and the same callbacks. Tracing is outside: every epoch is
timed from its begin to the end of its last batch. A turn's figure is its median epoch; speeds are
medians over the turns, the ratio is the mean of the turns' ratios with its standard error.
"""

import argparse
import statistics
import time
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from train.config import DataConfig, FeedbackConfig, FitConfig, Part, TrainingConfig
from train.data import datasets
from train.data.splits import Share
from train.parts import feedback, models
from train.run.loop import Loop
from train.run.steps import RunBatches

EPOCHS = 8


class EpochTimes(keras.callbacks.Callback):
    """Seconds of every epoch, evaluation left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._begin_s = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin_s = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self.params["steps"]:
            self.seconds.append(time.perf_counter() - self._begin_s)


def compiled(config: FitConfig, run_batches: RunBatches) -> Any:
    keras.utils.set_random_seed(0)
    data = run_batches.data
    model = models.build(config.model, data.input_shape, data.output_shape)
    feedback.convert(model, config.feedback, seed=0)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        steps_per_execution=config.training.steps_per_call,
        jit_compile=False,
    )
    return model


def callbacks(rule: str) -> list[Any]:
    return [tfwm.callbacks.WeightMirror()] if rule == "weight_mirror" else []


def by_loop(config: FitConfig, run_batches: RunBatches) -> list[float]:
    times = EpochTimes()
    model = compiled(config, run_batches)
    loop = Loop(model, tf.distribute.get_strategy(), run_batches)
    loop.run([*callbacks(config.feedback.rule.name), times])
    return times.seconds[1:]


def by_fit(config: FitConfig, run_batches: RunBatches) -> list[float]:
    times = EpochTimes()
    model = compiled(config, run_batches)
    model.fit(
        run_batches.training(0, Share()),
        steps_per_epoch=run_batches.steps_per_epoch,
        epochs=EPOCHS,
        callbacks=[*callbacks(config.feedback.rule.name), times],
        # The loop evaluates after every epoch, too.
        validation_data=run_batches.evaluation(Share()),
        shuffle=False,
        verbose=0,
    )
    return times.seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=["mlp", "small_conv"])
    options = parser.parse_args()
    turns = options.turns
    # Every turn has compiled functions of its own, which TensorFlow takes for one traced anew.
    tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())
    print("| model | rule | steps a call | loop, images/s | fit, images/s | ratio |")
    print("|---|---|---|---|---|---|")
    for model in options.models:
        for rule in ("backprop", "weight_mirror"):
            for steps_per_call in (1, 11):  # an epoch of the digits has 22
                config = FitConfig(
                    data=DataConfig(),
                    model=Part(model),
                    feedback=FeedbackConfig(rule=Part(rule)),
                    training=TrainingConfig(epochs=EPOCHS, steps_per_call=steps_per_call),
                )
                run_batches = RunBatches(datasets.load(config.data), config)
                seconds: dict[str, list[float]] = {"loop": [], "fit": []}
                ways = [("loop", by_loop), ("fit", by_fit)]
                for turn in range(turns):
                    # Whoever is second finds a warm machine, or a tired one.
                    for name, way in ways if turn % 2 == 0 else reversed(ways):
                        seconds[name].append(statistics.median(way(config, run_batches)))
                images = run_batches.steps_per_epoch * config.training.batch_size
                speed = {name: images / statistics.median(s) for name, s in seconds.items()}
                ratios = [f / one for one, f in zip(seconds["loop"], seconds["fit"], strict=True)]
                error = statistics.stdev(ratios) / len(ratios) ** 0.5
                print(
                    f"| {model} | {rule} | {steps_per_call} | {speed['loop']:.0f} | "
                    f"{speed['fit']:.0f} | {statistics.mean(ratios):.3f} ({error:.3f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
