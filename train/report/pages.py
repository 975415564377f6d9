"""Tables as text, and a page in Markdown as one HTML file."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import markdown
import pandas as pd

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Report on runs</title>
<style>
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-size: 90%% }
td, th { border: 1px solid #bbb; padding: 0.25em 0.6em; text-align: left; vertical-align: top }
img { max-width: 100%% }
</style>
</head>
<body>
%s
</body>
</html>
"""


def to_text(table: pd.DataFrame) -> str:
    """Columns for the terminal."""
    options = {"tablefmt": "simple", "disable_numparse": True, "maxcolwidths": 36}
    return table.to_markdown(index=False, **options)


def to_markdown(table: pd.DataFrame) -> str:
    """GitHub's; what has a meaning there is escaped."""
    escaped = table.map(lambda cell: re.sub(r"([|*`\[])", r"\\\1", cell).replace("<", "&lt;"))
    return escaped.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def to_html(text: str, folder: Path) -> str:
    """A page in Markdown as one file that needs no other: pictures of `folder` are inside."""

    def inside(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = markdown.markdown(text, extensions=["tables"])
    return PAGE % re.sub(r'src="([\w.]+)"', inside, body)
