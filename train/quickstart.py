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

import pandas as pd

from train.errors import UserError
from train.parsing.command_line import parse
from train.parsing.start_up import load_tensorflow_quietly
from train.report.frames import SAMPLES, TEST_ERROR, Group, gather
from train.report.tables import to_text
from train.report.write import write

CONFIG_FILE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
RULES = {
    "backprop": ("BP", "--feedback.rule=bp"),
    "feedback_alignment": ("FA", "--feedback.rule=fa"),
    "kolen_pollack": ("KP", "--feedback.rule=kp"),
    "weight_mirror_akrout2019": (
        "WM, paper's mode",
        "--feedback.rule=wm",
        "--mirror.mode=akrout2019",
    ),
    "weight_mirror_balanced": ("WM, balanced", "--feedback.rule=wm"),
}
"""The run's folder, in alphabetical order, to its label and what it changes."""
MEANING = """
Of the last epoch: test accuracy; angle between W and what carries the error
back, in degrees, of each layer that an error passes; noise samples fired for
every training image; time. WM, balanced, is under 0.01 degrees by
construction, so it trains as backprop does; the other rules show learning
with imperfect feedback.
"""


def main() -> int:
    load_tensorflow_quietly()
    from train.run.directory import next_free

    begin_s = time.perf_counter()
    folder = next_free(Path("runs") / "quickstart")
    print("Five ways of learning the same digits.\n")
    try:
        for name, (label, *changes) in RULES.items():
            train(label, [*changes, f"--run_directory={folder / name}"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    groups, left_out = gather([str(folder)])
    write(groups, left_out, folder / "report")
    print(f"\n{table(groups)}\n{MEANING}")
    tensorboard = Path(sys.executable).with_name("tensorboard")
    print(f"All of it took {time.perf_counter() - begin_s:.0f} s.")
    print(f"Angles over epochs: {folder / 'report' / 'weight_angle.png'}")
    print(f"All results:        {folder / 'report' / 'report.html'}")
    print(f"Curves:             {os.path.relpath(tensorboard)} --logdir {folder}")
    return 0


def train(label: str, changes: Sequence[str]) -> None:
    """One run, with a line that a terminal sees growing; into a file goes its end alone."""
    import keras

    from train.run.fit import fit

    config, _ = parse(["fit", f"--config={CONFIG_FILE}", "--training.progress=none", *changes])
    epochs = config.training.epochs

    def show(epoch: int, logs: dict[str, float]) -> None:
        last = epoch + 1 == epochs
        if last or sys.stdout.isatty():
            accuracy = f"{100 * logs['val_accuracy']:5.1f} % on test images"
            line = f"\r{label:<18} epoch {epoch + 1:3d} of {epochs}: {accuracy}"
            print(line, end="\n" if last else "", flush=True)

    fit(config, extra_callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=show)])


def table(groups: Sequence[Group]) -> str:
    """One line a rule, of at most 80 columns. The layer at the input sends no error back."""
    layers = max((group.layers("weight_angle")[1:] for group in groups), key=len)
    rows = []
    for (label, *_), group in zip(RULES.values(), groups, strict=True):
        last = group.mean.iloc[-1]
        angles = [group.shown(f"weight_angle/{layer}") or "W itself" for layer in layers]
        accuracy, samples = 100 - last[TEST_ERROR], last.get(SAMPLES, 0)
        rows.append([label, f"{accuracy:.1f}", *angles, f"{samples:.0f}", f"{last['seconds']:.0f}"])
    titles = [f"{layer},\nangle,\ndegrees" for layer in layers]
    titles = ["", "test,\n%", *titles, "samples\nper\nimage", "time,\nseconds"]
    return to_text(pd.DataFrame(rows, columns=titles))


if __name__ == "__main__":
    sys.exit(main())
