"""The documentation names only what exists: files, headings, code, sources."""

import re
from pathlib import Path
from typing import Any

import pytest

import tfweightmirror as tfwm
from train.parts import models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FOLDERS = ("tfweightmirror", "train", "tests", "configs", "benchmarks", "studies", "docs", ".ci")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


def code_spans(page: Path) -> list[str]:
    """What stands between single backquotes."""
    return re.findall(r"`([^`\n]+)`", prose(page))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {path}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    for span in code_spans(page):
        word = span.split(" ")[0]
        word, _, test = word.partition("::")
        if re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./-]*", word):
            assert (ROOT / word).exists(), f"{page.name} names {word}"
            if test:
                assert f"def {test}(" in (ROOT / word).read_text(), f"{page.name} names {test}"
        elif re.fullmatch(r"[\w/]+\.py", word):
            assert (ROOT / "tfweightmirror" / word).exists(), f"{page.name} names {word}"


@every_page
def test_public_names_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"\btfwm((?:\.\w+)+)", page.read_text()):
        found: Any = tfwm
        for part in name[1:].split("."):
            assert hasattr(found, part), f"{page.name} names tfwm{name}"
            found = getattr(found, part)


def test_public_names_of_the_house_are_all_documented() -> None:
    pages = "".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    undocumented = [name for name in tfwm.__all__ if not re.search(rf"\b{name}\b", pages)]
    assert undocumented == []


def test_the_house_is_drawn_as_it_is() -> None:
    drawing = re.search(r"^tfweightmirror/ .*?^train/", _architecture(), re.MULTILINE | re.DOTALL)
    assert drawing is not None
    drawn = set(re.findall(r"(\w+\.py)", drawing[0]))
    package = Path(tfwm.__file__).parent
    there = {file.name for file in package.rglob("*.py")}
    assert drawn == there


def test_contracts_are_numbered_from_1_to_15() -> None:
    numbers = re.findall(r"^\*\*(\d+)\. ", _architecture(), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 16)]


def test_sources_have_an_entry_each_and_no_entry_is_idle() -> None:
    science = (ROOT / "docs" / "science.md").read_text()
    keys = re.findall(r"^@\w+\{(\w+),$", science, re.MULTILINE)
    assert len(keys) == len(set(keys))
    text = " ".join((prose(ROOT / "docs" / "science.md") + prose(ROOT / "README.md")).split())
    cited = {
        name.lower() + year
        for name, year in re.findall(r"(\w+)(?: et al\.| and \w+)?,? ((?:19|20)\d\d)\b", text)
    }
    idle = [key for key in keys if key[-1].isdigit() and key not in cited]
    assert idle == []
    named = {key.rstrip("0123456789") for key in keys}
    missing = {re.sub(r"\d+$", "", c) for c in cited if c[:-4] in named and c not in keys}
    assert missing == set()


def test_firings_of_a_sweep_are_those_that_the_code_counts() -> None:
    model = models.resnet18((64, 64, 3), (10,), stem="imagenet")
    tfwm.convert_model(model, "weight_mirror")
    fired = tfwm.callbacks.WeightMirror().samples_per_step(model)
    needed = sum(fired[p.name] for p in tfwm.pathways(model) if p.sends_error_back)
    text = " ".join((ROOT / "docs" / "science.md").read_text().split())
    for number in (sum(fired.values()), needed, max(fired.values())):
        assert f"{number:,}" in text
    assert f"fires {sum(fired.values()):,} cells one pathway after another" in text


def test_python_of_the_documentation_runs() -> None:
    for page in PAGES[1:]:
        for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
            exec(compile(code, str(page), "exec"), {})


def test_docstrings_refer_to_headings_that_exist() -> None:
    found = 0
    for module in (*(ROOT / "tfweightmirror").rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        text = re.sub(r"\s+", " ", module.read_text())
        for file, heading in re.findall(r"(README|docs/\w+)(?:\.md)?, \"([^\"]+)\"", text):
            page = ROOT / f"{file}.md"
            assert heading.lower().replace(" ", "-") in anchors(page), f"{module}: {heading}"
            found += 1
    assert found >= 4


def _architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text()
