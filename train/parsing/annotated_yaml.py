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


def explanations(config_class: type) -> dict[str, str]:
    """Field to what the class' docstring says of it under `Args`."""
    text = inspect.getdoc(config_class) or ""
    arguments = text.partition("Args:\n")[2]
    entries = re.split(r"^    (\w+): ", arguments, flags=re.MULTILINE)[1:]
    pairs = zip(entries[::2], entries[1::2], strict=True)
    # A word that the docstring breaks at a hyphen, such as a path, is joined again.
    return {name: re.sub(r"(?<=-) ", "", " ".join(words.split())) for name, words in pairs}


def _lines(config: Any, *, indent: str) -> list[str]:
    lines: list[str] = []
    told = explanations(type(config))
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
