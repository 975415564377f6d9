"""A configuration as YAML, above every key what the dataclasses' docstrings say of it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from typing import Any

import yaml

from train.parsing.yaml_file import plain

WIDTH = 100


def to_annotated_yaml(config: Any) -> str:
    """Every value of a configuration with its unit and meaning; `--config` reads it back."""
    return "\n".join(_lines(config, indent="")) + "\n"


def explanations(described: Any) -> dict[str, str]:
    """Argument to what a docstring says of it under `Args`, in one line."""
    text = inspect.getdoc(described) or ""
    arguments = re.split(r"^Args[^\n]*:\n", text, flags=re.MULTILINE)[1:]
    entries = re.split(r"^    (\w+): ", arguments[0], flags=re.MULTILINE) if arguments else []
    pairs = zip(entries[1::2], entries[2::2], strict=True)
    return {name: " ".join(words.split()) for name, words in pairs}


def _lines(config: Any, *, indent: str) -> list[str]:
    lines: list[str] = []
    # A word that the docstring breaks at a hyphen, such as a path, is joined again.
    told = {name: re.sub(r"(?<=-) ", "", s) for name, s in explanations(type(config)).items()}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        prefix = f"{indent}# "
        lines += textwrap.wrap(
            told[field.name],
            WIDTH,
            initial_indent=prefix,
            subsequent_indent=prefix,
            break_on_hyphens=False,
        )
        if dataclasses.is_dataclass(value):
            lines += [f"{indent}{field.name}:", *_lines(value, indent=f"{indent}  ")]
        else:
            lines.append(f"{indent}{field.name}: {_value(value)}")
    return lines


def _value(value: Any) -> str:
    # A scalar at the top of a document ends in a line of three dots.
    text = yaml.safe_dump(plain(value), default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
