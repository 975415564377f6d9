"""A report as a list of parts, and the parts as Markdown, as one HTML file, and as text."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd

STYLE = """
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-size: 90% }
td, th { border: 1px solid #bbb; padding: 0.25em 0.6em; text-align: left; vertical-align: top }
img { max-width: 100% }
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file in the report's folder."""

    file: str
    text: str


Part: TypeAlias = str | pd.DataFrame | Picture
"""A text is a paragraph, or after `#`, `##`, `###` a heading."""


def to_markdown(parts: Sequence[Part]) -> str:
    """GitHub's Markdown; pictures are links to files beside it."""
    return "\n\n".join(map(_markdown, parts)) + "\n"


def to_html(parts: Sequence[Part], folder: Path) -> str:
    """One file that needs no other: pictures are inside."""
    body = "\n".join(_html(part, folder) for part in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Report on runs</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def to_text(table: pd.DataFrame) -> str:
    """Columns for the terminal."""
    options = {"tablefmt": "simple", "disable_numparse": True, "maxcolwidths": 36}
    return table.to_markdown(index=False, **options)


def _markdown(part: Part) -> str:
    if isinstance(part, Picture):
        return f"![{part.text}]({part.file})\n\n*{part.text}*"
    if isinstance(part, str):
        return part
    escaped = part.map(lambda cell: cell.replace("|", "\\|"))
    return escaped.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def _html(part: Part, folder: Path) -> str:
    if isinstance(part, Picture):
        inside = base64.b64encode((folder / part.file).read_bytes()).decode()
        text = html.escape(part.text)
        return (
            f'<figure><img alt="{text}" src="data:image/png;base64,{inside}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    if isinstance(part, str):
        hashes, _, heading = part.partition(" ")
        tag, text = (f"h{len(hashes)}", heading) if set(hashes) == {"#"} else ("p", part)
        return f"<{tag}>{html.escape(text)}</{tag}>"
    return part.to_html(index=False, border=0)
