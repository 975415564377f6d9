"""One run, or one for every seed."""

from __future__ import annotations

import pandas as pd

from train.commands.runs import Run, one_process_only, train_all
from train.parsing.command_line import Command
from train.run.directory import RunDirectory
from train.run.fit import fit
from train.run.terminal import last_lines


def fit_seeds(command: Command) -> None:
    """Trains the configuration, or one model for each of `command.seeds`.

    With `run_directory` given, a seed's run is its folder `seed_<n>`. What has finished is not done
    again, so that the same command goes on after a kill; but without seeds and a `run_directory`
    it is another run.

    Raises:
        UserError: As `fit`; or if several seeds shall train on several workers.
        TerminatedError: As `fit`.
    """
    config = command.config
    if not command.seeds:
        finished = RunDirectory.finished(config) if config.run_directory is not None else None
        if finished is None:
            trained = fit(config)
            if trained.is_chief:
                print(last_lines(trained.directory), flush=True)
        else:
            print(f"this run {finished.outcome()}: nothing to do", flush=True)
        return
    one_process_only(config, "--seeds")
    runs = [Run.of(f"seed {seed}", keys_of_seed(command, seed)) for seed in command.seeds]
    train_all(runs, at_once=command.jobs)
    directories = [directory for run in runs if (directory := run.finished())]
    last = pd.DataFrame([directory.metrics()[-1] for directory in directories])
    for measure in ("val_accuracy", "val_loss"):
        if measure in last:
            mean, error = last[measure].agg(["mean", "sem"])
            print(f"{measure} of {len(last)} seeds: mean {mean:.4f}, standard error {error:.4f}")


def keys_of_seed(command: Command, seed: int) -> list[str]:
    """The keys of a seed's run."""
    folder = command.config.run_directory
    named = [] if folder is None else [f"--run_directory={folder}/seed_{seed}"]
    return [*command.keys, f"--seed={seed}", *named]
