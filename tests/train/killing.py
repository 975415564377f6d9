"""Runs that are killed and started again, compared with one that was not."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from train.run.checkpoint import Checkpoints
from train.run.telemetry import MEASURES

REPOSITORY = Path(__file__).parents[2]

# Everything a next step depends on: BatchNorm, momentum, a moving learning rate, independent noise
# whose mirror steps are counted, mirror mode outside the step too, augmentation, a short last batch
# in the evaluation, calls that do not divide an epoch.
RUN = (
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--data.augmentation=pad_crop_flip",
    "--data.pad=1",
    "--model.options.filters=[4,4]",
    "--model.options.strides=[2,2]",
    "--feedback.rule=wm",
    "--mirror.noise=gaussian",
    "--mirror.noise.options.samples=32",
    "--mirror.every_batches=3",
    "--mirror.warm_up_steps=2",
    "--mirror.epoch_end_steps=400",
    "--optimizer.options.momentum=0.9",
    "--optimizer.schedule.name=cosine",
    "--training.batch_size=32",
    "--training.test_batch_size=64",
    "--training.epochs=4",
    "--training.steps_per_call=3",
    "--training.deterministic=true",
    "--training.progress=none",
    "--checkpoint.every_steps=2",
)


def run(
    directory: Path, *arguments: str, trap: Sequence[str] = (), base: Sequence[str] = RUN
) -> int:
    """Runs the launcher in a process of its own and returns its status; -9 if killed."""
    module = ["tests.train.victim", *trap] if trap else ["train"]
    process = subprocess.run(
        [sys.executable, "-m", *module, "fit", *base, f"--run_directory={directory}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in process.stderr, process.stderr
    if process.returncode == 2:
        print(process.stderr, file=sys.stderr)
    if process.returncode == 0:  # TensorFlow has much to say, and nothing of it matters
        assert process.stderr == ""
    return process.returncode


def killed_copy(whole: Path, copy: Path, *, step: int) -> Path:
    """A finished run that kept its checkpoints, as if it had been killed when that of `step` was
    the last one, and all files were ahead of it.
    """
    shutil.copytree(whole, copy)
    (copy / "model.keras").unlink()
    for folder in (copy / "checkpoints").iterdir():
        if int(folder.name.rpartition("-")[2]) > step:
            shutil.rmtree(folder)
    return copy


def metrics(directory: Path) -> list[dict[str, float]]:
    """What the epochs measured, speed left out."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", *MEASURES)} for line in lines]


def variables(directory: Path) -> dict[str, np.ndarray]:
    """All state at the end: weights, feedback kernels, optimizer, metrics, counters."""
    found = next(Checkpoints(directory / "checkpoints", keep=1).whole())
    reader = tf.train.load_checkpoint(str(found.folder / "variables"))
    keys = {n: f"v{i}/.ATTRIBUTES/VARIABLE_VALUE" for i, n in enumerate(found.contents)}
    # A second name of a variable is not written: B's state under `KolenPollack`.
    return {name: reader.get_tensor(key) for name, key in keys.items() if reader.has_tensor(key)}


def assert_same_bits(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    first, second = variables(one), variables(other)
    # In one process Keras counts on: seed_generator, seed_generator_1.
    names, others = ([re.sub(r"_\d+", "", name) for name in state] for state in (first, second))
    assert names == others
    for name, value in zip(first, second.values(), strict=True):
        np.testing.assert_array_equal(first[name], value, err_msg=name)


def assert_same_lines_and_bits(one: Path, other: Path) -> None:
    assert_same_bits(one, other)
    assert (one / "steps.jsonl").read_text() == (other / "steps.jsonl").read_text()
