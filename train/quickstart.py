"""Five ways of learning on real digits: `make quickstart`, or `python -m train.quickstart`.

Trains the network of `configs/quickstart.yaml` under backprop, feedback alignment, Kolen-Pollack
and the weight mirror twice: in the paper's mode, and balanced. Everything goes into a new folder
`runs/quickstart-<n>`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from train.errors import UserError
from train.parsing.command_line import parse
from train.parsing.start_up import load_tensorflow_quietly
from train.report.frames import SAMPLES, TEST_ERROR, Group, gather
from train.report.pages import to_text
from train.report.write import write

CONFIG_FILE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
RULES: dict[str, tuple[str, ...]] = {
    "BP": ("backprop", "--feedback.rule=backprop"),
    "FA": ("feedback_alignment", "--feedback.rule=feedback_alignment"),
    "KP": ("kolen_pollack", "--feedback.rule=kolen_pollack"),
    "WM, paper's mode": (
        "weight_mirror_akrout2019",
        "--feedback.rule=weight_mirror",
        "--mirror.mode=akrout2019",
    ),
    "WM, balanced": ("weight_mirror_balanced", "--feedback.rule=weight_mirror"),
}
"""Label to the run's folder, in alphabetical order, and what it changes of the configuration."""


def main() -> int:
    load_tensorflow_quietly()
    from train.run.directory import next_free

    begin_s = time.perf_counter()
    folder = next_free(Path("runs") / "quickstart")
    print("Five ways of learning the same digits.\n")
    try:
        for label, (name, *changes) in RULES.items():
            train(label, [*changes, f"--run_directory={folder / name}"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    groups, left_out = gather([str(folder)])
    write(groups, left_out, folder / "report")
    print(f"\n{table(groups)}\n")
    print("Of the last epoch: test accuracy; angle between W and what carries the error")
    print("back, in degrees, of each layer that an error passes; noise samples fired for")
    print("every training image; time. WM, balanced, is under 0.01 degrees by")
    print("construction, so it trains as backprop does; the other rules show learning")
    print("with imperfect feedback.\n")
    tensorboard = Path(sys.executable).with_name("tensorboard")
    print(f"All of it took {time.perf_counter() - begin_s:.0f} s.")
    print(f"Angles over epochs: {folder / 'report' / 'weight_angle.png'}")
    print(f"All results:        {folder / 'report' / 'report.html'}")
    print(f"Curves:             {os.path.relpath(tensorboard)} --logdir {folder}")
    return 0


def train(label: str, changes: Sequence[str]) -> None:
    """One run, with a line on the terminal that follows it."""
    from train.run.fit import fit

    config, _ = parse(["fit", f"--config={CONFIG_FILE}", "--training.progress=none", *changes])
    fit(config, extra_callbacks=[progress_line(label, config.training.epochs)])


def progress_line(label: str, epochs: int | None) -> Any:
    """A callback that rewrites one line on a terminal; into a file it writes the last one alone."""
    import keras

    def show(epoch: int, logs: dict[str, float] | None) -> None:
        last = epoch + 1 == epochs
        if last or sys.stdout.isatty():
            accuracy = 100 * (logs or {})["val_accuracy"]
            line = f"{label:<18} epoch {epoch + 1:3d} of {epochs}: {accuracy:5.1f} % on test images"
            print(f"\r{line}", end="\n" if last else "", flush=True)

    return keras.callbacks.LambdaCallback(on_epoch_end=show)


def table(groups: Sequence[Group]) -> str:
    """One line a rule, of at most 80 columns. The layer at the input sends no error back."""
    layers = max((group.layers("weight_angle")[1:] for group in groups), key=len)
    rows = []
    for label, group in zip(RULES, groups, strict=True):
        last = group.mean.iloc[-1]
        angles = [group.shown(f"weight_angle/{layer}") or "W itself" for layer in layers]
        accuracy, samples = 100 - last[TEST_ERROR], last.get(SAMPLES, 0)
        rows.append([label, f"{accuracy:.1f}", *angles, f"{samples:.0f}", f"{last['seconds']:.0f}"])
    return to_text(pd.DataFrame(rows, columns=["", "test, %", *layers, "samples/image", "s"]))


if __name__ == "__main__":
    sys.exit(main())
