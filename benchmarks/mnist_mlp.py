"""MNIST with a 784-500-10 ReLU network under five ways of learning, three seeds each.

    TFDS_DATA_DIR=FOLDER python -m benchmarks.mnist_mlp --out benchmarks/results/mnist_mlp.jsonl

Every finished run is a line in the file, and a run that has its line is not run again, so that the
script may be stopped at any time. The table shows the test accuracy at the last epoch, mean and
standard error over seeds. Batch 128, SGD with momentum 0.9; learning rate and decay were chosen on
the last 10 % of the training images (`--validate`), and are the same for all rules.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.runs import mean_and_error, parser_of, run_missing
from train.config import (
    DataConfig,
    FeedbackConfig,
    FitConfig,
    MirrorConfig,
    OptimizerConfig,
    Part,
    TrainingConfig,
)
from train.run.fit import fit

RULES: dict[str, tuple[str, MirrorConfig]] = {
    "backprop": ("backprop", MirrorConfig()),
    "kolen_pollack": ("kolen_pollack", MirrorConfig()),
    "weight_mirror, balanced": ("weight_mirror", MirrorConfig()),
    "weight_mirror, the paper's mode": ("weight_mirror", MirrorConfig(mode="akrout2019")),
    "feedback_alignment": ("feedback_alignment", MirrorConfig()),
}


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run; what is kept of it."""
    rule, mirror = RULES[name]
    validate = options.validate
    with tempfile.TemporaryDirectory() as folder:
        config = FitConfig(
            seed=seed,
            run_directory=str(Path(folder) / "run"),
            data=DataConfig(
                name="mnist",
                train_split="train[:90%]" if validate else "train",
                test_split="train[90%:]" if validate else "test",
                normalization="unit",
            ),
            model=Part("mlp"),
            feedback=FeedbackConfig(rule=Part(rule)),
            mirror=mirror,
            optimizer=OptimizerConfig(
                learning_rate=options.learning_rate,
                weight_decay=options.weight_decay,
                options={"momentum": 0.9},
            ),
            training=TrainingConfig(epochs=options.epochs, batch_size=128, progress="none"),
        )
        start_s = time.perf_counter()
        history = fit(config).history
    angles = {key: values[-1] for key, values in history.items() if key.startswith("weight_angle/")}
    return {
        "rule": name,
        "seed": seed,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "epochs": options.epochs,
        "images": "validation" if validate else "test",
        "accuracy": history["val_accuracy"][-1],
        "accuracy_by_epoch": history["val_accuracy"],
        "weight_angle_deg": angles,
        "seconds": time.perf_counter() - start_s,
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: accuracy in %, mean (standard error), and the head's weight angle."""
    rows = ["| rule | accuracy, % (s.e.) | weight angle of the head | seeds |", "|---|---|---|---|"]
    for name in RULES:
        runs = [line for line in lines if line["rule"] == name]
        if not runs:
            continue
        accuracy = mean_and_error([100 * line["accuracy"] for line in runs], 2)
        angles = [
            line["weight_angle_deg"]["weight_angle/head"]
            for line in runs
            if line["weight_angle_deg"]
        ]
        angle = f"{statistics.mean(angles):.2f} deg" if angles else "-"
        rows.append(f"| {name} | {accuracy} | {angle} | {len(runs)} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = parser_of(__doc__, list(RULES), epochs=20)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=0.001)
    print(table(run_missing(parser.parse_args(), run)))


if __name__ == "__main__":
    main()
