"""The documentation names only what exists: files, headings, code, sources."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import tfweightmirror as tfwm
from tests.pages import DOCS, PAGES, README, ROOT, anchors, name_of, prose
from tools.site_hooks import BROUGHT, anchor, site_uri
from train.parts import models

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
ON_SITE = {README, *DOCS.rglob("*.*"), *(file for one in BROUGHT for file in ROOT.glob(one))}
FOLDERS = (
    "tfweightmirror",
    "train",
    "tests",
    "configs",
    "benchmarks",
    "studies",
    "tools",
    "docs",
    ".ci",
)


def code_spans(page: Path) -> list[str]:
    """What stands between single backquotes."""
    return re.findall(r"`([^`\n]+)`", prose(page))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {path}"
        assert not heading or heading in anchors(file), f"{page.name} links to {target}"
        assert file in ON_SITE, f"{page.name} links to {path}, which the site does not have"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name_of)
def test_headings_of_a_page_differ_so_that_anchors_are_stable(page: Path) -> None:
    assert len(anchors(page)) == len(set(anchors(page)))


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [
        uri for section in nav for pages in section.values() for p in pages for uri in p.values()
    ]
    there = [site_uri(name_of(page)) for page in ON_SITE if page.suffix == ".md"]
    assert sorted(listed) == sorted(there)


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= 6000


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


def test_firings_of_a_sweep_are_those_that_the_code_counts() -> None:
    model = models.resnet18((64, 64, 3), (10,), stem="imagenet")
    tfwm.convert_model(model, "weight_mirror")
    fired = tfwm.callbacks.WeightMirror().samples_per_step(model)
    needed = sum(fired[p.name] for p in tfwm.pathways(model) if p.sends_error_back)
    text = " ".join((DOCS / "science.md").read_text().split())
    for number in (sum(fired.values()), needed, max(fired.values())):
        assert f"{number:,}" in text
    assert f"fires {sum(fired.values()):,} cells one pathway after another" in text


def test_docstrings_refer_to_headings_that_exist() -> None:
    found = 0
    for module in (*(ROOT / "tfweightmirror").rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        text = re.sub(r"\s+", " ", module.read_text())
        for file, heading in re.findall(r"(README|docs/[\w/]+)(?:\.md)?, \"([^\"]+)\"", text):
            page = ROOT / f"{file}.md"
            assert anchor(heading) in anchors(page), f"{module}: {heading}"
            found += 1
    assert found >= 4


def _architecture() -> str:
    return (DOCS / "architecture.md").read_text()
