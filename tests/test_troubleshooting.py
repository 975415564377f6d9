"""docs/guides/troubleshooting.md quotes messages that the code has."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.pages import DOCS, ROOT, blocks

PAGE = DOCS / "guides" / "troubleshooting.md"
MESSAGES = [" ".join(text.split()) for _, text in blocks(PAGE, "output")]


def texts() -> Iterator[str]:
    """All texts of the library and the launcher, with `{}` for what is put in."""
    for folder in ("tfweightmirror", "train"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "{}"
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


@pytest.fixture(scope="module")
def said() -> str:
    """The texts, a line each."""
    return "\n".join(" ".join(text.split()) for text in texts())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:50])
def test_a_message_is_one_of_the_code(said: str, message: str) -> None:
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    assert max(map(len, parts)) > 12
    assert re.search(".*".join(parts), said), message


def test_every_entry_has_a_message() -> None:
    entries = re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert all("```output\n" in entry for entry in entries)
