"""The MNIST runs of reports/ beside the logs that Akrout et al. 2019 released.

    python -m benchmarks.published_logs reports/akrout2019 > reports/akrout2019/README.md

Reads `metrics.jsonl` of the four runs and prints the table. The published numbers are one run each:
accuracy on the test images after the epoch, and the angle between W and B of the output layer
(github.com/makrout/Deep-Learning-without-Weight-Transport, logs).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Log(NamedTuple):
    """One released log: label, test accuracy in % by epoch, the head's weight angle in degrees."""

    label: str
    accuracy: dict[int, float]
    angle_deg: dict[int, float]


PUBLISHED = {
    "mnist_mlp_bp": Log(
        "backprop",
        {1: 88.00, 10: 94.12, 20: 96.23, 50: 97.70, 100: 98.25, 400: 98.50},
        {},
    ),
    "mnist_mlp_fa": Log(
        "feedback alignment",
        {1: 85.49, 10: 90.86, 20: 92.25, 50: 94.62, 100: 96.34, 400: 97.80},
        {1: 40, 10: 29, 100: 41, 400: 40},
    ),
    "mnist_mlp_wm": Log(
        "weight mirror, the released code's",
        {1: 78.48, 10: 90.49, 20: 92.62, 50: 96.51, 100: 97.97, 400: 98.49},
        {1: 61, 10: 27.5, 100: 9.3, 400: 3.8},
    ),
    "mnist_mlp_kp": Log(
        "Kolen-Pollack, the released code's (decay 0: updated random feedback)",
        {1: 88.90, 10: 95.41, 20: 97.00, 50: 97.95, 100: 98.28, 400: 98.45},
        {1: 19.8, 10: 11.2, 100: 4.9, 400: 3.6},
    ),
}

HEAD = """# MNIST 784-500-10, 400 epochs: ours beside the logs of Akrout et al. 2019

Made by `python -m benchmarks.published_logs reports/akrout2019` from the run directories beside
this file, which `python -m train fit --config configs/akrout2019/<cell>.yaml` wrote: configuration,
versions and the metrics of all 400 epochs; checkpoints and models are left out. One run each (seed
0), as theirs; float32, one CPU core. Test images, after the epoch named; no epoch was chosen.
"""


def epochs_of(run: Path) -> dict[int, dict[str, Any]]:
    """Epoch to its measures."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {line["epoch"]: line for line in map(json.loads, lines)}


def table(
    runs: dict[str, dict[int, dict[str, Any]]],
    measure: str,
    published_of: Callable[[Log], dict[int, float]],
    *,
    scale: float = 1.0,
) -> str:
    """One row a cell: `ours / published` by epoch."""
    columns = sorted({epoch for log in PUBLISHED.values() for epoch in published_of(log)})
    rows = [
        f"| rule | {' | '.join(f'epoch {epoch}' for epoch in columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    for name, log in PUBLISHED.items():
        published = published_of(log)
        if not published:
            continue
        pairs = [
            f"{scale * runs[name][epoch][measure]:.2f} / {published[epoch]:g}"
            if epoch in published
            else ""
            for epoch in columns
        ]
        rows.append(f"| {log.label} | {' | '.join(pairs)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds a run directory for each cell")
    folder = parser.parse_args().folder
    runs = {name: epochs_of(folder / name) for name in PUBLISHED}
    print(HEAD)
    print("## Test accuracy, % (ours / published)\n")
    print(table(runs, "val_accuracy", lambda log: log.accuracy, scale=100))
    print("\n## Angle between W and B of the output layer, degrees (ours / published)\n")
    print(table(runs, "weight_angle/head", lambda log: log.angle_deg))


if __name__ == "__main__":
    main()
