"""Phases: other lengths, rules, rates and frozen layers one after another on the same model."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml

import tfweightmirror as tfwm
from tests.train import killing
from tests.train.test_steps import DieAt, KilledError
from train.commands.trained import load_trained
from train.config import FitConfig
from train.errors import UserError
from train.parsing.command_line import parse
from train.parsing.phases import phase_configs
from train.report.frames import read
from train.run.checkpoint import Checkpoints
from train.run.fit import FinishedRun, fit

SMALL = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[16,12]",
    "--model.options.batch_norm=true",
    "--feedback.rule=fa",
    "--optimizer.options.momentum=0.9",
    "--training.steps_per_call=3",
    "--training.evaluate_every=4",
    "--monitor.last_epoch_measures=2",
    "--training.progress=none",
]
# 6 steps of an epoch and a half, 4 of one epoch, 8 of two.
PHASES: list[dict[str, Any]] = [
    {"training": {"steps": 6}, "feedback": {"rule": "wm"}},
    {
        "training": {"epochs": 1},
        "feedback": {"layers": {"hidden_1": "kp", "head": "bp"}},
        "freeze": ["hidden_2"],
        "optimizer": {"weight_decay": 0.1, "learning_rate": 0.01},
    },
    {
        "training": {"epochs": 2},
        "feedback": {"rule": "wm", "layers": {"hidden_2": "fa"}},
        "draw_anew": ["head"],
        "optimizer": {"schedule": {"name": "piecewise", "boundaries_steps": [5]}},
    },
]


def config_of(directory: Path, phases: list[dict[str, Any]], *arguments: str) -> FitConfig:
    table = f"--phases={json.dumps(phases)}"
    return parse(["fit", *SMALL, table, f"--run_directory={directory}", *arguments])[0]


class Notes(keras.callbacks.Callback):
    """The model at the begin and at the end of every phase."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[dict[str, np.ndarray]] = []
        self.ends: list[dict[str, np.ndarray]] = []
        self.rules: list[dict[str, str]] = []
        self.iterations: list[int] = []

    def _weights(self) -> dict[str, np.ndarray]:
        return {weight.path: weight.numpy() for weight in self.model.weights}

    def on_train_begin(self, logs: Any = None) -> None:
        self.begins.append(self._weights())
        self.rules.append({p.name: p.rule.name for p in tfwm.pathways(self.model)})

    def on_train_end(self, logs: Any = None) -> None:
        self.ends.append(self._weights())
        self.iterations.append(int(self.model.optimizer.iterations))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, Notes]:
    """A run of three phases."""
    notes = Notes()
    keep = "--checkpoint.keep=99"
    config = config_of(tmp_path_factory.mktemp("phases") / "run", PHASES, keep)
    return fit(config, extra_callbacks=[notes]), notes


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.always
def test_phases_share_a_directory_and_count_epochs_through(run: tuple[FinishedRun, Notes]) -> None:
    finished, notes = run
    path = finished.directory.path
    lines = lines_of(path)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["phase"] for line in lines] == [1, 1, 2, 3, 3]
    steps = [json.loads(line) for line in (path / "steps.jsonl").read_text().splitlines()]
    # Every fourth over all phases, and the ends of epochs, of 4, 2, 4, 4 and 4 steps.
    assert [line["step"] for line in steps] == [4, 6, 8, 10, 12, 14, 16, 18]
    assert [any("_mean/" in name for name in line) for line in lines] == [False] * 4 + [True]
    rates = [line["learning_rate"] for line in lines]
    # Each phase has a schedule from its own first step on.
    assert rates == pytest.approx([0.05, 0.05, 0.01, 0.05, 0.005])
    assert notes.iterations == [6, 4, 8]
    assert finished.images_trained == 18 * 64
    report = read(path)
    assert (report.planned, report.finished) == (5, True)
    assert yaml.safe_load((path / "config.yaml").read_text())["phases"] == PHASES


@pytest.mark.slow
@pytest.mark.always
def test_each_phase_has_its_rules_and_keeps_the_weights(run: tuple[FinishedRun, Notes]) -> None:
    _, notes = run
    fa, wm, kp = "feedback_alignment", "weight_mirror", "kolen_pollack"
    assert notes.rules == [
        {"hidden_1": wm, "hidden_2": wm, "head": wm},
        {"hidden_1": kp, "hidden_2": fa},
        {"hidden_1": wm, "hidden_2": fa, "head": wm},
    ]
    for before, after in ((0, 1), (1, 2)):
        for path, weight in notes.begins[after].items():
            kept = "feedback" not in path and not (after == 2 and path.startswith("head/"))
            if kept:
                np.testing.assert_array_equal(weight, notes.ends[before][path], err_msg=path)
    # The rule of hidden_2 is that of the phase before, hidden_1's is another.
    second, third = notes.ends[1], notes.begins[2]
    np.testing.assert_array_equal(
        second["hidden_2/feedback_kernel"], third["hidden_2/feedback_kernel"]
    )
    assert not np.array_equal(second["hidden_1/feedback_kernel"], third["hidden_1/feedback_kernel"])


@pytest.mark.slow
@pytest.mark.always
def test_frozen_layers_stand_still_and_learn_again(run: tuple[FinishedRun, Notes]) -> None:
    _, notes = run
    for phase, learns in ((0, True), (1, False), (2, True)):
        before, after = notes.begins[phase], notes.ends[phase]
        for name in ("hidden_2/kernel", "hidden_1/kernel", "head/kernel"):
            moved = not np.array_equal(before[name], after[name])
            assert moved == (learns or "hidden_2" not in name), (phase, name)


@pytest.mark.slow
@pytest.mark.always
def test_layers_are_drawn_anew(run: tuple[FinishedRun, Notes]) -> None:
    _, notes = run
    drawn, first = notes.begins[2]["head/kernel"], notes.begins[0]["head/kernel"]
    assert not np.array_equal(drawn, notes.ends[1]["head/kernel"])
    assert not np.array_equal(drawn, first)
    assert 0.8 < drawn.std() / first.std() < 1.25  # from the same distribution
    np.testing.assert_array_equal(notes.begins[2]["head/bias"], np.zeros(10))


@pytest.mark.slow
@pytest.mark.always
def test_run_killed_before_a_phase_has_trained_goes_on_there_to_the_same_bits(
    run: tuple[FinishedRun, Notes], tmp_path: Path
) -> None:
    whole = run[0].directory.path
    killed = killing.killed_copy(whole, tmp_path / "run", step=10)
    position = next(Checkpoints(killed / "checkpoints", keep=99).whole()).position
    assert (position.phase, position.step, position.epoch) == (2, 10, 3)
    _, model = load_trained(str(killed))  # as evaluate, export and angles see it
    assert {pathway.name: pathway.rule.name for pathway in tfwm.pathways(model)} == run[1].rules[2]
    fit(config_of(killed, PHASES))
    killing.assert_same_lines_and_bits(whole, killed)


# Behind the lines of phase 1's last epoch; in phase 2; before the first step of phase 3, which has
# a checkpoint of its own; in its last epoch. Each with phase and step of the last checkpoint.
DEATHS = [
    ({"epoch": 1}, (0, 6)),
    ({"batch": 1}, (1, 8)),
    ({"batch": 1}, (2, 10)),
    ({"batch": 3}, (2, 16)),
]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_run_killed_in_any_phase_goes_on_there_to_the_same_bits(
    tmp_path: Path, replicas: int
) -> None:
    mirrored = ["--strategy=mirrored", "--replicas=2"] * (replicas == 2)
    fit(config_of(tmp_path / "whole", PHASES, *mirrored))
    config = config_of(tmp_path / "run", PHASES, "--checkpoint.every_steps=1", *mirrored)
    for death, last in DEATHS:
        with pytest.raises(KilledError):
            fit(config, extra_callbacks=[DieAt(**death)])
        position = next(Checkpoints(tmp_path / "run" / "checkpoints", keep=3).whole()).position
        assert (position.phase, position.step) == last
    fit(config)
    killing.assert_same_lines_and_bits(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.always
def test_run_with_phases_is_not_trained_longer(run: tuple[FinishedRun, Notes]) -> None:
    path = run[0].directory.path
    with pytest.raises(UserError, match="but the run has phases"):
        fit(config_of(path, PHASES, "--training.epochs=30"))


@pytest.mark.slow
def test_phase_that_diverges_goes_on_at_half_its_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As in test_rollback.py: learning rate x weight decay of 5 overshoots zero every step.
    diverging = {"learning_rate": 20.0, "weight_decay": 0.25, "options": {}}
    table = [{"training": {"epochs": 1}}, {"training": {"epochs": 10}, "optimizer": diverging}]
    arguments = ["--on_nan=rollback", "--training.evaluate_every=null", "--model.options.units=[8]"]
    finished = fit(config_of(tmp_path / "run", table, *arguments))
    halved = capsys.readouterr().out.count("is not finite")
    lines = lines_of(finished.directory.path)
    assert halved >= 1
    assert [line["phase"] for line in lines] == [1, *[2] * 10]
    assert lines[-1]["learning_rate"] == 20 / 2**halved


@pytest.mark.slow
@pytest.mark.always
def test_phase_that_a_callback_stops_is_followed_by_the_next(tmp_path: Path) -> None:
    class StopFirst(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 0

    table = [{"training": {"epochs": 3}}, {"training": {"epochs": 1}}]
    finished = fit(config_of(tmp_path / "run", table), extra_callbacks=[StopFirst()])
    lines = lines_of(finished.directory.path)
    assert [(line["epoch"], line["phase"]) for line in lines] == [(1, 1), (2, 2)]
    assert finished.images_trained == 2 * 256


def test_one_phase_is_the_run_without_the_key(tmp_path: Path) -> None:
    one, none = (config_of(tmp_path / "run", phases) for phases in ([{}], []))
    assert phase_configs(one) == phase_configs(none) == [none]


@pytest.mark.slow
@pytest.mark.always
def test_backbone_of_another_model_is_taken_and_the_rest_left(
    run: tuple[FinishedRun, Notes], tmp_path: Path
) -> None:
    file = run[0].directory.model_file
    saved = {w.path: w.numpy() for w in keras.models.load_model(file).weights}
    table = [{}, {"init_from": {"file": str(file), "layers": ["hidden_*", "*norm*"]}}]
    notes = Notes()
    fit(config_of(tmp_path / "run", table, "--training.epochs=1"), extra_callbacks=[notes])
    for path, weight in notes.begins[1].items():
        taken = not path.startswith("head") and "feedback" not in path
        expected = saved[path] if taken else notes.ends[0][path]
        if "feedback" not in path:
            np.testing.assert_array_equal(weight, expected, err_msg=path)
    # hidden_2 sends by feedback alignment there, too.
    np.testing.assert_array_equal(
        notes.begins[1]["hidden_2/feedback_kernel"], saved["hidden_2/feedback_kernel"]
    )


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        (
            [{"unbind": ["x"]}],
            "phases[0]: unbind is not a key of a phase. Expected some of training",
        ),
        ([{"frees": ["x"]}], "phases[0]: frees is not a key of a phase. Did you mean 'freeze'?"),
        ([{"training": {"batch_size": 3}}], "training.batch_size is not a key of a phase."),
        ([{}, {"optimizer": {"rate": 1}}], "phases[1]: optimizer.rate is not a known key."),
        ([{"training": {"steps": 0}}], "phases[0]: training.steps has the value 0."),
        ([{}, {"freeze": ["hed"]}], "freeze: 'hed' matches no layer with weights. Did you mean"),
        ([{}, {"freeze": ["*"]}], "leaves no weights to train."),
        ([{}, {"draw_anew": ["hed"]}], "draw_anew: 'hed' matches no layer with weights."),
        ([{}, {"feedback": {"rule": "kp"}}], "phases[1]: optimizer.weight_decay"),
        ([{}, {"feedback": {"layers": {"hed": "fa"}}}], "'hed' matches no layer"),
        ([{}, {"init_from": "nowhere.keras"}], "phases[1]: init_from=nowhere.keras does not exist"),
        ([{"init_from": {"layers": ["a"]}}], "init_from.layers is ['a'] without init_from.file."),
    ],
)
def test_phase_that_cannot_be_is_refused_before_the_first_trains(
    tmp_path: Path, phases: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        fit(config_of(tmp_path / "run", phases))
    assert sentence in str(refused.value)
    assert not (tmp_path / "run").exists()
