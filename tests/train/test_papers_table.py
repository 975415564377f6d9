"""docs/papers.md: every cell with a configuration or the reason why there is none."""

import re
from pathlib import Path

import pytest

from tests.train.test_papers import CONFIGS

TABLE = (Path(__file__).parents[2] / "docs" / "papers.md").read_text()
CELLS = re.sub(r"^### .*?(?=^## )", "", TABLE, flags=re.MULTILINE | re.DOTALL)  # but for details
ROWS = [line.strip("| ").split(" | ") for line in CELLS.splitlines() if line.startswith("| ")]
IDS = [
    *(f"X{n}" for n in range(1, 14)),
    *(f"A{n}" for n in range(1, 22)),
    *(f"K{n}" for n in range(1, 17)),
    *("T1", "T2", "T3"),
]


def ids_of(text: str) -> set[str]:
    """`A6 to A10` and `A11, A12` are several."""
    found = set(re.findall(r"\b[XAKT]\d+\b", text))
    for first, last in re.findall(r"\b[XAKT](\d+) to [XAKT](\d+)\b", text):
        found |= {f"{text[0]}{n}" for n in range(int(first), int(last) + 1)}
    return found


def test_every_id_has_a_row_with_all_its_cells() -> None:
    named = set().union(*(ids_of(row[0]) for row in ROWS))
    assert named == set(IDS)
    for row in ROWS:
        assert len(row) in (3, 5)  # of no paper; of a paper
        assert all(cell.strip() for cell in row[:3] if row[0] not in ("K16",))
        assert "@" not in " ".join(row)


FOLDERS = re.findall(r"config `(\w+)/`", TABLE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_configurations_are_there_and_in_the_table(folder: str) -> None:
    section = TABLE.split(f"config `{folder}/`")[1].split("\n## ")[0]
    files = {file.stem for file in (CONFIGS / folder).glob("*.yaml")}
    base = {stem for stem in files if re.match("small|figure", stem)}
    base |= {stem for stem in files if any(other.startswith(f"{stem}_") for other in files)}
    named: set[str] = set()
    for words in re.findall(r"`([a-z][\w*]*)`", section):
        pattern = re.compile(words.replace("*", r"\w*") + "$")
        named |= {stem for stem in files if pattern.match(stem)}
        if words.startswith(("imagenet", "cifar", "mnist", "coco")):
            assert any(pattern.match(stem) for stem in files), words
    assert files - base - named == set()
