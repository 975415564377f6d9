"""A report as a list of parts, and the parts as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

from train.report.tables import Table

STYLE = """
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-size: 90% }
td, th { border: 1px solid #bbb; padding: 0.25em 0.6em; text-align: left; vertical-align: top }
img { max-width: 100% }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's own."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file in the report's folder."""

    file: str
    text: str


Part = Heading | Picture | str | Table
"""A text stands for a paragraph."""


def to_markdown(parts: Sequence[Part]) -> str:
    """GitHub's Markdown; pictures are links to files beside it."""
    return "\n\n".join(map(_markdown, parts)) + "\n"


def to_html(parts: Sequence[Part], folder: Path) -> str:
    """One file that needs no other: pictures are inside."""
    title = next(part.text for part in parts if isinstance(part, Heading))
    body = "\n".join(_html(part, folder) for part in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def to_text(table: Table) -> str:
    """Columns for the terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _markdown(part: Part) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {part.text}"
    if isinstance(part, Picture):
        return f"![{part.text}]({part.file})\n\n*{part.text}*"
    if isinstance(part, str):
        return part
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in part]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _html(part: Part, folder: Path) -> str:
    if isinstance(part, Heading):
        return f"<h{part.level}>{html.escape(part.text)}</h{part.level}>"
    if isinstance(part, Picture):
        inside = base64.b64encode((folder / part.file).read_bytes()).decode()
        text = html.escape(part.text)
        return (
            f'<figure><img alt="{text}" src="data:image/png;base64,{inside}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    rows = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th", *["td"] * len(part)], part, strict=False)
    ]
    return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"
