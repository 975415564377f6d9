"""YAML files as people mean them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from train.errors import UserError


def to_yaml(config: Any) -> str:
    """Every value of a configuration, as a file that `read_config_file` reads back."""
    return yaml.safe_dump(plain(config), sort_keys=False, default_flow_style=None, width=100)


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number, as people mean it, and refuses a key that comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} comes twice", problem_mark=mark
                )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:float"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?"
        r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    """What a YAML text holds."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path, named_by: Path | None = None) -> dict[str, Any]:
    """The table that a file holds.

    Raises:
        UserError: If it cannot be read, or holds no table.
    """
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
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {tree!r}. Expected a table of keys and values.")
    return tree


def plain(value: Any) -> Any:
    """Tables for dataclasses and lists for tuples, down to the leaves."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value
