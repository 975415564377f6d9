"""What every rule costs over the stock Keras model: `python -m benchmarks.step_time`.

On random examples, in one process, the candidates taking turns, so that whatever else the machine
does falls on all of them. Four measures, each over the stock model:

* the compiled training step, with the callback that teaches B and, under Kolen-Pollack, without
  it, too, median of `--repeats`;
* a whole `fit` with the rule's callback, a balanced sweep after every batch included under
  `WeightMirror()`, over a `fit` under backprop: time per step of short fits, without the first
  step, which compiles;
* the second of two fits of three steps, with the same model and callback;
* tracing and compiling the first step, median of `--compilations` fresh models.

Every ratio is the median over turns, with half of its middle half's width, on the wall and in
processor time. Prints a table and writes `runs/step_time-<n>/results.json`, or, with `--keep`,
`benchmarks/results/step_time/<network>.json`, which is committed and `make bench-check` reads.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.parsing.start_up import load_tensorflow_quietly

load_tensorflow_quietly()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import tfweightmirror as tfwm  # noqa: E402
from benchmarks.networks import CLASSES, NETWORKS  # noqa: E402
from benchmarks.timing import Clock, Seconds, print_table, summary, timed  # noqa: E402
from train.run.directory import next_free  # noqa: E402

KEPT = Path("benchmarks") / "results" / "step_time"
STOCK = "stock"
STEPS = (
    *("backprop", "feedback_alignment", "sign_symmetry", "updated_random_feedback"),
    *("kolen_pollack", "KolenPollack()", "WeightMirror()"),
)
# The callback that belongs to a rule, and what else a `fit` is measured with.
FITS: dict[str, tuple[str, Callable[[], list[Any]]]] = {
    STOCK: (STOCK, list),
    "feedback_alignment": ("feedback_alignment", list),
    "sign_symmetry": ("sign_symmetry", list),
    "updated_random_feedback": ("updated_random_feedback", list),
    "KolenPollack()": ("kolen_pollack", lambda: [tfwm.callbacks.KolenPollack()]),
    "WeightMirror()": ("weight_mirror", lambda: [tfwm.callbacks.WeightMirror()]),
    "WeightMirror('gaussian')": (
        "weight_mirror",
        lambda: [tfwm.callbacks.WeightMirror("gaussian")],
    ),
    # One activation for all layers, as its cost asks for none in particular.
    "WeightMirror.akrout2019()": (
        "weight_mirror",
        lambda: [tfwm.callbacks.WeightMirror.akrout2019(activations={"*": "relu"})],
    ),
}


def main() -> None:
    options = _options()
    document = measured(options)
    if options.keep:
        path = KEPT / f"{'_'.join(filter(None, (options.network, options.first_layer)))}.json"
    else:
        path = next_free(Path("runs") / "step_time") / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{path}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All measures that are asked for, printed as they come, and where they were taken."""
    batches = random_batches(options)
    # Every fresh model is traced anew, which is meant here.
    tf.get_logger().setLevel("ERROR")
    batch = options.batch or NETWORKS[options.network].batch
    print(f"{options.network}, batch {batch}, {os.cpu_count()} cores")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for measure in options.measures or MEASURES:
        results[measure] = rows = MEASURES[measure](batches, options)
        print_table(measure, rows)
    return {"options": vars(options), "where": where(), "results": results}


def random_batches(options: argparse.Namespace) -> tf.data.Dataset:
    """One batch of random examples, again and again."""
    network = NETWORKS[options.network]
    batch = options.batch or network.batch
    examples = tf.random.stateless_normal((batch, *network.input_shape), seed=[0, 0])
    labels = tf.random.stateless_uniform((batch,), [0, 1], 0, CLASSES, tf.int32)
    return tf.data.Dataset.from_tensors((examples, labels)).cache().repeat()


def build(rule: str, options: argparse.Namespace) -> Any:
    """A compiled network under `rule`, or the stock one."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[options.network].make()
    if rule != STOCK:
        tfwm.convert_model(model, rule, first_layer=options.first_layer, seed=1)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=options.jit_compile,
    )
    return model


def first_steps(batches: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time to the end of the first training step of a fresh model."""

    def first_step(name: str) -> Seconds:
        rule, callbacks = FITS.get(name, (name, list))
        model = build(rule, options)
        seconds = timed(lambda: stepper(model, batches, callbacks())())
        keras.backend.clear_session()
        return seconds

    names = (STOCK, *STEPS)
    first_step(STOCK)  # TensorFlow itself is slow once
    return summary(
        {name: (lambda name=name: first_step(name)) for name in names}, options.compilations
    )


def train_steps(batches: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time of one compiled training step."""
    ways = {name: FITS.get(name, (name, list)) for name in (STOCK, *STEPS)}
    steps = {
        name: stepper(build(rule, options), batches, callbacks())
        for name, (rule, callbacks) in ways.items()
    }
    for step in steps.values():
        for _ in range(3):
            step()
    return summary(
        {name: lambda step=step: timed(step) for name, step in steps.items()}, options.repeats
    )


def fits(batches: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time per step of `fit`, whatever the callback does included."""

    def fit(model: Any, callbacks: list[Any]) -> Seconds:
        clock = StepClock()
        fit_steps(model, batches, options.fit_steps + 1, [*callbacks, clock])
        return clock.seconds_per_step

    return summary(fit_candidates(fit, options), options.repeats)


def second_fits(batches: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time of a whole `fit` of three steps with a model and a callback that have had one."""

    def fit(model: Any, callbacks: list[Any]) -> Seconds:
        return timed(lambda: fit_steps(model, batches, 3, callbacks))

    candidates = fit_candidates(fit, options)
    for first_fit in candidates.values():
        first_fit()
    return summary(candidates, options.compilations)


def fit_candidates(
    fit: Callable[[Any, list[Any]], Seconds], options: argparse.Namespace
) -> dict[str, Callable[[], Seconds]]:
    """`fit` of a model and its callbacks, which stay the same from turn to turn."""
    return {
        name: functools.partial(fit, build(rule, options), callbacks())
        for name, (rule, callbacks) in FITS.items()
    }


def fit_steps(model: Any, batches: Any, steps: int, callbacks: list[Any]) -> None:
    model.fit(batches, steps_per_epoch=steps, shuffle=False, callbacks=callbacks, verbose=0)


MEASURES = {
    "train step": train_steps,
    "fit": fits,
    "second fit": second_fits,
    "first step": first_steps,
}


def stepper(model: Any, batches: Any, callbacks: list[Any]) -> Callable[[], None]:
    """One training step of a compiled model, finished when it returns; callbacks have begun."""
    iterator = iter(batches)
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()
    model.make_train_function()

    def step() -> None:
        for value in tf.nest.flatten(model.train_function(iterator)):
            value.numpy()

    return step


class StepClock(keras.callbacks.Callback):
    """Mean time of the steps of an epoch behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = Clock()
        self.seconds_per_step = Seconds(0.0, 0.0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == 0:
            self.begin = Clock()
        else:
            self.seconds_per_step = Clock().since(self.begin, times=batch)


def where() -> dict[str, Any]:
    """The machine, the versions, and the commit that is measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit,
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="resnet18", help="what is trained")
    parser.add_argument("--measures", choices=MEASURES, nargs="+", help="which; default: all")
    parser.add_argument("--batch", type=int, help="examples in a batch; default: the network's")
    parser.add_argument("--repeats", type=int, default=21, help="turns of every candidate")
    parser.add_argument("--compilations", type=int, default=5, help="fresh models of every rule")
    parser.add_argument("--fit-steps", type=int, default=20, help="timed steps of a fit")
    parser.add_argument("--first-layer", help="rule of the layer that reads the data; default: all")
    parser.add_argument("--jit-compile", action="store_true", help="compile the step with XLA")
    parser.add_argument("--keep", action="store_true", help="write where results are committed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
