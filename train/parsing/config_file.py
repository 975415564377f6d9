"""Configuration files, which may name a `base`, as flat tables: dotted key to checked value."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.config.old import modern
from train.errors import UserError, did_you_mean
from train.parsing.values import checked
from train.parsing.yaml_file import read_yaml

Flat = dict[str, Any]
DEFAULT = FitConfig()
_hints = functools.cache(typing.get_type_hints)


def config_of(path: Path) -> FitConfig:
    """The configuration that a file describes.

    Raises:
        UserError: If it or a base is not there or not YAML, bases form a circle, a key is not
            known, or a value is of the wrong type or refused.
    """
    return built(read_config_file(path))


def read_config_file(path: Path) -> Flat:
    """What a file and its bases set; raises UserError as `config_of`."""
    return functools.reduce(merged, [layer for _, layer in chain(path)], {})


def chain(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[str, Flat]]:
    """A file and its bases, the last base first, each with the values it sets itself."""
    tree = modern(read_yaml(path, above[-1] if above else None))
    base = tree.pop("base", None)
    own = [(str(path), flatten(tree, source=str(path)))]
    if base is None:
        return own
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}. Expected the path of a YAML file.")
    following, files = path.parent / base, (*above, path)
    if following.resolve() in {file.resolve() for file in files}:
        raise UserError(f"{path}: base {base} leads back to itself.")
    return [*chain(following, files), *own]


def merged(below: Flat, above: Flat) -> Flat:
    """Values `above` change those `below`.

    Tables with free keys (`feedback.layers`, `model.options`) are merged, but options belong to a
    name: where the name changes, those below go.
    """
    values = dict(below)
    for name, value in above.items():
        options = f"{name.removesuffix('.name')}.options"
        if name.endswith(".name") and value != below.get(name, None if options in above else value):
            values.pop(options, None)
    for name, value in above.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return values


def flatten(
    tree: Mapping[str, Any], *, source: str, table: type = FitConfig, prefix: str = ""
) -> Flat:
    """Dotted key to value, in the types of the dataclass; `source` is named in errors."""
    flat: Flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in _hints(table):
            raise UserError(f"{source}: {unknown_key(name, _hints(table), prefix)}")
        hint = _hints(table)[key]
        if not dataclasses.is_dataclass(hint):
            flat[name] = checked(value, hint, name=name, source=source)
            continue
        inside = typing.cast(type, hint)
        keys = _hints(inside)
        # What a text stands for that is given instead of a table.
        alone = "name" if {"name", "options"} <= keys.keys() else "file" if "file" in keys else ""
        if alone and (value is None or isinstance(value, str)):
            value = {alone: value}
        if not isinstance(value, dict):
            expected = f"{f'a {alone}, or ' if alone else ''}a table with the keys"
            raise UserError(
                f"{source}: {name} is {value!r}. Expected {expected} {', '.join(keys)}."
            )
        flat |= flatten(value, source=source, table=inside, prefix=f"{name}.")
    return flat


@functools.cache
def dotted_names(table: type = FitConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted key to type of every value."""
    names: dict[str, Any] = {}
    for key, hint in _hints(table).items():
        inside = dataclasses.is_dataclass(hint)
        names |= dotted_names(hint, f"{prefix}{key}.") if inside else {f"{prefix}{key}": hint}
    return names


def built(flat: Mapping[str, Any], default: Any = DEFAULT, prefix: str = "") -> Any:
    """The configuration, with the values of `flat` and defaults elsewhere.

    Raises:
        UserError: If a value or a table is refused.
    """
    changes: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(type(default), include_extras=True).items():
        name = f"{prefix}{key}"
        if dataclasses.is_dataclass(hint):
            changes[key] = built(flat, getattr(default, key), f"{name}.")
        elif name in flat:
            changes[key] = flat[name]
            for one in (hint, *typing.get_args(hint)):
                for limits in getattr(one, "__metadata__", ()):
                    if flat[name] is not None and not limits.holds(flat[name]):
                        raise UserError(f"{name} {limits.sentence.format(flat[name])}")
    return dataclasses.replace(default, **changes)


def unknown_key(name: str, known: Mapping[str, Any], prefix: str = "") -> str:
    """The sentence about a key that does not exist among those `known` below `prefix`."""
    here = [f"{prefix}{key}" for key in known]
    if near := did_you_mean(name, here):
        return f"{name} is not a known key.{near}"
    # The right key in the wrong table, such as epochs instead of training.epochs.
    for full in dotted_names():
        if full.startswith(prefix) and full.endswith(f".{name.rpartition('.')[2]}"):
            return f"{name} is not a known key. Did you mean {full!r}?"
    return f"{name} is not a known key. Expected one of {', '.join(here)}."
