"""The tutorials run from end to end, with what they assert, and their pages are theirs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, TUTORIALS

SOURCES = sorted(TUTORIALS.glob("*.py"))
every_tutorial = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.mark.slow
@pytest.mark.always
@every_tutorial
def test_tutorial_holds_what_it_asserts(source: Path, tmp_path: Path) -> None:
    assert len(re.findall(r"^ *assert ", source.read_text(), re.MULTILINE)) >= 5
    done = subprocess.run(
        [sys.executable, "-m", f"docs.tutorials.{source.stem}"],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "agg", "TFDS_DATA_DIR": str(tmp_path)},  # no CIFAR-10
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@every_tutorial
def test_page_is_of_its_source(source: Path) -> None:
    """A page of an older source would show what the code no longer says: `make tutorials`."""
    page, place = source.with_suffix(".md").read_text(), 0
    _, *cells = re.split(r"^# %%", source.read_text(), flags=re.MULTILINE)
    for cell in cells:
        kind, _, text = cell.partition("\n")
        if kind == " [markdown]":
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        found = page.find(text.strip(), place)
        assert found >= 0, f"{source.stem}.md lacks, or has at another place: {text}"
        place = found
    assert len(re.findall(r"^```python$", page, re.MULTILINE)) == sum(
        not cell.startswith(" [markdown]") for cell in cells
    )


def test_every_tutorial_is_in_the_list() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (TUTORIALS / "index.md").read_text())
    assert sorted(listed) == [source.stem for source in SOURCES]
