"""YAML as people mean it, and configurations as YAML."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from train.errors import UserError

WIDTH = 100


def to_yaml(config: Any) -> str:
    """Every value of a configuration, as a file that `read_config_file` reads back."""
    return yaml.safe_dump(plain(config), sort_keys=False, default_flow_style=None, width=WIDTH)


def to_annotated_yaml(config: Any) -> str:
    """The same, above every key what the dataclasses' docstrings say of it."""
    return "\n".join(_annotated(config, indent="")) + "\n"


def one_line(value: Any) -> str:
    """A value in YAML, in one line."""
    # A scalar at the top of a document ends in a line of three dots.
    text = yaml.safe_dump(plain(value), default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def explanations(described: Any) -> dict[str, str]:
    """Argument to what a docstring says of it under `Args`, in one line."""
    text = inspect.getdoc(described) or ""
    arguments = re.split(r"^Args[^\n]*:\n", text, flags=re.MULTILINE)[1:]
    entries = re.split(r"^    (\w+): ", arguments[0], flags=re.MULTILINE) if arguments else []
    pairs = zip(entries[1::2], entries[2::2], strict=True)
    return {name: " ".join(words.split()) for name, words in pairs}


def _annotated(config: Any, *, indent: str) -> Iterator[str]:
    told = explanations(type(config))
    for key, value in vars(config).items():
        # A word that the docstring breaks at a hyphen, such as a path, is joined again.
        said = told.get(key) or str(type(value).__doc__).partition("\n")[0]  # of a whole table
        words, begin = re.sub(r"(?<=-) ", "", said), f"{indent}# "
        yield from textwrap.wrap(
            words, WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False
        )
        if dataclasses.is_dataclass(value):
            yield f"{indent}{key}:"
            yield from _annotated(value, indent=f"{indent}  ")
        else:
            yield f"{indent}{key}: {one_line(value)}"


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number, as people mean it, and refuses a key that comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} comes twice",
                    problem_mark=node.value[place][0].start_mark,
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?)$"),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    """What a YAML text holds."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path, named_by: Path | None = None) -> dict[str, Any]:
    """The table that a file holds, or UserError."""
    where = f", the base of {named_by}," if named_by else ""
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"Configuration file {path}{where} cannot be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8. Expected a YAML file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not YAML{line}: {getattr(error, 'problem', error)}.") from error
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"{path} holds {tree!r}. Expected a table of keys and values.")
    return tree or {}


def plain(value: Any) -> Any:
    """Tables for dataclasses and lists for tuples, down to the leaves."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value
