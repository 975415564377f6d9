"""What masks of W and B cost: a training step under `Sparse(0.5)` over the same one without masks.

    python -m benchmarks.masked_step --network mlp

All layers but the last have masks. In one process the two models of a rule take turns; medians of
the ratios over turns, on the wall and in processor time, compilation left out.
"""

import argparse
import functools
from typing import Any

from train.parsing.start_up import load_tensorflow_quietly

load_tensorflow_quietly()

import tensorflow as tf  # noqa: E402

import tfweightmirror as tfwm  # noqa: E402
from benchmarks.networks import NETWORKS  # noqa: E402
from benchmarks.step_time import build, random_batches, stepper  # noqa: E402
from benchmarks.timing import summary, timed  # noqa: E402
from tfweightmirror.training.constraining import kernels_by_path  # noqa: E402

RULES = ("stock", "feedback_alignment", "updated_random_feedback")


def masked(rule: str, options: argparse.Namespace) -> Any:
    """The compiled network under `rule`, half of its weights and feedback weights there."""
    model = build(rule, options)
    *hidden, _ = kernels_by_path(model)
    return tfwm.training.constrain(model, tfwm.training.Sparse(0.5, seed=0), hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--batch", type=int, help="examples in a batch; default: the network's")
    parser.add_argument("--repeats", type=int, default=41, help="turns of every candidate")
    parser.add_argument("--steps", type=int, default=1, help="training steps of a turn")
    parser.add_argument("--jit-compile", action="store_true", help="compile the step with XLA")
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")
    batches = random_batches(options)
    for rule in options.rules:
        steps = {
            name: stepper(make(rule, options), batches, [])
            for name, make in (("without", build), ("masked", masked))
        }

        def turn(step: Any) -> None:
            for _ in range(options.steps):
                step()

        for step in steps.values():
            for _ in range(3):
                step()
        candidates = {
            name: functools.partial(timed, functools.partial(turn, step))
            for name, step in steps.items()
        }
        row = summary(candidates, options.repeats)["masked"]
        print(
            f"{options.network}, {rule}: a masked step is {row['over_stock']:.3f} of one without "
            f"masks (+- {row['over_stock_spread']:.3f}), {row['cpu_over_stock']:.3f} in processor "
            f"time; {row['median_ms'] / options.steps:.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
