"""What TensorBoard shows of a run."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

import tfweightmirror as tfwm
from train.config import MAY_DIFFER, FitConfig
from train.disk import GO_ON, disk_errors
from train.parsing.config_file import dotted_names
from train.parsing.yaml_file import plain, to_yaml
from train.run.files import leads_back

HISTOGRAMS_A_RUN, HISTOGRAM_ENTRIES = 100, 100_000
IMAGES_A_RUN, IMAGE_ENTRIES, MOST_PANELS = 5, 2_000, 24
# Ticked in the HParams table from the start: five columns are, those marked as different first.
FIRST_COLUMNS = {
    "feedback.rule.name",
    "mirror.mode",
    "optimizer.learning_rate",
    "seed",
    "model.name",
}
Hyperparameters = dict[str, bool | int | float | str]


class Dashboards(keras.callbacks.Callback):
    """Writes event files; must stand behind everything that adds to the logs.

    A step is an epoch, counted from 1; of `by_step/<name>`, from `steps.jsonl`, a training step.
    Custom scalars have a chart a measure, with its layers (`<measure>/<layer>`) from input to
    output. Histograms of the weights, `W/<layer>`, and of what carries the error, `B/<layer>`, are
    written at most about 100 times a run, the image of B against W about five times, the last epoch
    among them, as are the boxes that a detector finds. HParams and text hold the configuration.

    A run that goes on writes a further file. TensorBoard's fast loader, the default, shows the
    later one of two values of a step; with `--load_fast=false` it may show both.
    """

    def __init__(self, folder: Path, config: FitConfig, epochs: int) -> None:
        super().__init__()
        self.folder = folder
        self.config = config
        self.epochs = epochs
        self._pathways: list[tfwm.Pathway] = []
        self._paired: list[tfwm.Pathway] = []  # those with a tensor in W's place
        self._charted: dict[str, list[str]] = {}
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._pathways = tfwm.pathways(self.model)
        self._paired = [p for p in self._pathways if p.rule.has_carrier]
        self._charted = {}
        values = hyperparameters(self.config)
        with self._at(step=0):
            tf.summary.text("config", f"```yaml\n{to_yaml(self.config)}```")
            if self._pathways:  # else TensorBoard takes another run's columns, or all scalars
                _write(_experiment(values, [pathway.name for pathway in self._paired]))
            _write(hparams_pb(values, trial_id=str(self.folder.parent)))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        done, logs = epoch + 1, logs or {}
        with self._at(step=done):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
            charts = layers_by_measure(logs, [pathway.name for pathway in self._pathways])
            if charts and charts != self._charted:  # a measure may come later than the first epoch
                self._charted = charts
                _write(custom_scalar.pb(_layout(charts)))
            if self._is_due(done, HISTOGRAMS_A_RUN):
                for name, entries in self._entries(HISTOGRAM_ENTRIES).items():
                    tf.summary.histogram(name, entries)
            if self._paired and self._is_due(done, IMAGES_A_RUN):
                entries, paired = self._entries(IMAGE_ENTRIES), {p.name for p in self._paired}
                picture = scatter_image({k: v for k, v in entries.items() if k[2:] in paired})
                tf.summary.image("B against W", picture[np.newaxis])
            if done == self.epochs:
                _write(hparams.session_end_pb(api_pb2.STATUS_SUCCESS))

    def on_step_line(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured when `step` training steps were done."""
        with self._at(step):
            for name, value in values.items():
                tf.summary.scalar(f"by_step/{name}", value)

    def on_picture(self, epoch: int, name: str, picture: np.ndarray) -> None:
        """A picture (height, width, 3), bytes, of the end of an epoch, counted from 1."""
        with self._at(epoch):
            tf.summary.image(name, picture[np.newaxis])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer = None  # all is on the disk

    @contextlib.contextmanager
    def _at(self, step: int) -> Iterator[None]:
        """Of what a full disk does not take, TensorFlow says nothing: the file grows, or not."""
        sentence = f"Event files cannot be written to {self.folder}"
        with disk_errors(sentence, GO_ON, kinds=(OSError, tf.errors.OpError)):
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self.folder))
            before = self._bytes()
            with self._writer.as_default(step=step):
                yield
            self._writer.flush()
            if self._bytes() <= before:
                raise OSError("what was written is not there")

    def _bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def _is_due(self, done: int, times: int) -> bool:
        return done == self.epochs or done % math.ceil(self.epochs / times) == 0

    def _entries(self, most: int) -> dict[str, tf.Tensor]:
        """At most so many of each kernel, evenly spread, in float32."""
        found = {f"W/{pathway.name}": pathway.kernel for pathway in self._pathways}
        found |= {f"B/{p.name}": b for p in self._pathways if (b := leads_back(p)) is not None}
        if not found:  # backprop: there is no B
            kernels = [v for v in self.model.trainable_variables if v.path.endswith("/kernel")]
            found = {f"W/{kernel.path.removesuffix('/kernel')}": kernel for kernel in kernels}
        for name, kernel in found.items():
            stride = math.ceil(math.prod(kernel.shape) / most)
            entries = tf.reshape(tf.convert_to_tensor(kernel), [-1])[::stride]
            found[name] = tf.cast(entries, tf.float32)
        return found


def hyperparameters(config: FitConfig) -> Hyperparameters:
    """Dotted name to value of all that decides over a run's numbers.

    What is not a boolean, number or text under every configuration is a text in JSON, so that a
    column has one type and all runs have the same columns.
    """
    found: Hyperparameters = {}
    tree = plain(config)
    for name, hint in dotted_names().items():
        value: Any = functools.reduce(operator.getitem, name.split("."), tree)
        if name.startswith(MAY_DIFFER):
            continue
        if name == "model.options":  # options of other parts are few, and stand in one column each
            found |= {f"{name}.{option}": _cell(entry) for option, entry in value.items()}
        else:
            found[name] = hint(value) if hint in (bool, int, float, str) else _cell(value)
    return found


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _experiment(values: Hyperparameters, layers: Sequence[str]) -> Any:
    """Columns of the HParams table: configuration, test accuracy and loss, angles of all layers."""
    number, text = api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_STRING
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, int: number, float: number, str: text}
    metrics = ["val_accuracy", *(f"weight_angle/{layer}" for layer in layers), "val_loss"]
    return hparams.experiment_pb(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=kinds[type(value)], differs=name in FIRST_COLUMNS)
            for name, value in values.items()
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )


def layers_by_measure(names: Iterable[str], order: Sequence[str]) -> dict[str, list[str]]:
    """Measure to the layers it is known of, from `<measure>/<layer>`, in the order of pathways."""
    place = {layer: index for index, layer in enumerate(order)}
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: place.get(name.partition("/")[2], len(place))):
        measure, slash, layer = name.partition("/")
        if slash:
            found.setdefault(measure, []).append(layer)
    return found


def _layout(charts: dict[str, list[str]]) -> layout_pb2.Layout:
    """One chart a measure, one line a layer."""
    found = []
    for measure, layers in charts.items():
        tags = [f"^{re.escape(f'{measure}/{layer}')}$" for layer in layers]
        lines = layout_pb2.MultilineChartContent(tag=tags)
        found.append(layout_pb2.Chart(title=measure, multiline=lines))
    return layout_pb2.Layout(category=[layout_pb2.Category(title="Feedback", chart=found)])


def scatter_image(entries: Mapping[str, Any]) -> np.ndarray:
    """`B/<layer>` against `W/<layer>`, a panel a layer, as (height, width, 3) bytes.

    Of more than 24 layers, 24 evenly spread ones, the first and the last among them. The dashed
    line is B = W; each axis has a scale of its own.
    """
    names = [name.removeprefix("W/") for name in entries if name.startswith("W/")]
    if len(names) > MOST_PANELS:
        places = np.linspace(0, len(names) - 1, MOST_PANELS).round().astype(int)
        names = [names[place] for place in places]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.4 * columns, 2.4 * rows), dpi=90)
    canvas = FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, name in zip(grid, names, strict=False):
        W, B = entries[f"W/{name}"], entries[f"B/{name}"]
        axes.plot(W, B, ".", markersize=2, alpha=0.4, rasterized=True)
        axes.axline((0, 0), slope=1, color="black", linewidth=0.7, linestyle="--")
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_xlabel("W", fontsize=7)
        axes.set_ylabel("B", fontsize=7)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    figure.tight_layout()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _write(summary: Any) -> None:
    tf.summary.experimental.write_raw_pb(summary.SerializeToString())
