"""MNIST with a 784-500-10 ReLU network under five ways of learning, three seeds each.

    TFDS_DATA_DIR=FOLDER python -m benchmarks.mnist_mlp --out benchmarks/results/mnist_mlp.jsonl

Every finished run is a line in the file, and a run that has its line is not run again, so that the
script may be stopped at any time. The table shows the test accuracy at the last epoch, mean and
standard error over seeds. Batch 128, SGD with momentum 0.9; learning rate and decay were chosen on
the last 10 % of the training images (`--validate`), and are the same for all rules.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

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
        accuracies = [100 * line["accuracy"] for line in runs]
        error = statistics.stdev(accuracies) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
        angles = [
            line["weight_angle_deg"]["weight_angle/head"]
            for line in runs
            if line["weight_angle_deg"]
        ]
        angle = f"{statistics.mean(angles):.2f} deg" if angles else "-"
        mean = statistics.mean(accuracies)
        rows.append(f"| {name} | {mean:.2f} ({error:.2f}) | {angle} | {len(runs)} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=0.001)
    parser.add_argument("--validate", action="store_true", help="tune: never on the test images")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = options.out.read_text() if options.out.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    for seed in options.seeds:
        for name in options.rules:
            if any(line["rule"] == name and line["seed"] == seed for line in lines):
                continue
            lines.append(run(name, seed, options))
            with options.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(f"{name}, seed {seed}: {100 * lines[-1]['accuracy']:.2f} %", flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
