"""The pages that people read, README, CONTRIBUTING, CHANGELOG and docs/, and what is on them."""

import re
from pathlib import Path

from tools.site_hooks import anchor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
TUTORIALS = DOCS / "tutorials"  # tests/tutorials/ runs them
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """Where a page stands in the repository."""
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, on GitHub and on the site."""
    return [anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line of the page, code) of every block of a language."""
    text = page.read_text()
    return [
        (text[: match.start("code")].count("\n") + 1, match["code"])
        for match in FENCED.finditer(text)
        if match["language"] == language
    ]


def with_blocks(language: str) -> list[Path]:
    """The pages that have blocks of a language."""
    return [page for page in PAGES if blocks(page, language)]
