"""Loss and accuracy of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.data import datasets
from train.data.datasets import DataSet
from train.devices.strategy import place
from train.disk import to_json
from train.errors import UserError
from train.parts.initial_weights import load_model
from train.parts.losses import build_loss
from train.run.build import RunBatches, build_measures
from train.run.directory import RunDirectory
from train.run.loop import Loop


def evaluate(model_or_run: str, config: FitConfig, *, as_json: bool = False) -> dict[str, float]:
    """Prints loss, accuracy and, for more than 20 classes, top-5 accuracy over every test image.

    Args:
        model_or_run: A run directory, or a .keras file.
        as_json: Whether to print JSON.
        config: Names data, loss, batch size and device; the model itself comes from the file.

    Returns:
        The same by name.

    Raises:
        UserError: If the file cannot be loaded, the run has not finished, or the data do not fit.
    """
    file = model_file(model_or_run)
    placement = place(config)
    data = datasets.load(config.data)
    with placement.strategy.scope():
        model = load_model(file, "model")
        _check_fits(file, model, data)
        model.compile(
            loss=build_loss(config.loss, data.target.kind),
            weighted_metrics=build_measures(config, data.target),
            jit_compile=False,
        )
    loop = Loop(model, placement.strategy, RunBatches(data, config), seed=config.seed)
    loop.prepare()
    results = loop.evaluate()
    if as_json:
        print(to_json(results))
        return results
    print(f"{file} on {data.name}, {config.data.test_split}: {data.test_count} examples")
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<15} {value:.4f}")
    return results


def model_file(model_or_run: str) -> Path:
    """The .keras file that is meant.

    Raises:
        UserError: If there is none.
    """
    path = Path(model_or_run)
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist. Expected a run directory or a .keras file.")
        return path
    directory = RunDirectory(path)
    if not directory.config_file.is_file():
        raise UserError(f"{path} holds no run: it has no {directory.config_file.name}.")
    if not directory.model_file.exists():
        raise UserError(
            f"{path} holds a run that has not finished: it has no {directory.model_file.name}. "
            f"Start its command again: it goes on from the last checkpoint."
        )
    return directory.model_file


def _check_fits(file: Path, model: Any, data: DataSet) -> None:
    """Raises UserError if the model was made for other inputs or targets."""
    takes, gives = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    fits = len(takes) == len(data.input_shape) and all(
        want in (None, have) for want, have in zip(takes, data.input_shape, strict=True)
    )
    if not fits or gives != data.output_shape:
        raise UserError(
            f"{file} takes inputs {takes} and gives {gives}, but {data.name} has inputs "
            f"{data.input_shape} and wants {data.output_shape}. Expected the data that the model "
            f"was trained on."
        )
