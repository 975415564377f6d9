"""A run that is trained longer than it was started for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from train.config import FitConfig
from train.disk import GO_ON, disk_errors, write_whole
from train.errors import UserError
from train.parsing.config_file import config_of
from train.parsing.yaml_file import to_yaml
from train.run.checkpoint import Checkpoints

if TYPE_CHECKING:
    from train.run.directory import RunDirectory

KEY = "training.epochs"


def why_not(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Why a run of the values `there` cannot go on as one of the epochs `here`; empty if it can."""
    before, now = there.get(KEY), here.get(KEY)
    if before is None or now is None or now < before:
        return f"{KEY} is {before} there and {now} here, and no run gets shorter"
    if there.get("phases"):
        return (
            f"{KEY} is {before} there and {now} here, but the run has phases, and those before the "
            f"last would have been longer, too"
        )
    if there.get("optimizer.schedule.name") == "cosine":
        return (
            f"{KEY} is {before} there and {now} here, but optimizer.schedule is cosine, which ends "
            f"with the training: with more epochs all its rates would have been others"
        )
    return ""


def lengthen(directory: RunDirectory, config: FitConfig) -> None:
    """Makes a finished or unfinished run one of more epochs, if `config` has more.

    The model of a finished run goes: the last checkpoint holds its weights.

    Raises:
        UserError: If a finished run has no checkpoint of its end.
    """
    if not directory.config_file.exists():
        return
    epochs = config_of(directory.config_file).training.epochs
    if epochs == config.training.epochs:
        return
    done = len(directory.metrics())
    if directory.model_file.exists():
        last = next(Checkpoints(directory.checkpoints, keep=1).whole(), None)
        if last is None or last.position.epoch < done:
            raise UserError(
                f"run_directory={directory.path} has finished after {done} epochs and has no "
                f"checkpoint of its end, so it cannot be trained longer. Give another name, or "
                f"start from its weights: init_from={directory.model_file}."
            )
    with disk_errors(f"run_directory={directory.path} cannot be written", GO_ON):
        directory.model_file.unlink(missing_ok=True)
        write_whole(directory.config_file, to_yaml(config))
    print(f"{directory.path}: {done} epochs done, now {config.training.epochs} instead of {epochs}")
