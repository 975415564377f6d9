"""Loss and accuracy of a trained model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from train.commands.trained import load_trained, normalizes, numbers_beside
from train.config import FitConfig
from train.data import datasets
from train.data.datasets import DataSet
from train.data.image_folder import broken_images_are_named
from train.data.normalization import Normalization
from train.devices.strategy import place
from train.disk import to_json
from train.errors import UserError
from train.parts.losses import build_loss
from train.parts.named import import_all
from train.run.build import RunBatches, build_measures
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
    placement = place(config)
    import_all(config)
    data = datasets.load(config.data)
    with placement.strategy.scope():
        file, model = load_trained(model_or_run)
        _check_fits(file, model, data)
        data, remark = _as_the_model_takes_them(data, model, file)
        model.compile(
            loss=build_loss(config.loss, data.target.kind, axes=len(data.output_shape)),
            weighted_metrics=build_measures(config, data.target),
            jit_compile=False,
        )
    loop = Loop(model, placement.strategy, RunBatches(data, config), seed=config.seed)
    loop.prepare()
    with broken_images_are_named(config.data):
        results = loop.evaluate()
    if remark:
        print(f"{file}: {remark}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(to_json(results))
        return results
    print(f"{file} on {data.name}, {config.data.test_split}: {data.test_count} examples")
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<15} {value:.4f}")
    return results


def _as_the_model_takes_them(data: DataSet, model: Any, file: Path) -> tuple[DataSet, str]:
    """The data normalised as the model wants, and what there is to say of it."""
    if normalizes(model):
        own = Normalization.of([0.0], [1.0])
        remark = "normalises its inputs itself, so data.normalization is not used"
        return dataclasses.replace(data, normalization=own), remark
    own = numbers_beside(file) or data.normalization
    differ = "inputs are normalised by the numbers of the run's own training set"
    return dataclasses.replace(data, normalization=own), differ * (own != data.normalization)


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
