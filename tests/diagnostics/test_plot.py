"""Angles of a fit, drawn in one call."""

import sys
from collections.abc import Iterator

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

import tfweightmirror as tfwm


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def test_angles_of_a_fit_are_one_line_a_layer() -> None:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            tfwm.layers.FeedbackDense(5, rule="fa", name="hidden"),
            tfwm.layers.FeedbackDense(1, rule="fa", name="head"),
        ]
    )
    model.compile("sgd", "mse")
    data = np.random.default_rng(0).normal(size=(8, 4))
    monitor = tfwm.callbacks.FeedbackMonitor()
    history = model.fit(data, data[:, :1], epochs=2, callbacks=[monitor], verbose=0)
    axes = tfwm.diagnostics.plot_angles(history)
    assert [line.get_label() for line in axes.lines] == ["hidden", "head"]
    for line in axes.lines:
        assert list(line.get_xdata()) == [1, 2]
        assert list(line.get_ydata()) == history.history[f"weight_angle/{line.get_label()}"]
    assert axes.get_ylabel() == "weight angle (degrees)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["hidden", "head"]


def test_a_dict_another_measure_and_axes_of_ones_own() -> None:
    _, mine = pyplot.subplots()
    logs = {"delta_angle/a": [30.0], "weight_angle/a": [1.0, 2.0]}
    axes = tfwm.diagnostics.plot_angles(logs, measure="delta_angle", axes=mine, linewidth=5)
    assert axes is mine
    (line,) = axes.lines
    assert (line.get_marker(), line.get_linewidth()) == (".", 5)  # one epoch is a point
    assert axes.get_ylabel() == "delta angle (degrees)"


@pytest.mark.parametrize(
    ("logs", "there"),
    [({"loss": [1.0]}, "no measure of layers"), ({"kurtosis/a": [3]}, "kurtosis")],
)
def test_a_history_without_angles_is_refused(logs: dict[str, list[float]], there: str) -> None:
    with pytest.raises(ValueError, match=f"no 'weight_angle' of any layer. Received: {there}. Fit"):
        tfwm.diagnostics.plot_angles(logs)


def test_without_matplotlib_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="needs matplotlib, which is not installed: pip install"):
        tfwm.diagnostics.plot_angles({"weight_angle/a": [1.0]})
