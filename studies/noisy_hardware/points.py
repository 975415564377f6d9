"""Measured points in a JSON-lines file, each measured once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Points:
    """A file whose lines are settings and what was measured under them.

    A line is written when its point is measured, so a run may be stopped at any time; what a kill
    left of a half-written line is cut off.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            file.write_text(whole)
        self.lines: list[Line] = [json.loads(line) for line in whole.splitlines()]
        self._known = {_key(line["settings"]): line for line in self.lines}

    def get(self, settings: Line, measure: Callable[[], Line]) -> Line:
        """The line of `settings`: known, or measured now."""
        line = self._known.get(_key(settings))
        if line is None:
            line = {"settings": settings, **measure()}
            with self._file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.lines.append(line)
            self._known[_key(settings)] = line
            print(f"{len(self.lines):5d}  {self._file.stem}  {_shown(settings)}", flush=True)
        return line


def _key(settings: Line) -> str:
    return json.dumps(settings, sort_keys=True)


def _shown(settings: Line) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
