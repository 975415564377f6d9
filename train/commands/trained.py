"""What is done with a trained model: `evaluate`, `export` and `angles`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import tfweightmirror as tfwm
from train.config import FitConfig
from train.data import datasets
from train.data.datasets import DataSet
from train.data.normalization import LAYER, Normalization
from train.data.splits import Share, faults_named
from train.detection.losses import RetinaNetLoss
from train.detection.precision import NEEDS_PYCOCOTOOLS, looked_at, mean_average_precision
from train.devices.strategy import Placement, place
from train.disk import to_json, whole_file
from train.errors import UserError
from train.parsing.config_file import config_of
from train.parts.faults import faults_as_user_errors
from train.parts.initial_weights import load_model
from train.parts.losses import build_loss, build_parts, check_logits
from train.parts.named import import_all
from train.report.tables import to_text
from train.run.checkpoint import Checkpoints, restore_model
from train.run.directory import RunDirectory
from train.run.files import leads_back
from train.run.loop import Loop
from train.run.phases import Phases, build_measures
from train.run.steps import RunBatches


def evaluate(model_or_run: str, config: FitConfig, *, as_json: bool = False) -> None:
    """Prints loss and metrics over every test image, each counted once.

    `config` names data, loss, batch size and device; the model comes from the file alone.
    """
    placement = place(config)
    import_all(config)
    data = datasets.load(config.data)
    with placement.strategy.scope():
        file, model = load_trained(model_or_run)
        _check_fits(file, model, data)
        loss = build_loss(config.loss, data.target.kind, axes=len(data.output_shape))
        measures = build_measures(config, data.target)
        check_logits(model, [loss, *measures])
        model.compile(
            loss=loss,
            weighted_metrics=[*build_parts(loss), *measures],
            jit_compile=False,
        )
    own, remark = normalization_of(file) or data.normalization, ""
    if _normalizes(model):
        own = Normalization()
        remark = "normalises its inputs itself, so data.normalization is not used"
    elif own != data.normalization:
        remark = "inputs are normalised by the numbers of the run's own training set"
    data = dataclasses.replace(data, normalization=own)
    loop = Loop(model, placement.strategy, RunBatches(data, config))
    with faults_named(data.train, data.test):
        results = loop.test_images()
        if isinstance(loss, RetinaNetLoss):
            looks = looked_at(model, loop.batches.evaluation(Share()))
            true, found = zip(*((objects, guesses) for _, objects, guesses in looks), strict=True)
            precision = mean_average_precision(true, found)
            results |= precision
            remark = remark if precision else NEEDS_PYCOCOTOOLS
    if remark:
        print(f"{file}: {remark}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(to_json(results))
        return
    print(f"{file} on {data.name}, {config.data.test_split}: {data.test.count} examples")
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<15} {value:.4f}")


def export(model_or_run: str, out: str, feedback: str | None = None) -> None:
    """Writes the model without feedback weights, optimizer and loss; Keras alone loads the file.

    It takes inputs as they are in the data: a layer in front normalises them as the run did.

    `feedback` is a .npz file, for a chip: of every pathway, in its kernel's shape, `<pathway>/W`
    and, as `<pathway>/B`, what carries the error in W's place; under direct_feedback_alignment
    (cells of the layer's input, cells of the output layer), under no_feedback nothing.
    """
    path = _free("out", out, ".keras", "Keras' own format")
    arrays_path = _free("feedback", feedback, ".npz", "arrays of NumPy") if feedback else None
    file, model = load_trained(model_or_run)
    normalization = normalization_of(file)
    pathways = tfwm.pathways(model)
    if arrays_path is not None:
        if not pathways:
            raise UserError(f"{file} has no feedback weights: W itself carries every error.")
        arrays: dict[str, Any] = {f"{p.name}/W": np.asarray(p.kernel) for p in pathways}
        back = {f"{p.name}/B": np.asarray(b) for p in pathways if (b := leads_back(p)) is not None}
        with whole_file(arrays_path, f"feedback={arrays_path} cannot be written") as aside:
            np.savez(aside, **(arrays | back))
        of_b = "and B of each" if len(back) == len(arrays) else f"of each and B of {len(back)}"
        print(f"{arrays_path}: {len(pathways)} pathways, W {of_b}")
    if pathways:
        tfwm.strip_feedback(model)
    if normalization is not None and normalization.changes and not _normalizes(model):
        inputs = keras.Input(model.input_shape[1:], name="input")
        outputs = model(normalization.layer()(inputs))
        model = keras.Model(inputs, outputs, name=f"{model.name}_of_raw_inputs")
    with whole_file(path, f"out={path} cannot be written") as aside:
        model.save(aside)
    front = "normalises its inputs itself" if _normalizes(model) else "takes inputs as it was given"
    print(f"{path}: {model.name}, {model.count_params()} weights, plain Keras; {front}")


def angles(model_or_run: str, *, as_json: bool = False) -> None:
    """Prints the weight angle and the norm ratio of every layer, from input to output."""
    file, model = load_trained(model_or_run)
    pathways = tfwm.pathways(model)
    angle, ratio = tfwm.weight_angles(model), tfwm.norm_ratios(model)
    names = ["layer", "rule", "weight_angle", "norm_ratio", "sends"]
    rows = [
        [p.name, p.rule.name, angle.get(p.name), ratio.get(p.name), p.sends_error_back]
        for p in pathways
    ]
    if as_json:
        print(pd.DataFrame(rows, columns=names).to_json(orient="records"))
    elif not pathways:
        print(f"{file} has no feedback layers: W itself carries every error.")
    else:
        print(f"{file}: angle between W and what carries the error back, norm of B over norm of W")
        names = ["layer", "rule", "weight angle, degrees", "norm ratio", "sends error back"]
        shown = [[*row[:2], *map(_number, row[2:4]), "yes" if row[4] else "no"] for row in rows]
        print(to_text(pd.DataFrame(shown, columns=names)))


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4f}"


def load_trained(model_or_run: str) -> tuple[Path, Any]:
    """The file and the model in it; what its run names by import paths is imported before.

    Of a run that has not finished: its folder, and the model of its last whole checkpoint, said so.
    """
    file = Path(model_or_run)
    if not file.exists():
        raise UserError(f"{file} does not exist. Expected a run directory or a .keras file.")
    run = _run_of(file)
    if file.is_dir() and not run.config_file.is_file():
        raise UserError(f"{file} holds no run: it has no {run.config_file.name}.")
    if run.config_file.is_file():
        config = config_of(run.config_file)
        import_all(config)
        if file.is_dir() and not run.model_file.exists():
            return file, _of_checkpoint(run, config)
    file = run.model_file if file.is_dir() else file
    return file, load_model(file, "model")


def _of_checkpoint(directory: RunDirectory, config: FitConfig) -> Any:
    say = functools.partial(print, file=sys.stderr)  # results, maybe JSON, go to the other stream
    found = next(Checkpoints(directory.checkpoints, keep=1).whole(say), None)
    if found is None:
        raise UserError(
            f"{directory.path} holds a run that has not finished, and no whole checkpoint. Start "
            f"its command again."
        )
    here = Placement("here", tf.distribute.get_strategy())
    with faults_as_user_errors(config):
        phases = Phases(config, here, datasets.load(config.data))
        # Its rules say which feedback weights there are; what begins a phase is in the checkpoint.
        phases.make_ready(found.position.phase, begins=False)
    restore_model(found, phases.model)
    done, steps = found.position.epoch, found.position.step_in_epoch
    say(
        f"{directory.path} has not finished: this is {found.folder.name}, after {done} of "
        f"{phases.epochs} epochs{f' and {steps} steps' if steps else ''}"
    )
    return phases.model


def normalization_of(file: Path) -> Normalization | None:
    """How inputs of a run's model were normalised; None if the file is of no run.

    Runs of before `setup.json` said so have to measure it again, on data that must be there.
    """
    run = _run_of(file)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        setup = json.loads(run.setup_file.read_text())
        return Normalization(tuple(setup["input_offset"]), tuple(setup["input_scale"]))
    if not run.config_file.is_file():
        return None
    return datasets.load(config_of(run.config_file).data).normalization


def _run_of(file: Path) -> RunDirectory:
    return RunDirectory(file if file.is_dir() else file.parent)


def _normalizes(model: Any) -> bool:
    """Whether the model was exported, and normalises its inputs itself."""
    return any(layer.name == LAYER for layer in model.layers)


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


def _free(key: str, name: str, ending: str, meaning: str) -> Path:
    path = Path(name)
    if path.suffix != ending:
        raise UserError(f"{key}={path} does not end in {ending}, {meaning}. Expected that.")
    if path.exists():
        raise UserError(f"{key}={path} exists. Nothing is overwritten: remove it, or give another.")
    return path
