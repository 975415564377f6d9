"""What TensorBoard reads from a run's event files."""

import io
import resource
from pathlib import Path
from typing import Any

import keras
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

import tfweightmirror as tfwm
from tests.train.test_fit import SMALL
from tests.train.test_resume import EndAfter
from train.config import FitConfig
from train.errors import TerminatedError, UserError
from train.parsing.command_line import parse
from train.parsing.config_file import read_config_file
from train.run.fit import FinishedRun, fit
from train.run.tensorboard import Dashboards, hyperparameters, layers_by_measure, scatter_image

LAYERS = ["hidden_1", "hidden_2", "hidden_10", "head"]  # not in the order of the alphabet
RULE = ["--feedback.rule=wm", "--mirror.mode=akrout2019"]


def config_of(directory: Path, *arguments: str) -> FitConfig:
    return parse(["fit", *SMALL, f"--run_directory={directory}", *arguments])[0]


def events_of(run: FinishedRun) -> EventAccumulator:
    return loaded(run.directory.events)


def loaded(folder: Path) -> EventAccumulator:
    # Nothing is left out.
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def model_of(rule: str, units: int = 16) -> keras.Model:
    layers = [keras.layers.Dense(units, name="hidden_1"), keras.layers.Dense(10, name="head")]
    model = keras.Sequential([keras.Input((64,)), *layers], name="net")
    return model if rule == "backprop" else tfwm.convert_model(model, rule)


def written(
    folder: Path, logs: list[dict[str, float]], *, rule: str = "fa", units: int = 16
) -> EventAccumulator:
    """The events of epochs with these logs, without a training."""
    dashboards = Dashboards(folder / "events", FitConfig(), len(logs))
    dashboards.set_model(model_of(rule, units))
    dashboards.on_train_begin()
    for epoch, line in enumerate(logs):
        dashboards.on_epoch_end(epoch, line)
    dashboards.on_train_end()
    return loaded(folder / "events")


def values(events: EventAccumulator, tag: str) -> list[Any]:
    return [make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]


def layout_of(events: EventAccumulator) -> dict[str, list[str]]:
    """Chart to the tags it shows, as patterns."""
    layout = layout_pb2.Layout.FromString(values(events, "custom_scalars__config__")[-1].item())
    (category,) = layout.category
    assert category.title == "Feedback"
    return {chart.title: list(chart.multiline.tag) for chart in category.chart}


def hparams_of(events: EventAccumulator, tag: str) -> Any:
    return metadata.parse_session_start_info_plugin_data(
        events.SummaryMetadata(tag).plugin_data.content
    )


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    units = "--model.options.units=[12,8]"
    return fit(config_of(tmp_path_factory.mktemp("wm") / "run", *RULE, units))


def test_scalars_have_the_names_and_values_of_the_metrics_file(mirrored: FinishedRun) -> None:
    events = events_of(mirrored)
    for name, expected in mirrored.history.items():
        np.testing.assert_allclose(values(events, name), expected, rtol=1e-6, err_msg=name)
        assert [event.step for event in events.Tensors(name)] == [1, 2]
    assert {"loss", "val_accuracy", "weight_angle/head"} <= mirrored.history.keys()


def test_layout_has_a_chart_a_measure_with_its_layers_from_input_to_output(
    mirrored: FinishedRun,
) -> None:
    charts = layout_of(events_of(mirrored))
    assert charts == {
        measure: [f"^{measure}/{layer}$" for layer in ("hidden_1", "hidden_2", "head")]
        for measure in (
            # No law of angles is known through the activation.
            *(m for m in FitConfig().monitor.measures if m != "predicted_weight_angle"),
            "weight_angle_before_mirror",
            "mirror_samples_per_image",
        )
    }


def test_layers_of_a_measure_are_in_the_given_order_whatever_their_names() -> None:
    names = ["loss", *(f"kurtosis/{layer}" for layer in sorted(LAYERS)), "kurtosis/block/conv"]
    assert layers_by_measure(names, LAYERS) == {"kurtosis": [*LAYERS, "block/conv"]}


def test_measure_that_comes_late_gets_its_chart(tmp_path: Path) -> None:
    events = written(tmp_path, [{"early/head": 1.0}, {"early/head": 1.0, "late/head": 0.5}])
    assert layout_of(events) == {"early": ["^early/head$"], "late": ["^late/head$"]}


def test_hparams_have_the_configuration_and_name_metrics_that_exist(mirrored: FinishedRun) -> None:
    events = events_of(mirrored)
    begun = hparams_of(events, metadata.SESSION_START_INFO_TAG)
    assert begun.group_name == str(mirrored.directory.path)
    assert begun.hparams["feedback.rule.name"].string_value == "weight_mirror"
    assert begun.hparams["optimizer.learning_rate"].number_value == 0.05
    assert begun.hparams["model.options.units"].string_value == "[12, 8]"
    assert begun.hparams["data.take"].string_value == "null"
    assert begun.hparams["training.jit_compile"].HasField("bool_value")
    assert "run_directory" not in begun.hparams
    experiment = metadata.parse_experiment_plugin_data(
        events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    )
    assert {info.name for info in experiment.hparam_infos} == set(begun.hparams)
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics[:2] == ["val_accuracy", "weight_angle/hidden_1"]
    assert set(metrics) <= set(events.Tags()["tensors"])
    ended = metadata.parse_session_end_info_plugin_data(
        events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    )
    assert ended.end_time_secs >= begun.start_time_secs


def test_hparams_of_all_runs_have_the_same_names_and_types(tmp_path: Path) -> None:
    one = hyperparameters(config_of(tmp_path))
    other = hyperparameters(
        config_of(
            tmp_path,
            "--data.take=100",
            "--optimizer.options.momentum=0.9",
            "--feedback.layers.hidden_1=ss",
            "--init_from=a.keras",
        )
    )
    assert {name: type(value) for name, value in one.items()} == {
        name: type(value) for name, value in other.items()
    }
    assert other["optimizer.options"] == '{"momentum": 0.9}'
    assert other["data.take"] == "100"


def test_text_is_the_configuration_as_a_file_that_can_be_run(
    mirrored: FinishedRun, tmp_path: Path
) -> None:
    ((text,),) = [value.ravel() for value in values(events_of(mirrored), "config")]
    lines = text.decode().splitlines()
    assert (lines[0], lines[-1]) == ("```yaml", "```")
    file = tmp_path / "again.yaml"
    file.write_text("\n".join(lines[1:-1]))
    written = yaml.safe_load(mirrored.directory.config_file.read_text())
    assert yaml.safe_load(file.read_text()) == written
    assert read_config_file(file)["feedback.rule.name"] == "weight_mirror"


def test_histograms_count_all_entries_of_both_kernels(mirrored: FinishedRun) -> None:
    events = events_of(mirrored)
    for pathway in tfwm.pathways(mirrored.model):
        for kind, kernel in (("W", pathway.kernel), ("B", pathway.feedback_kernel)):
            first, last = values(events, f"{kind}/{pathway.name}")
            assert not np.array_equal(first, last)
            entries = kernel.numpy()
            assert last[:, 2].sum() == entries.size
            assert last[0, 0] == pytest.approx(entries.min())
            assert last[-1, 1] == pytest.approx(entries.max())


def test_histogram_of_a_large_kernel_has_its_most_entries(tmp_path: Path) -> None:
    events = written(tmp_path, [{"loss": 1.0}], units=2000)
    (counts,) = values(events, "W/hidden_1")
    assert counts[:, 2].sum() == 64 * 2000 / 2  # every second of 128,000


def test_image_shows_feedback_against_forward_weights(mirrored: FinishedRun) -> None:
    images = values(events_of(mirrored), "B against W")
    assert len(images) == 2
    width, height, png = images[-1]
    picture = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert picture.shape[:2] == (int(height), int(width))
    blue = (picture[..., 2] > picture[..., 0] + 0.2).any(axis=0)
    thirds = np.array_split(blue, 3)  # three layers
    assert all(third.sum() > 20 for third in thirds)


def test_image_of_many_layers_has_the_first_and_the_last_and_no_more_panels_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.run.tensorboard.MOST_PANELS", 3)

    def picture(names: list[str]) -> np.ndarray:
        line = np.linspace(-1.0, 1.0, 5)
        return scatter_image({f"{kind}/{name}": line for kind in "WB" for name in names})

    nine = picture([f"layer_{n}" for n in range(9)])
    np.testing.assert_array_equal(nine, picture(["layer_0", "layer_4", "layer_8"]))


def test_long_run_draws_few_images(tmp_path: Path) -> None:
    events = written(tmp_path, [{"loss": 1.0}] * 13)
    assert [event.step for event in events.Tensors("B against W")] == [3, 6, 9, 12, 13]
    assert len(events.Tensors("W/head")) == 13


@pytest.mark.slow
def test_run_that_goes_on_has_every_epoch_and_one_layout(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", *RULE, "--training.epochs=3")
    with pytest.raises(TerminatedError):
        fit(config, extra_callbacks=[EndAfter(6)])
    finished = fit(config)
    assert len(list(finished.directory.events.iterdir())) == 2
    events = events_of(finished)
    assert [event.step for event in events.Tensors("weight_angle/head")] == [1, 2, 3]
    np.testing.assert_allclose(values(events, "loss"), finished.history["loss"], rtol=1e-6)
    charts = layout_of(events)
    assert charts["weight_angle"] == ["^weight_angle/hidden_1$", "^weight_angle/head$"]


def test_backprop_alone_has_scalars_and_histograms_and_no_empty_charts(tmp_path: Path) -> None:
    events = written(tmp_path, [{"loss": 1.0, "val_loss": 1.0}], rule="backprop")
    hparams = {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    tags = {tag.replace("W/net/", "W/") for tag in events.Tags()["tensors"]}
    assert tags == {"loss", "val_loss", "config", "W/hidden_1", "W/head", *hparams}


def test_two_replicas_write_one_run(tmp_path: Path, two_replicas: tf.distribute.Strategy) -> None:
    with two_replicas.scope():
        events = written(tmp_path, [{"loss": 1.0}])
    (counts,) = values(events, "B/head")
    assert counts[:, 2].sum() == 16 * 10


def test_what_a_full_disk_does_not_take_is_said(tmp_path: Path) -> None:
    dashboards = Dashboards(tmp_path / "events", FitConfig(), 2)
    dashboards.set_model(model_of("backprop"))
    dashboards.on_train_begin()
    (file,) = (tmp_path / "events").iterdir()
    before, reasons = resource.getrlimit(resource.RLIMIT_FSIZE), list[str]()
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    try:
        # What is larger than a buffer is lost in silence, what is smaller is not.
        for size in (200_000, 1):
            with pytest.raises(UserError) as said, dashboards._at(step=1):
                tf.summary.text("text", "x" * size)
            reasons.append(str(said.value).partition("/events: ")[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lost, refused = (reason.partition(". The checkpoints are kept")[0] for reason in reasons)
    assert (lost, refused) == ("what was written is not there", "File too large")
