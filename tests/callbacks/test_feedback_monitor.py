"""FeedbackMonitor: what it measures, when, and who sees it."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import (
    SGD,
    Fails,
    compiled,
    convolutional,
    dense,
    eager,
    fit,
    images,
    kernels,
    own_train_step,
    same,
    weights,
)
from tests.slow import slow_but
from tfweightmirror.callbacks import FeedbackMonitor, WeightMirror
from tfweightmirror.diagnostics import WEIGHT_MEASURES
from tfweightmirror.mirror import Schedule

PATHWAYS = ["first", "second", "head"]  # of `convolutional`, from input to output


def tagged(measure: str, names: list[str] | None = None) -> list[str]:
    """The keys of one measure."""
    return [f"{measure}/{name}" for name in (names or PATHWAYS)]


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Everything in the event files below `folder`: {(tag, step): value}."""

    def events() -> Iterator[Any]:
        for path in sorted(folder.rglob("events.out.tfevents.*")):
            for record in tf.data.TFRecordDataset(str(path)):
                yield tf.compat.v1.Event.FromString(record.numpy())

    return {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for event in events()
        for value in event.summary.value
    }


def crooked(model: keras.Model) -> keras.Model:
    """`model` with weights whose angles and ratios are all different."""
    for number, pathway in enumerate(tfwm.pathways(model), start=2):
        pathway.feedback_kernel.assign(number * pathway.feedback_kernel)
    return model


def test_values_are_those_of_the_measures_from_input_to_output() -> None:
    model = compiled(crooked(convolutional("feedback_alignment")))
    history = fit(model, FeedbackMonitor())
    expected = {
        **{f"weight_angle/{k}": v for k, v in tfwm.weight_angles(model).items()},
        **{f"norm_ratio/{k}": v for k, v in tfwm.norm_ratios(model).items()},
    }
    keys = [key for key in history if "/" in key]
    assert keys == tagged("weight_angle") + tagged("norm_ratio")
    for key in keys:  # one definition, twice: in a graph and out of one
        assert history[key] == pytest.approx([expected[key]], rel=1e-5), key
    assert len({round(value, 3) for value in expected.values()}) == 6
    # And from NumPy, in double precision.
    for pathway in tfwm.pathways(model):
        w, b = (v.numpy().astype("float64") for v in (pathway.kernel, pathway.feedback_kernel))
        cosine = np.sum(w * b) / np.linalg.norm(w) / np.linalg.norm(b)
        angle, ratio = np.degrees(np.arccos(cosine)), np.linalg.norm(b) / np.linalg.norm(w)
        assert history[f"weight_angle/{pathway.name}"] == pytest.approx([angle], abs=1e-3)
        assert history[f"norm_ratio/{pathway.name}"] == pytest.approx([ratio], rel=1e-5)


def test_each_epoch_is_measured_at_its_own_end() -> None:
    measured: list[dict[str, float]] = []

    class Measures(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            measured.append(tfwm.weight_angles(self.model))

    model = compiled(dense("feedback_alignment"))
    history = fit(model, FeedbackMonitor(), Measures(), epochs=3)
    angles = history["weight_angle/hidden"]
    assert angles == pytest.approx([m["hidden"] for m in measured], rel=1e-5)
    assert len({round(angle, 4) for angle in angles}) == 3


def test_measures_are_chosen_by_name_and_are_those_of_numpy() -> None:
    model = compiled(convolutional("feedback_alignment"), run_eagerly=True)
    names = list(WEIGHT_MEASURES)
    history = fit(model, FeedbackMonitor(measures=names), batches=1)
    assert [k for k in history if "/" in k] == [key for name in names for key in tagged(name)]
    for pathway in tfwm.pathways(model):
        w, b = (
            v.numpy().astype("float64").ravel() for v in (pathway.kernel, pathway.feedback_kernel)
        )
        centred = w - w.mean()
        expected = {
            "sign_angle": np.degrees(angle_between(w, np.sign(w))),
            "sign_agreement": np.mean(np.sign(w) == np.sign(b)),
            "correlation": np.corrcoef(w, b)[0, 1],
            "kurtosis": np.mean(centred**4) / np.mean(centred**2) ** 2,
            "magnitude": np.abs(w).mean(),
            "sparsity": np.mean(np.abs(w) < 0.01 * np.sqrt(np.mean(w**2))),
        }
        for name, value in expected.items():
            found = history[f"{name}/{pathway.name}"]
            assert found == pytest.approx([value], rel=1e-4, abs=1e-6), name


def test_a_measure_of_ones_own() -> None:
    def largest(pathway: tfwm.Pathway) -> tf.Tensor:
        return tf.reduce_max(tf.abs(tf.convert_to_tensor(pathway.kernel)))

    model = compiled(dense("feedback_alignment"))
    history = fit(model, FeedbackMonitor(measures={"largest": largest}), batches=1)
    assert [k for k in history if "/" in k] == tagged("largest", ["hidden", "head"])
    assert history["largest/head"] == [pytest.approx(np.abs(kernels(model)["head"]).max())]


def test_measures_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'curtosis'\]. Expected a list of names out of"):
        FeedbackMonitor(measures=["weight_angle", "curtosis"])
    with pytest.raises(ValueError, match=r"is 'kurtosis'\. Expected a list"):
        FeedbackMonitor(measures="kurtosis")
    with pytest.raises(ValueError, match=r"pass probe=\(x, y\) as well"):
        FeedbackMonitor(gradient_angles=True)
    with pytest.raises(ValueError, match=r"log_dir of FeedbackMonitor is \['weight_angle'\]"):
        FeedbackMonitor(["weight_angle"])


def test_delta_and_gradient_angles_on_a_probe_change_no_training() -> None:
    probe = images(1)
    plain, watched = (compiled(dense("feedback_alignment")) for _ in range(2))
    fit(plain, batches=2)
    monitor = FeedbackMonitor(measures=[], probe=probe, gradient_angles=True)
    history = fit(watched, monitor, batches=2)
    expected = {
        **{f"delta_angle/{k}": v for k, v in tfwm.delta_angles(watched, *probe).items()},
        **{f"gradient_angle/{k}": v for k, v in tfwm.gradient_angles(watched, *probe).items()},
    }
    assert [k for k in history if "/" in k] == list(expected)
    for key, value in expected.items():
        assert history[key] == pytest.approx([value], abs=1e-3), key
    assert history["delta_angle/hidden"][0] > 1
    assert same(weights(plain), weights(watched))


def test_what_cannot_be_probed_is_refused_before_the_training() -> None:
    class Remat(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.below = tfwm.layers.FeedbackDense(6, rule="fa", name="recomputed")
            self.head = tfwm.layers.FeedbackDense(4, rule="fa")

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            flat = keras.ops.reshape(inputs, (-1, 64))
            return self.head(keras.remat(self.below)(flat))

    model = Remat()
    x, y = images(1)
    model(x)
    before = [v.numpy() for v in model.weights]
    with pytest.raises(ValueError, match="'recomputed' cannot be seen"):
        fit(compiled(model), FeedbackMonitor(probe=(x, y)))
    assert all(np.array_equal(one, v.numpy()) for one, v in zip(before, model.weights, strict=True))


@pytest.mark.slow
@pytest.mark.always
def test_the_law_of_the_mirror_is_told_beside_the_angle() -> None:
    measures = ["weight_angle", "predicted_weight_angle"]
    noise = tfwm.mirror.noise.Gaussian(samples=64, decay=0.1)
    model = compiled(dense("weight_mirror"), SGD(0.0))
    history = fit(
        model,
        WeightMirror(noise, schedule=Schedule(steps=20)),
        FeedbackMonitor(measures=measures),
    )
    for name, fan_in in (("hidden", 64), ("head", 6)):
        law = np.degrees(np.arctan(np.sqrt((fan_in + 1) / (64 * 1.9 / 0.1))))
        assert history[f"predicted_weight_angle/{name}"] == [pytest.approx(law)]
        # W stands still, so the measured angle scatters around the law's.
        assert history[f"weight_angle/{name}"][0] == pytest.approx(law, rel=0.5)
    monitor = FeedbackMonitor(measures=measures)
    balanced = fit(eager(), WeightMirror("impulse"), monitor, batches=1)
    assert balanced["predicted_weight_angle/hidden"] == [0.0]
    paper = WeightMirror.akrout2019(activations={"head": "linear"})
    unlawful = fit(eager(), paper, monitor, batches=1)
    assert not any("predicted" in key for key in unlawful)


def test_the_law_of_the_gap_is_told_beside_the_angle() -> None:
    model = compiled(dense("kolen_pollack"), SGD(0.05, momentum=0.9, weight_decay=0.5))
    monitor = FeedbackMonitor(measures=["weight_angle", "predicted_weight_angle"])
    history = fit(model, tfwm.callbacks.KolenPollack(), monitor, epochs=3)
    for name in ("hidden", "head"):
        measured = history[f"weight_angle/{name}"]
        assert history[f"predicted_weight_angle/{name}"] == pytest.approx(measured, abs=0.05)
        assert measured[-1] > 5


def test_what_carries_the_error_under_sign_symmetry_is_measured() -> None:
    model = compiled(dense("sign_symmetry"))
    history = fit(model, FeedbackMonitor(), batches=1)
    for name, kernel in kernels(model).items():
        # Against equal magnitudes: cos = |W|_1 / (|W|_2 sqrt(n)).
        cosine = np.abs(kernel).sum() / np.linalg.norm(kernel) / np.sqrt(kernel.size)
        angle = np.degrees(np.arccos(cosine))
        assert history[f"weight_angle/{name}"] == pytest.approx([angle], abs=1e-2)


@pytest.mark.parametrize("monitor_first", slow_but([True], [True, False]))
def test_under_the_mirror_there_are_two_readings(monitor_first: bool) -> None:
    angles_before_last: list[dict[str, float]] = []

    class Looks(keras.callbacks.Callback):
        """W after the last batch but one, which B held until the last mirror step."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.last_two = [*getattr(self, "last_two", []), kernels(self.model)][-2:]

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            held, moved = self.last_two
            angles_before_last.append(
                {k: np.degrees(angle_between(held[k], moved[k])) for k in held}
            )

    callbacks = [WeightMirror("impulse"), FeedbackMonitor()]
    model, names = compiled(dense("weight_mirror")), ["hidden", "head"]
    history = fit(model, *(callbacks[::-1] if monitor_first else callbacks), Looks(), epochs=2)
    before = tagged("weight_angle_before_mirror", names)
    assert [k for k in history if "/" in k] == [
        *tagged("weight_angle", names),
        *tagged("norm_ratio", names),
        *before,
    ]
    for key in tagged("weight_angle", names):
        assert max(history[key]) < 0.01, key  # B as the next error will meet it
    for key, name in zip(before, names, strict=True):
        expected = [angles[name] for angles in angles_before_last]
        assert min(expected) > 0.1
        assert history[key] == pytest.approx(expected, rel=1e-3), key


def angle_between(u: np.ndarray, v: np.ndarray) -> float:
    """In radians, in double precision."""
    u, v = (a.astype("float64") / np.linalg.norm(a.astype("float64")) for a in (u, v))
    return 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))


def test_the_reading_before_the_mirror_is_of_the_last_mirror_step_not_the_last_batch() -> None:
    model = compiled(dense("weight_mirror"))
    w0 = kernels(model)["hidden"]
    after: list[np.ndarray] = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            after.append(kernels(self.model)["hidden"])

    mirror = WeightMirror("impulse", schedule=Schedule(every_batches=3))
    history = fit(model, mirror, FeedbackMonitor(), Looks(), batches=5)
    # Warm-up gave B = W at batch 0; the one step since was after batch 3; two batches followed.
    before = np.degrees(angle_between(w0, after[2]))
    now = np.degrees(angle_between(after[2], after[4]))
    assert history["weight_angle_before_mirror/hidden"] == pytest.approx([before], rel=1e-3)
    assert history["weight_angle/hidden"] == pytest.approx([now], rel=1e-3)


def test_a_mirror_at_epoch_ends_alone_has_its_reading_too() -> None:
    model = compiled(dense("weight_mirror"))
    schedule = Schedule(every_batches=None, warm_up_steps=1, epoch_end_steps=1)
    w0 = kernels(model)["hidden"]
    history = fit(model, WeightMirror("impulse", schedule=schedule), FeedbackMonitor())
    expected = np.degrees(angle_between(w0, kernels(model)["hidden"]))
    assert expected > 0.1
    assert history["weight_angle_before_mirror/hidden"] == pytest.approx([expected], rel=1e-3)
    assert history["weight_angle/hidden"][0] < 0.01


@pytest.mark.parametrize("warm_up_steps", slow_but([1], [0, 1]))
def test_where_no_mirror_step_follows_a_batch_the_reading_is_of_the_begin(
    warm_up_steps: int,
) -> None:
    model = eager()
    expected = tfwm.weight_angles(model)
    assert min(expected.values()) > 10
    schedule = Schedule(every_batches=100, warm_up_steps=warm_up_steps)
    history = fit(model, WeightMirror("impulse", schedule=schedule), FeedbackMonitor())
    for name, angle in expected.items():
        assert history[f"weight_angle_before_mirror/{name}"] == pytest.approx([angle], rel=1e-5)


def test_on_two_replicas_it_reads_the_same_as_the_measures(
    two_replicas: tf.distribute.Strategy,
) -> None:
    with two_replicas.scope():
        model = compiled(dense("weight_mirror"))
    history = fit(model, WeightMirror("gaussian"), FeedbackMonitor())
    for name, angle in tfwm.weight_angles(model).items():
        assert history[f"weight_angle/{name}"] == pytest.approx([angle], rel=1e-5)
        assert history[f"weight_angle_before_mirror/{name}"][0] > 0


def test_event_files_hold_the_scalars_under_their_own_names(tmp_path: Path) -> None:
    monitor, names = FeedbackMonitor(str(tmp_path / "events")), ["hidden", "head"]
    history = fit(eager(), WeightMirror("impulse"), monitor, epochs=2, batches=2)
    measures = ("weight_angle", "norm_ratio", "weight_angle_before_mirror")
    keys = [key for measure in measures for key in tagged(measure, names)]
    written = scalars(tmp_path / "events")
    assert sorted(written) == sorted(itertools.product(keys, [0, 1]))
    for (key, epoch), value in written.items():
        assert value == pytest.approx(history[key][epoch], rel=1e-6, abs=1e-9)


def test_history_csvlogger_and_tensorboard_see_them(tmp_path: Path) -> None:
    model = compiled(dense("feedback_alignment"))
    table = tmp_path / "log.csv"
    history = fit(
        model,
        FeedbackMonitor(),
        keras.callbacks.CSVLogger(str(table)),
        keras.callbacks.TensorBoard(str(tmp_path / "board"), write_graph=False),
        epochs=2,
    )
    keys = [
        *tagged("weight_angle", ["hidden", "head"]),
        *tagged("norm_ratio", ["hidden", "head"]),
    ]
    assert set(keys) <= set(history)
    with table.open() as opened:
        rows = list(csv.DictReader(opened))
    written = scalars(tmp_path / "board")
    for key in keys:
        assert [float(row[key]) for row in rows] == history[key]
        for epoch in (0, 1):
            assert written[f"epoch_{key}", epoch] == pytest.approx(history[key][epoch], rel=1e-6)


def test_all_pathways_are_measured_in_one_call_traced_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[str] = []
    measure = WEIGHT_MEASURES["weight_angle"]

    def listed(pathway: tfwm.Pathway) -> tf.Tensor:
        assert not tf.executing_eagerly()
        measured.append(pathway.name)
        return measure(pathway)

    monkeypatch.setitem(WEIGHT_MEASURES, "weight_angle", listed)
    history = fit(compiled(convolutional("feedback_alignment")), FeedbackMonitor(), epochs=3)
    assert len(history["weight_angle/head"]) == 3
    assert measured == PATHWAYS


def test_a_model_without_feedback_layers_is_a_clear_error() -> None:
    model = compiled(dense(None))
    with pytest.raises(ValueError, match=r"found no feedback layer in 'dense': convert the model"):
        fit(model, FeedbackMonitor())
    assert own_train_step(model)


def test_an_unbuilt_model_is_a_clear_error() -> None:
    monitor = FeedbackMonitor()
    monitor.set_model(keras.Sequential([tfwm.layers.FeedbackDense(3, rule="fa", name="d")]))
    with pytest.raises(ValueError, match=r"'d' has no pathways before it is built"):
        monitor.on_train_begin()


def test_the_model_has_its_own_train_step_again() -> None:
    model = compiled(dense("feedback_alignment"), SGD(0.05))
    fit(model, FeedbackMonitor(), batches=1)
    assert own_train_step(model)
    with pytest.raises(KeyboardInterrupt, match="stopped by a test"):
        fit(model, FeedbackMonitor(), Fails())
    history = fit(model, batches=1)
    assert own_train_step(model)
    assert not any("/" in key for key in history)
