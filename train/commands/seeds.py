"""One run after another, a run directory for every seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from train.config import FitConfig
from train.devices.strategy import strategy_name
from train.errors import UserError
from train.run.directory import RunDirectory
from train.run.fit import fit


def fit_seeds(config: FitConfig, seeds: Sequence[int]) -> None:
    """Trains the configuration, or one model for each of `seeds`.

    With `run_directory` given, a seed's run is its folder `seed_<n>`. What has finished is not done
    again, so that the same command goes on after a kill; but without seeds and a `run_directory`
    it is another run.

    Raises:
        UserError: As `fit`; or if several seeds shall train on several workers.
    """
    if seeds:
        one_process_only(config, "--seeds")
    for run in seed_configs(config, seeds) or [config]:
        again = seeds or run.run_directory is not None
        finished = RunDirectory.finished(run) if again else None
        if finished is not None:
            what = f"seed {run.seed}" if seeds else "this run"
            print(f"{what} {finished.outcome()}: nothing to do", flush=True)
        else:
            fit(run)


def seed_configs(config: FitConfig, seeds: Sequence[int]) -> list[FitConfig]:
    """The configuration of every seed."""
    whole = config.run_directory
    return [
        dataclasses.replace(
            config,
            seed=seed,
            run_directory=None if whole is None else str(Path(whole) / f"seed_{seed}"),
        )
        for seed in seeds
    ]


def one_process_only(config: FitConfig, what: str) -> None:
    """Raises UserError for several workers, whose connections TensorFlow makes once a process."""
    if strategy_name(config) == "multi_worker":
        raise UserError(
            f"strategy=multi_worker trains one run a command. Expected one command for every run, "
            f"instead of {what}."
        )
