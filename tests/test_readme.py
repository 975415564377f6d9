"""The README's code blocks run, or at least parse, as they stand."""

import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import keras
import pytest

import tfweightmirror as tfwm
from tfweightmirror.diagnostics import angle_deg

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[int, str]]:
    """(line of the README, code) of every block of a language."""
    text = README.read_text()
    return [
        (text[: match.start("code")].count("\n") + 1, match["code"])
        for match in BLOCK.finditer(text)
        if match["language"] == language
    ]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is left when all Python blocks have run, one after the other, in a new folder."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("readme"))
    names: dict[str, Any] = {"__name__": "readme"}
    try:
        keras.utils.set_random_seed(0)
        for line, code in blocks("python"):
            # Empty lines before the code, so that a traceback names the README's own line.
            exec(compile("\n" * (line - 1) + code, str(README), "exec"), names)
    finally:
        os.chdir(before)
    return names


def test_every_block_is_python_shell_or_a_configuration() -> None:
    fences = re.findall(r"^```(\w*)$", README.read_text(), re.MULTILINE)
    kinds = ("python", "sh", "yaml")
    assert set(fences) == {*kinds, ""}
    assert sum(len(blocks(kind)) for kind in kinds) == len(fences) / 2


def test_yaml_blocks_are_configurations() -> None:
    from train.config import FitConfig
    from train.parsing.config_file import built, flatten
    from train.parsing.yaml_file import load_yaml

    for _, text in blocks("yaml"):
        config = built(flatten(load_yaml(text), source="README"))
        assert config != FitConfig()


@pytest.mark.slow
@pytest.mark.always
def test_kolen_pollack_gap_is_as_predicted(names: dict[str, Any]) -> None:
    history = names["history"].history
    assert history["feedback_gap"] == pytest.approx(history["feedback_gap_predicted"], rel=1e-3)


def test_feedback_learns_what_stands_behind_the_response(names: dict[str, Any]) -> None:
    # The block asserts that B learnt the chip's map; here, that this is not W's.
    pathway, learnt = names["pathway"], names["learnt"]
    assert float(angle_deg(learnt, pathway.as_matrices(pathway.kernel))) > 30.0


def test_a_noise_of_your_own_meets_its_target_angle(names: dict[str, Any]) -> None:
    noise = names["Sparse"](samples=20_000, decay=1.0)
    layer = tfwm.layers.FeedbackDense(100)
    layer.build((None, 100))
    angles = tfwm.mirror_model(keras.Sequential([layer]), noise)
    assert angles.popitem()[1] == pytest.approx(noise.angle_law_deg(100, 20_000), rel=0.05)


def test_a_layer_and_a_rule_of_your_own_carry_the_error(names: dict[str, Any]) -> None:
    rule = names["OneBitFeedback"](gain=0.5)
    layer = names["GatedDense"](3, rule=rule)
    layer.build((None, 5))
    (pathway,) = layer.pathways
    feedback = pathway.feedback_kernel.numpy()
    assert pathway.backward_kernel().numpy() == pytest.approx(
        0.5 * abs(feedback).mean() * (2 * (feedback > 0) - 1)
    )


def test_table_of_rules_is_that_of_the_library() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`[^|]*`) \|", README.read_text(), re.MULTILINE)
    found = {name: tuple(re.findall(r"`(\w+)`", aliases)) for name, aliases in rows}
    assert found == {rule.name: rule.aliases for rule in tfwm.rules.RULES}


def test_shell_blocks_name_targets_extras_and_options_that_exist() -> None:
    commands = [
        shlex.split(line, comments=True) for _, code in blocks("sh") for line in code.splitlines()
    ]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    targets = re.findall(r"^([\w ]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands:
        match command:
            case ["make", target]:
                assert target in " ".join(targets).split()
            case ["pip", "install", what]:
                named = what.removeprefix(".").strip("[]")
                assert set(named.split(",") if named else ()) <= set(extras)
            case ["python", "-m", "train", "list", *_]:
                pass  # tests/train/test_commands.py
            case ["python", "-m", "train", "report" | "compare" | "angles", *_]:
                from train.parsing.command_line import read_command

                assert read_command(command[3:]).name == command[3]
            case [
                "python", "-m", "train.local_cluster", "--workers", "2", "--", *arguments,
            ] | ["python", "-m", "train", *arguments]:  # fmt: skip
                from train.parsing.command_line import read_command

                read = read_command(
                    [str(ROOT / a) if a.startswith("configs/") else a for a in arguments]
                )
                assert read.only_print or read.config.training.epochs == 5
            case _:
                pytest.fail(f"no test knows what to do with {command}")
