"""The tutorials run from end to end, with what they assert, and link to what exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import anchors

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "tutorials"
SOURCES = sorted(FOLDER.glob("*.py"))
every_tutorial = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def run(name: str, data_dir: Path) -> str:
    """What the tutorial prints as a script; data sets are those in `data_dir`."""
    done = subprocess.run(
        [sys.executable, "-m", f"docs.tutorials.{name}"],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "agg", "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.always
@every_tutorial
def test_tutorial_holds_what_it_asserts(source: Path, tmp_path: Path) -> None:
    assert len(re.findall(r"^assert ", source.read_text(), re.MULTILINE)) >= 5
    assert run(source.stem, tmp_path)


@every_tutorial
def test_links_of_a_tutorial_lead_somewhere(source: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", source.read_text())
    assert targets
    for target in targets:
        path, _, anchor = target.partition("#")
        page = FOLDER / path
        # The pages of tutorials are made by `make tutorials`.
        there = page if page.parent.resolve() != FOLDER else page.with_suffix(".py")
        assert there.exists(), target
        assert not anchor or anchor in anchors(page), target


def test_every_tutorial_is_in_the_list() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (FOLDER / "index.md").read_text())
    assert sorted(listed) == [source.stem for source in SOURCES]
