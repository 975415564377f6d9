"""What TensorBoard shows of a run."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import yaml
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_end
from tensorboard.plugins.hparams import summary_v2 as hparams_begin

import tfweightmirror as tfwm
from train.config import MAY_DIFFER, FitConfig
from train.disk import GO_ON, disk_errors
from train.parsing.config_file import dotted_names
from train.parsing.yaml_file import plain, to_yaml
from train.run.scatter import Panel, scatter_image

HISTOGRAMS_A_RUN = 100
HISTOGRAM_ENTRIES = 100_000
IMAGES_A_RUN = 5
IMAGE_ENTRIES = 2_000
# Ticked in the HParams table from the start: five columns are, those marked as different first.
FIRST_COLUMNS = (
    "feedback.rule.name",
    "mirror.mode",
    "optimizer.learning_rate",
    "seed",
    "model.name",
)


class Dashboards(keras.callbacks.Callback):
    """Writes event files; must stand behind everything that adds to the logs.

    A step is an epoch, counted from 1. Scalars have the names that they have in the logs; those of
    `steps.jsonl` are `by_step/<name>`, and their steps are training steps. Custom
    scalars put all layers of a measure (`<measure>/<layer>`) into one chart, from input to output.
    Histograms of the weights `W/<layer>` and of what carries the error, `B/<layer>`, are of at most
    100,000 entries a layer and written at most about 100 times a run; the image of B against W, of
    at most 2,000 entries a layer, about five times, the last epoch among them. HParams and text
    hold the configuration.

    A run that goes on writes a further file. TensorBoard's fast loader, the default, shows the
    later one of two values of a step; with `--load_fast=false` it may show both.

    Args:
        folder: For the event files.
        config: Of the run.
        epochs: Of the whole run, as planned.
    """

    def __init__(self, folder: Path, config: FitConfig, epochs: int) -> None:
        super().__init__()
        self.folder = folder
        self.config = config
        self.epochs = epochs
        self._pathways: list[tfwm.Pathway] = []
        self._charted: dict[str, list[str]] = {}
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._pathways = tfwm.pathways(self.model)
        self._charted = {}
        values = hyperparameters(self.config)
        with self._disk_errors():
            self._writer = tf.summary.create_file_writer(str(self.folder))
        with self._disk_errors(), self._writer.as_default(step=0):
            tf.summary.text("config", f"```yaml\n{to_yaml(self.config)}```")
            if self._pathways:  # else TensorBoard takes another run's columns, or all scalars
                _write(experiment(values, [pathway.name for pathway in self._pathways]))
            _write(hparams_begin.hparams_pb(values, trial_id=str(self.folder.parent)))
            self._writer.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        done, epochs = epoch + 1, self.epochs
        with self._disk_errors(), self._writer.as_default(step=done):
            for name, value in (logs or {}).items():
                tf.summary.scalar(name, value)
            self._write_layout(logs or {})
            if _is_due(done, epochs, HISTOGRAMS_A_RUN):
                self._write_histograms()
            if self._pathways and _is_due(done, epochs, IMAGES_A_RUN):
                tf.summary.image("B against W", self._scatter()[tf.newaxis])
            if done == epochs:
                _write(hparams_end.session_end_pb(api_pb2.STATUS_SUCCESS))
            self._writer.flush()

    def on_step_line(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured when `step` training steps were done."""
        with self._disk_errors(), self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"by_step/{name}", value)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._disk_errors():
                writer.close()

    def _disk_errors(self) -> contextlib.AbstractContextManager[None]:
        sentence = f"Event files cannot be written to {self.folder}"
        return disk_errors(sentence, GO_ON, kinds=(OSError, tf.errors.OpError))

    def _write_layout(self, names: Iterable[str]) -> None:
        charts = layers_by_measure(names, [pathway.name for pathway in self._pathways])
        if charts and charts != self._charted:  # a measure may come later than the first epoch
            self._charted = charts
            _write(custom_scalar.pb(layout(charts)))

    def _write_histograms(self) -> None:
        for pathway in self._pathways:
            W, B = _sample(pathway, HISTOGRAM_ENTRIES)
            tf.summary.histogram(f"W/{pathway.name}", W)
            tf.summary.histogram(f"B/{pathway.name}", B)
        if not self._pathways:  # backprop: there is no B
            for kernel in self.model.trainable_variables:
                layer, slash, name = kernel.path.rpartition("/")
                if slash and name == "kernel":
                    tf.summary.histogram(f"W/{layer}", _spread(kernel, HISTOGRAM_ENTRIES))

    def _scatter(self) -> Any:
        panels = [
            Panel(pathway.name, *(x.numpy() for x in _sample(pathway, IMAGE_ENTRIES)))
            for pathway in self._pathways
        ]
        return scatter_image(panels)


def hyperparameters(config: FitConfig) -> dict[str, bool | int | float | str]:
    """Dotted name to value of all that decides over a run's numbers.

    What is not a boolean, number or text under every configuration is a text in YAML, so that a
    column has one type and all runs have the same columns.
    """
    found: dict[str, bool | int | float | str] = {}
    tree = plain(config)
    for name, hint in dotted_names(FitConfig).items():
        if name.startswith(MAY_DIFFER):
            continue
        value: Any = tree
        for part in name.split("."):
            value = value[part]
        if name == "model.options":  # options of other parts are few, and stand in one column each
            found |= {f"{name}.{option}": _cell(entry) for option, entry in value.items()}
        elif hint in (bool, int, float, str):
            found[name] = hint(value)
        else:
            found[name] = _cell(value)
    return found


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def experiment(values: dict[str, bool | int | float | str], layers: Sequence[str]) -> Any:
    """Columns of the HParams table: configuration, test accuracy and loss, angles of all layers."""
    kinds: dict[type, Any] = {
        bool: api_pb2.DATA_TYPE_BOOL,
        int: api_pb2.DATA_TYPE_FLOAT64,
        float: api_pb2.DATA_TYPE_FLOAT64,
        str: api_pb2.DATA_TYPE_STRING,
    }
    metrics = ["val_accuracy", *(f"weight_angle/{layer}" for layer in layers), "val_loss"]
    return hparams_end.experiment_pb(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=kinds[type(value)], differs=name in FIRST_COLUMNS)
            for name, value in values.items()
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )


def layers_by_measure(names: Iterable[str], order: Sequence[str]) -> dict[str, list[str]]:
    """Measure to the layers it is known of, from `<measure>/<layer>`, in the order of pathways."""
    found: dict[str, list[str]] = {}
    for name in names:
        measure, slash, layer = name.partition("/")
        if slash:
            found.setdefault(measure, []).append(layer)
    place = {layer: index for index, layer in enumerate(order)}
    return {
        measure: sorted(layers, key=lambda layer: place.get(layer, len(place)))
        for measure, layers in found.items()
    }


def layout(charts: dict[str, list[str]]) -> layout_pb2.Layout:
    """One chart a measure, one line a layer."""
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title="Feedback",
                chart=[
                    layout_pb2.Chart(
                        title=measure,
                        multiline=layout_pb2.MultilineChartContent(
                            tag=[f"^{re.escape(f'{measure}/{layer}')}$" for layer in layers]
                        ),
                    )
                    for measure, layers in charts.items()
                ],
            )
        ]
    )


def _write(summary: Any) -> None:
    tf.summary.experimental.write_raw_pb(summary.SerializeToString())


def _is_due(done: int, epochs: int, times: int) -> bool:
    return done == epochs or done % math.ceil(epochs / times) == 0


def _sample(pathway: tfwm.Pathway, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Entries of W, and at the same places of what carries the error."""
    return _spread(pathway.kernel, most), _spread(pathway.backward_kernel(), most)


def _spread(kernel: Any, most: int) -> tf.Tensor:
    """At most so many entries, evenly spread, in float32."""
    stride = math.ceil(math.prod(kernel.shape) / most)
    return tf.cast(tf.reshape(tf.convert_to_tensor(kernel), [-1])[::stride], tf.float32)
