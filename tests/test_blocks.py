"""The code blocks of the README and of all pages run, or at least parse, as they stand."""

import functools
import importlib.util
import os
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

import tfweightmirror as tfwm
from tests.pages import DOCS, PAGES, README, ROOT, TUTORIALS, blocks, name_of, with_blocks
from tfweightmirror.diagnostics import angle_deg

KINDS = ("python", "sh", "yaml", "text", "output", "bibtex")
OUTSIDE = DOCS / "own_parts.md"  # tests/train/test_outside.py runs it as a folder of its own
Names = dict[str, Any]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Names]:
    """What is left when a page's Python blocks have run, one after the other, in a new folder."""

    @functools.cache
    def run(page: str) -> Names:
        before = Path.cwd()
        os.chdir(tmp_path_factory.mktemp("page"))
        names: Names = {"__name__": "page"}
        try:
            keras.utils.set_random_seed(0)
            for line, code in blocks(ROOT / page, "python"):
                # Empty lines before the code, so that a traceback names the page's own line.
                exec(compile("\n" * (line - 1) + code, page, "exec"), names)
        finally:
            os.chdir(before)
        return names

    return run


@pytest.mark.parametrize(
    "page", [name_of(page) for page in with_blocks("python") if page.parent != TUTORIALS]
)
def test_python_of_a_page_runs(names: Callable[[str], Names], page: str) -> None:
    assert names(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences) <= {*KINDS, ""}, "a fence is ``` and one of these words"
    assert sum(len(blocks(page, kind)) for kind in KINDS) == len(fences) / 2


@pytest.mark.parametrize("page", [p for p in with_blocks("yaml") if p != OUTSIDE], ids=name_of)
def test_yaml_blocks_are_configurations(page: Path) -> None:
    from train.config import FitConfig
    from train.parsing.config_file import built, flatten
    from train.parsing.yaml_file import load_yaml

    for _, text in blocks(page, "yaml"):
        config = built(flatten(load_yaml(text), source=page.name))
        assert config != FitConfig()


def test_the_ten_lines_leave_an_exact_mirror_and_a_plain_model(
    names: Callable[[str], Names],
) -> None:
    model = names("README.md")["model"]
    assert [type(layer) for layer in model.layers] == [
        keras.layers.Conv2D,
        keras.layers.Flatten,
        keras.layers.Dense,
    ]


def test_kolen_pollack_gap_is_as_predicted(names: Callable[[str], Names]) -> None:
    history = names("docs/guides/kolen_pollack.md")["history"].history
    assert history["feedback_gap"] == pytest.approx(history["feedback_gap_predicted"], rel=1e-3)


def test_feedback_learns_what_stands_behind_the_response(names: Callable[[str], Names]) -> None:
    # The block asserts that B learnt the chip's map; here, that this is not W's.
    left = names("docs/guides/mirror_mode.md")
    pathway, learnt = left["pathway"], left["learnt"]
    assert float(angle_deg(learnt, pathway.as_matrices(pathway.kernel))) > 30.0


def test_a_noise_of_your_own_meets_its_target_angle(names: Callable[[str], Names]) -> None:
    noise = names("docs/guides/extend.md")["Sparse"](samples=20_000, decay=1.0)
    layer = tfwm.layers.FeedbackDense(100)
    layer.build((None, 100))
    angles = tfwm.mirror_model(keras.Sequential([layer]), noise)
    assert angles.popitem()[1] == pytest.approx(noise.angle_law_deg(100, 20_000), rel=0.05)


def test_a_layer_and_a_rule_of_your_own_carry_the_error(names: Callable[[str], Names]) -> None:
    left = names("docs/guides/extend.md")
    rule = left["OneBitFeedback"](gain=0.5)
    layer = left["GatedDense"](3, rule=rule)
    layer.build((None, 5))
    (pathway,) = layer.pathways
    feedback = pathway.feedback_kernel.numpy()
    assert pathway.backward_kernel().numpy() == pytest.approx(
        0.5 * abs(feedback).mean() * (2 * (feedback > 0) - 1)
    )


def test_table_of_rules_is_that_of_the_library() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`[^|]*` |)\|", README.read_text(), re.MULTILINE)
    found = {name: tuple(re.findall(r"`(\w+)`", aliases)) for name, aliases in rows}
    assert found == {rule.name: rule.aliases for rule in tfwm.rules.RULES}


@pytest.mark.parametrize("page", [p for p in with_blocks("sh") if p != OUTSIDE], ids=name_of)
def test_shell_blocks_name_targets_extras_and_options_that_exist(
    page: Path, tmp_path: Path
) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    targets = re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in "".join(code for _, code in blocks(page, "sh")).splitlines():
        match shlex.split(line, comments=True):
            case ["make", *named]:
                assert set(named) <= set(" ".join(targets).split())
            case ["pip", "install", what]:
                wanted = what.removeprefix(".").strip("[]")
                assert set(wanted.split(",") if wanted else ()) <= set(extras)
            case ["python", "-m", "train", "list", *_]:
                pass  # tests/train/test_commands.py
            case ["python", "-m", "train", "report" | "compare" | "angles" | "export", *_] as words:
                from train.parsing.command_line import read_command

                assert read_command(words[3:]).name == words[3]
            case [
                "python", "-m", "train.local_cluster", "--workers", "2", "--", *arguments,
            ] | ["python", "-m", "train", *arguments]:  # fmt: skip
                from train.config import FitConfig
                from train.parsing.command_line import read_command

                if arguments[0] == "evaluate":
                    (tmp_path / "config.yaml").write_text("seed: 1\n")
                    arguments[1] = str(tmp_path)
                read = read_command(
                    [str(ROOT / a) if a.startswith("configs/") else a for a in arguments]
                )
                epochs = re.search(r"--training\.epochs=(\d+)", line)
                assert read.only_print or read.config != FitConfig()
                assert not epochs or read.config.training.epochs == int(epochs[1])
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module)
            case []:
                pass
            case command:
                pytest.fail(f"no test knows what to do with {command}")
