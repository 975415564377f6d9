"""The embedded digits with four hidden layers under eight ways of learning, three seeds each.

    python -m benchmarks.local_losses --out benchmarks/results/local_losses.jsonl

Every finished run is a line in the file, and a run that has its line is not run again. The table
shows test accuracy and weight angles at the last epoch, mean and standard error over seeds. Four
hidden layers of 64 cells with BatchNorm and ReLU, batch 64, SGD of rate 0.02 with momentum 0.9 and
decoupled decay 0.05, 40 epochs: the same for all rules. Factors of the local losses were chosen
from a few on the last 20 % of the training images (`--validate`, seed 0).
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.runs import mean_and_error, parser_of, run_missing
from train.config import (
    DataConfig,
    FeedbackConfig,
    FitConfig,
    OptimizerConfig,
    Part,
    TrainingConfig,
)
from train.errors import DivergedError
from train.run.fit import fit

RULES: dict[str, dict[str, Any]] = {
    "backprop": {},
    "kolen_pollack": {},
    "product_feedback_alignment": {},
    "symmetric_alignment": {"alike": 0.1, "decay": 0.1},
    "activation_alignment": {"amplify": 0.1, "sparse": 0.1, "centered": True},
    "information_alignment": {"amplify": 0.1, "decay": 0.05, "null": 0.05, "centered": True},
    "information_alignment, null 0": {"amplify": 0.1, "decay": 0.05, "null": 0.0, "centered": True},
    "feedback_alignment": {},
}
LAYERS = ("hidden_2", "hidden_3", "hidden_4", "head")  # the first sends no error back


def run(rule: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run; what is kept of it."""
    validate = options.validate
    with tempfile.TemporaryDirectory() as folder:
        config = FitConfig(
            seed=seed,
            run_directory=str(Path(folder) / "run"),
            data=DataConfig(
                name="digits",
                train_split="train[:80%]" if validate else "train",
                test_split="train[80%:]" if validate else "test",
            ),
            model=Part("mlp", {"units": [64] * 4, "batch_norm": True}),
            feedback=FeedbackConfig(rule=Part(rule.partition(",")[0], RULES[rule])),
            optimizer=OptimizerConfig(
                learning_rate=0.02, weight_decay=0.05, options={"momentum": 0.9}
            ),
            training=TrainingConfig(epochs=options.epochs, batch_size=64, progress="none"),
        )
        try:
            history = fit(config).history
        except DivergedError:
            history = {"val_accuracy": [float("nan")]}
    angles = {name: history.get(f"weight_angle/{name}", [None])[-1] for name in LAYERS}
    return {
        "rule": rule,
        "options": RULES[rule],
        "seed": seed,
        "epochs": options.epochs,
        "images": "validation" if validate else "test",
        "accuracy": history["val_accuracy"][-1],
        "weight_angle_deg": angles,
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: a row a rule."""
    rows = [
        "| rule | accuracy, % (s.e.) | angles of hidden_2 to 4 | of the head |",
        "|---|---|---|---|",
    ]
    for rule in RULES:
        runs = [line for line in lines if line["rule"] == rule]
        lost = sum(line["accuracy"] != line["accuracy"] for line in runs)  # NaN
        if lost:
            rows.append(f"| {rule} | {lost} of {len(runs)} diverged | | |")
        elif runs:
            cells = [mean_and_error([100 * line["accuracy"] for line in runs])]
            for names in (LAYERS[:-1], LAYERS[-1:]):
                angles = [[line["weight_angle_deg"][name] for name in names] for line in runs]
                measured = rule != "backprop"
                cells.append(mean_and_error([*map(statistics.mean, angles)]) if measured else "")
            rows.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, then print the table."""
    options = parser_of(__doc__, list(RULES), epochs=40).parse_args()
    print(table(run_missing(options, run)))


if __name__ == "__main__":
    main()
