"""Convolutions that become locally connected at the begin of a phase (Amit 2018, section 4.1)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.train import killing
from tests.train.test_phases import Notes
from tests.train.test_steps import DieAt, KilledError
from tfweightmirror.layers import LocallyConnected2D
from train.commands.trained import load_trained
from train.config import FitConfig, Part
from train.errors import UserError
from train.parsing.command_line import parse
from train.run.fit import fit

# The first keeps its weights; of the second phase on, all but the first is drawn anew.
PHASES: list[dict[str, Any]] = [
    {"training": {"steps": 2}, "optimizer": {"learning_rate": 0.01}},
    {
        "training": {"steps": 2},
        "freeze": ["conv_1"],
        "draw_anew": ["conv_2", "head"],
        "untie": ["conv_2"],
    },
    {"training": {"steps": 2}, "untie": ["conv_1"]},
]


def config_of(directory: Path, phases: list[dict[str, Any]] = PHASES) -> FitConfig:
    return parse(
        [
            "fit",
            "--data.train_split=train[:128]",
            "--data.test_split=test[:50]",
            "--model.options.filters=[3,4]",
            "--model.options.strides=[1,2]",
            "--feedback.rule=urfb",
            "--training.progress=none",
            "--checkpoint.every_steps=1",
            "--training.evaluate_every=2",
            f"--phases={json.dumps(phases)}",
            f"--run_directory={directory}",
        ]
    )[0]


@pytest.mark.slow
@pytest.mark.always
def test_phase_unties_and_a_killed_run_goes_on_in_it_to_the_same_bits(tmp_path: Path) -> None:
    notes = Notes()
    finished = fit(config_of(tmp_path / "whole"), extra_callbacks=[notes])
    tied, untied = notes.ends[0], notes.begins[1]
    for name in ("kernel", "feedback_kernel"):
        # Drawn anew and untied: every position has a filter of its own, as large as before.
        fresh = untied[f"conv_2/{name}"]
        assert fresh.shape == (4, 4, *tied[f"conv_2/{name}"].shape)
        inside = fresh[1:3, 1:3]  # at the borders padding has no synapses
        assert 0.8 < inside.std() / tied[f"conv_2/{name}"].std() < 1.25
        assert abs(np.corrcoef(inside[0, 0].ravel(), inside[1, 1].ravel())[0, 1]) < 0.4
        trained = notes.ends[1][f"conv_2/{name}"]
        assert not np.array_equal(trained, fresh)
        # The first is kept, frozen, and untied a phase later; its positions then learn apart.
        np.testing.assert_array_equal(notes.ends[1][f"conv_1/{name}"], tied[f"conv_1/{name}"])
        copies = notes.begins[2][f"conv_1/{name}"]
        np.testing.assert_array_equal(copies[3, 5], tied[f"conv_1/{name}"])
        np.testing.assert_array_equal(notes.begins[2][f"conv_2/{name}"], trained)
        learnt = notes.ends[2][f"conv_1/{name}"][1:-1, 1:-1]
        assert np.ptp(learnt, axis=(0, 1)).max() > 0
    kinds = [p.layer for p in tfwm.pathways(finished.model)]
    assert [isinstance(layer, LocallyConnected2D) for layer in kinds] == [True, True, False]
    config = config_of(tmp_path / "run")
    for batch in (1, 3):
        with pytest.raises(KilledError):
            fit(config, extra_callbacks=[DieAt(batch=batch)])
    fit(config)
    killing.assert_same_lines_and_bits(tmp_path / "whole", tmp_path / "run")
    _, model = load_trained(str(tmp_path / "run"))
    assert model.get_layer("conv_1").kernel.shape == (8, 8, 3, 3, 1, 3)


def test_untied_layers_that_are_drawn_anew_are_masked(tmp_path: Path) -> None:
    """In the phase that unties them, and in one after it."""
    tied, untied = PHASES[0], {"training": {"steps": 1}, "draw_anew": ["conv_2"]}
    phases = [tied, untied | {"untie": ["conv_2"]}, untied | {"draw_anew": ["conv_*"]}]
    config = dataclasses.replace(
        config_of(tmp_path / "run", phases), constraints={"conv_2": Part("sparse")}
    )
    notes = Notes()
    fit(config, extra_callbacks=[notes])
    for name in ("kernel", "feedback_kernel"):
        for number in (1, 2):
            fresh = notes.begins[number][f"conv_2/{name}"]
            inside = fresh[1:3, 1:3]  # at the borders padding has no synapses
            exists = inside[0, 0] != 0
            assert exists.mean() == 0.5
            np.testing.assert_array_equal(inside != 0, np.broadcast_to(exists, inside.shape))
            assert not np.array_equal(inside[0, 0], inside[1, 1])
            assert not np.array_equal(fresh, notes.ends[number - 1][f"conv_2/{name}"])
            after = notes.ends[number][f"conv_2/{name}"]
            np.testing.assert_array_equal(after[1:3, 1:3][inside == 0], 0)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"untie": ["conv_9"]}, r"phases\[1\]: untie=conv_9: Pattern 'conv_9' .* no layer"),
        ({"untie": ["head"]}, r"phases\[1\]: untie=head: .* no convolution"),
    ],
)
def test_what_cannot_be_untied_is_refused_before_training(
    phase: dict[str, Any], message: str, tmp_path: Path
) -> None:
    phases = [{"training": {"steps": 1}}, {"training": {"steps": 1}} | phase]
    with pytest.raises(UserError, match=message):
        fit(config_of(tmp_path / "run", phases))
    assert not list(tmp_path.rglob("metrics.jsonl"))
