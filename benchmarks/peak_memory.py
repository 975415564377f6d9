"""Peak memory of training, over the stock model: `python -m benchmarks.peak_memory`.

Each candidate trains for a few steps of `fit` in a process of its own, in turns, which says how far
its resident memory ever went. What it needs over the stock model is counted in kernels: in the
bytes of all kernels of the network. Prints medians over the turns, with half of their range.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

from benchmarks.networks import NETWORKS


def main() -> None:
    options = _options()
    if options.candidate:
        print(json.dumps(_trained(options)))
        return
    from benchmarks.step_time import FITS, STOCK

    command = [sys.executable, "-m", "benchmarks.peak_memory", f"--network={options.network}"]
    command += [f"--batch={options.batch}"] if options.batch else []
    names = [name for name in FITS if name == STOCK or name in (options.names or FITS)]
    runs: dict[str, list[float]] = {name: [] for name in names}
    kernels = 0.0
    for _ in range(options.turns):
        for name in names:
            run = subprocess.run(
                [*command, f"--candidate={name}"], capture_output=True, text=True, check=True
            )
            peak, kernels = json.loads(run.stdout.splitlines()[-1])
            runs[name].append(peak)
    print(
        f"{options.network}: kernels {kernels:.1f} MiB\n{'':<26}{'peak, MiB':>10}{'+-':>8}"
        f"{'over stock':>12}{'in kernels':>12}"
    )
    stock = statistics.median(runs[STOCK])
    for name, peaks in runs.items():
        peak, spread = statistics.median(peaks), (max(peaks) - min(peaks)) / 2
        more = peak - stock
        print(f"{name:<26}{peak:>10.0f}{spread:>8.0f}{more:>12.0f}{more / kernels:>12.2f}")


def _trained(options: argparse.Namespace) -> tuple[float, float]:
    """Peak resident memory of this process and the kernels of the network, in MiB."""
    from benchmarks import step_time as bench

    rule, callbacks = bench.FITS[options.candidate]
    model = bench.build(rule, options)
    kernels = [weight for weight in model.trainable_weights if weight.name.endswith("kernel")]
    own = [weight for weight in kernels if not weight.name.endswith("feedback_kernel")]
    bench.fit_steps(model, bench.random_batches(options), 4, callbacks())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return peak, 4 * sum(int(weight.value.shape.num_elements()) for weight in own) / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="resnet18_wide")
    parser.add_argument("--batch", type=int, default=16, help="examples in a batch")
    parser.add_argument("--turns", type=int, default=3, help="processes of every candidate")
    parser.add_argument(
        "--names", nargs="+", help="candidates beside the stock model; default: all"
    )
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    parser.set_defaults(jit_compile=False)
    return parser.parse_args()


if __name__ == "__main__":
    main()
