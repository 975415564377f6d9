"""Five ways of learning on real digits: `make quickstart`, or `python -m train.quickstart`.

Trains the network of `configs/quickstart.yaml` under backprop, feedback alignment, Kolen-Pollack
and the weight mirror twice: in the paper's mode, and balanced. Everything goes into a new folder
`runs/quickstart-<n>`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

from train.config import FeedbackConfig, FitConfig, MirrorConfig
from train.errors import UserError
from train.parsing.command_line import parse
from train.parsing.start_up import load_tensorflow_quietly

CONFIG_FILE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"

PAPER = MirrorConfig(mode="akrout2019", noise_options={"samples": 128, "target_angle_deg": 12.0})
# Folder, label, rule, mirror mode.
RULES = (
    ("backprop", "BP", "backprop", MirrorConfig()),
    ("feedback_alignment", "FA", "feedback_alignment", MirrorConfig()),
    ("kolen_pollack", "KP", "kolen_pollack", MirrorConfig()),
    ("weight_mirror_akrout2019", "WM, paper's mode", "weight_mirror", PAPER),
    ("weight_mirror_balanced", "WM, balanced", "weight_mirror", MirrorConfig()),
)


def main() -> int:
    load_tensorflow_quietly()
    from train.report import plot_angles, table, write_json
    from train.run.directory import next_free

    folder = next_free(Path("runs") / "quickstart")
    base = parse(["fit", f"--config={CONFIG_FILE}"])[0]
    begin_s = time.perf_counter()
    print(f"Five ways of learning on {base.data.name}, {base.training.epochs} epochs each.\n")
    try:
        results = [
            train_rule(
                dataclasses.replace(
                    base,
                    run_directory=str(folder / name),
                    feedback=FeedbackConfig(rule=rule),
                    mirror=mirror,
                    training=dataclasses.replace(base.training, progress="none"),
                ),
                label,
            )
            for name, label, rule, mirror in RULES
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plot_angles(results, folder / "weight_angles.png")
    write_json(results, folder / "results.json")
    (folder / "results.txt").write_text(table(results) + "\n")
    print(f"\n{table(results)}\n")
    print(
        "Test accuracy and weight angles are those of the last epoch. WM, balanced, is under 0.01"
    )
    print(
        "degrees by construction, so it trains as backprop does; the other rules show learning with"
    )
    print("imperfect feedback.\n")
    tensorboard = Path(sys.executable).with_name("tensorboard")
    print(f"All of it took {time.perf_counter() - begin_s:.0f} s.")
    print(f"Angles over epochs: {folder / 'weight_angles.png'}")
    print(f"Curves:             {os.path.relpath(tensorboard)} --logdir {folder}")
    return 0


def train_rule(config: FitConfig, label: str) -> Any:
    """One run, with a line on the terminal that follows it."""
    import tfweightmirror as tfwm
    from train.report import RuleResult
    from train.run.fit import fit

    begin_s = time.perf_counter()
    run = fit(config, extra_callbacks=[progress_line(label, config.training.epochs)])
    seconds = time.perf_counter() - begin_s
    senders = [pathway.name for pathway in tfwm.pathways(run.model) if pathway.sends_error_back]
    mirrors = [c for c in run.callbacks if isinstance(c, tfwm.callbacks.WeightMirror)]
    fired = sum(
        int(mirror.mirror_steps) * sum(mirror.samples_per_step(run.model).values())
        for mirror in mirrors
    )
    return RuleResult(
        label=label,
        test_accuracy=run.history["val_accuracy"][-1],
        angles_deg=_measures(run.history, "weight_angle", senders),
        angles_before_mirror_deg=_measures(run.history, "weight_angle_before_mirror", senders),
        noise_samples_per_image=fired / run.images_trained,
        seconds=seconds,
    )


def progress_line(label: str, epochs: int) -> Any:
    """A callback that rewrites one line on a terminal; into a file it writes the last one alone."""
    import keras

    def show(epoch: int, logs: dict[str, float] | None) -> None:
        last = epoch + 1 == epochs
        if last or sys.stdout.isatty():
            accuracy = 100 * (logs or {})["val_accuracy"]
            line = f"{label:<18} epoch {epoch + 1:3d} of {epochs}: {accuracy:5.1f} % on test images"
            print(f"\r{line}", end="\n" if last else "", flush=True)

    return keras.callbacks.LambdaCallback(on_epoch_end=show)


def _measures(
    history: dict[str, list[float]], measure: str, layers: list[str]
) -> dict[str, list[float]]:
    return {
        layer: history[f"{measure}/{layer}"] for layer in layers if f"{measure}/{layer}" in history
    }


if __name__ == "__main__":
    sys.exit(main())
