"""Files that are whole or not there, JSON, and one sentence where the disk refuses a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.errors import UserError

GO_ON = "The checkpoints are kept: make room or give rights, and start the same command again."


def write_whole(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that nobody ever sees half of it."""
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text)
    rename_on_disk(aside, path)


def rename_on_disk(aside: Path, path: Path) -> None:
    """Renames a file, or a folder of files, that is on the disk by then, as is the name after."""
    for written in (*(aside.iterdir() if aside.is_dir() else ()), aside):
        _to_disk(written)
    aside.rename(path)
    _to_disk(path.parent)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file; it is on the disk then."""
    with path.open("a") as file:
        file.write(f"{line}\n")
    _to_disk(path)


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON, which has no NaN and no infinity: null."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return json.dumps(plain, indent=indent)


def json_lines(text: str) -> list[Any]:
    """Of a file whose last line a kill may have cut; ValueError says which other is damaged."""
    texts, lines = text.splitlines(), []
    for number, line in enumerate(texts, start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            if number < len(texts):
                raise ValueError(f"is damaged at line {number}") from error
    return lines


@contextlib.contextmanager
def whole_file(path: Path, sentence: str, advice: str = "") -> Iterator[Path]:
    """Where to write a file that gets its name when it is whole, and goes if it is not.

    Raises:
        UserError: As `disk_errors`.
    """
    aside = path.with_name(f".writing-{path.name}")
    with disk_errors(sentence, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            rename_on_disk(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(
    sentence: str, advice: str = "", kinds: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[None]:
    """A context in which errors of the file system become `sentence: reason. advice`."""
    try:
        yield
    except kinds as error:
        raise UserError(f"{sentence}: {reason_of(error)}. {advice}".strip()) from error


def reason_of(error: Exception) -> str:
    """Why a file cannot be read or written, in the system's words, by TensorFlow's errors too."""
    # '{{function_node ...}} /path/of/a/file; No space left on device [Op:SaveV2]'
    of_tensorflow = re.search(r"; ([^;\n]+?)(?:\n.*)? \[Op:", str(error), re.DOTALL)
    return getattr(error, "strerror", None) or (of_tensorflow[1] if of_tensorflow else str(error))


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
