"""The bibliography has an entry for each paper that is cited, and none that is idle."""

import re
import tomllib
from typing import Any

import pytest
import yaml
from pybtex.database import parse_file

import tfweightmirror as tfwm
from tests.pages import README, ROOT, prose

ENTRIES = parse_file(str(ROOT / "docs" / "references.bib"), bib_format="bibtex").entries


def cited(text: str) -> set[str]:
    """The keys of the papers that `text` names, such as akrout2019."""
    found = re.findall(
        r"([A-Z]\w+)(?: et al\.| and [A-Z]\w+)?,? ((?:19|20)\d\d)\b", " ".join(text.split())
    )
    return {name.lower() + year for name, year in found}


@pytest.fixture(scope="module")
def by_the_documentation() -> set[str]:
    return cited(prose(ROOT / "docs" / "science.md") + prose(README))


def test_keys_are_the_first_author_and_the_year_if_there_is_one() -> None:
    assert len(ENTRIES) > 20
    for key, entry in ENTRIES.items():
        family = entry.persons["author"][0].last_names[-1].replace(r"\o", "o")
        assert key.startswith(re.sub(r"\W", "", family).lower()), key
        assert key[-4:].isdecimal() or key in ("khandwala", "bhatnagar"), key
        assert "title" in entry.fields or key == "zipser1990", key


def test_no_entry_is_idle(by_the_documentation: set[str]) -> None:
    dated = {key for key in ENTRIES if key[-1].isdecimal()}
    assert dated - by_the_documentation == set()


def test_other_years_of_a_cited_author_have_entries_too(by_the_documentation: set[str]) -> None:
    authors = {key.rstrip("0123456789") for key in ENTRIES}
    assert {key for key in by_the_documentation if key[:-4] in authors} - set(ENTRIES) == set()


def test_papers_of_the_rules_have_entries() -> None:
    found: set[str] = set()
    for module in (ROOT / "tfweightmirror" / "rules").glob("*.py"):
        found |= cited(module.read_text())
    assert found >= {"lillicrap2016", "akrout2019", "kolen1994", "amit2019", "li2024"}
    assert found - set(ENTRIES) == set()


def test_every_rule_names_its_paper() -> None:
    for rule in tfwm.rules.RULES:
        of_no_paper = rule.name in ("backprop", "no_feedback")
        assert of_no_paper or cited(rule.__doc__ or "") & set(ENTRIES), rule.name


def test_version_is_one() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[(\d[\d.]*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert {project["version"], citation["version"], newest[1]} == {tfwm.__version__}
    assert str(citation["date-released"]) == newest[2]
