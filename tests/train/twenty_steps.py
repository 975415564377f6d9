"""Twenty training steps under some rules, weights into a file: run by each strategy alike.

python -m tests.train.twenty_steps OUT.npz RULE[;RULE ...] CALLS [CALLS ...]

does it by two workers on loopback, of which one dies after so many calls of the compiled step (0:
none), once for each of CALLS, and prints the statuses of both each time.
"""

import importlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from train.local_cluster import free_ports

RULES = {
    "bp": ["--feedback.rule=bp"],
    "fa": ["--feedback.rule=fa"],
    "ss": ["--feedback.rule=ss"],
    "kp": ["--feedback.rule=kp", "--optimizer.weight_decay=0.1"],
    "urfb": ["--feedback.rule=urfb"],
    "wm": ["--feedback.rule=wm"],
    # Of these two the replicas have most to agree on.
    "wm, kp": [
        "--feedback.rule=wm",
        "--feedback.layers.hidden_2=kp",
        "--optimizer.weight_decay=0.1",
    ],
}

# No BatchNorm: its statistics are of a replica's part of the batch.
STEPS = [
    "--data.train_split=train[:640]",
    "--data.test_split=test[:90]",
    "--data.augmentation=pad_crop_flip",
    "--data.pad=1",
    "--model.name=mlp",
    "--model.options.units=[16,16]",
    "--optimizer.options.momentum=0.9",
    "--training.batch_size=64",
    "--training.test_batch_size=32",
    "--training.epochs=2",
    "--training.steps_per_call=4",
    "--training.progress=none",
    "--checkpoint.every_steps=4",
    "--monitor.measures=[weight_angle]",
]


def train_all(
    out: Path, rules: Sequence[str], arguments: Sequence[str], *, dies_after: int = 0
) -> None:
    """Trains 2 epochs of 10 steps with every one of `rules`; writes `<rule>/<weight number>`.

    All workers but the chief die after so many calls of 4, 4 and 2 steps an epoch; 0: none does.
    """
    from train.devices.strategy import place
    from train.parsing.command_line import parse
    from train.run import fit as fit_module

    results: dict[str, np.ndarray] = {}
    first, _ = parse(["fit", *STEPS, *arguments])
    placement = place(first)
    extra = [] if placement.is_chief else [death(dies_after)]
    for rule in rules:
        directory = f"--run_directory={out.with_suffix('')}_{rule}"
        config, _ = parse(["fit", *STEPS, *RULES[rule], directory, *arguments])
        # A process can make its cluster once.
        with mock.patch.object(fit_module, "place", return_value=placement):
            finished = fit_module.fit(config, extra)
        for number, weight in enumerate(finished.model.weights):
            results[f"{rule}/{number}"] = np.asarray(weight)
        for name, values in finished.history.items():
            if name in ("loss", "val_loss", "val_accuracy") or name.startswith("weight_angle"):
                results[f"{rule}/{name}"] = np.asarray(values)
    if placement.is_chief:
        np.savez(out, **results)


def death(calls: int) -> Any:
    """A callback that kills its process, without a word, behind so many calls; 0: never."""
    import keras

    count = itertools.count(1)

    def end(batch: int, logs: object) -> None:
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGKILL)

    return keras.callbacks.LambdaCallback(on_train_batch_end=end)


def two_workers(out: Path, rules: Sequence[str], dies_after: int) -> list[int | None]:
    """Statuses of two workers. They are forked: what they import takes longer than they do."""
    addresses = ",".join(f"localhost:{port}" for port in free_ports(2))
    cluster = ["--strategy=multi_worker", f"--cluster.workers=[{addresses}]"]
    workers = [
        multiprocessing.get_context("fork").Process(
            target=train_all,
            args=(out, rules, [*cluster, f"--cluster.index={index}"]),
            kwargs={"dies_after": dies_after},
        )
        for index in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [worker.exitcode for worker in workers]


if __name__ == "__main__":
    from train.parsing.start_up import load_tensorflow_quietly

    load_tensorflow_quietly()
    importlib.import_module("train.run.fit")
    out, rules, *times = sys.argv[1:]
    statuses = [two_workers(Path(out), rules.split(";"), int(calls)) for calls in times]
    print(json.dumps(statuses))
