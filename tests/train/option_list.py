"""Writes option_list.txt, every option of `fit`: `python -m tests.train.option_list`."""

from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.parsing.config_file import dotted_names, type_name

FILE = Path(__file__).with_name("option_list.txt")


def text() -> str:
    """A line an option: dotted key, type, default."""
    lines = [
        f"{name}: {type_name(hint)} = {_default(name)!r}\n" for name, hint in dotted_names().items()
    ]
    return "".join(lines)


def _default(name: str) -> Any:
    value: Any = FitConfig()
    for key in name.split("."):
        value = getattr(value, key)
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    FILE.write_text(text())
