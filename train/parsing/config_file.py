"""Configuration files, which may name a `base`, as flat tables: dotted key to checked value."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import jsonargparse

from train.config import FitConfig
from train.config.old import modern
from train.config.part import Part
from train.errors import UserError, did_you_mean, see
from train.parsing.yaml_file import load_yaml, read_yaml

Flat = dict[str, Any]
DEFAULT = FitConfig()
_hints = functools.cache(typing.get_type_hints)


def config_of(path: Path) -> FitConfig:
    """The configuration that a file describes, or UserError."""
    return built(read_config_file(path))


def read_config_file(path: Path) -> Flat:
    """What a file and its bases set."""
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
            raise UserError(f"{source}: {_unknown_key(name, _hints(table), prefix)}")
        hint = _hints(table)[key]
        if not dataclasses.is_dataclass(hint):
            flat[name] = checked(value, hint, name=name, source=source)
            continue
        if isinstance(value, Text) and isinstance(read := _read(value), dict):
            value = read  # a table on the command line
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


def config_from(tree: Mapping[str, Any], *, source: str) -> FitConfig:
    """The configuration, old or new, that a run wrote; UserError if there is no such."""
    config: FitConfig = built(flatten(modern(tree), source=source))
    return config


def built(flat: Mapping[str, Any], default: Any = DEFAULT, prefix: str = "") -> Any:
    """The configuration of these values and defaults elsewhere; UserError if one is refused."""
    changes: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(type(default), include_extras=True).items():
        name = f"{prefix}{key}"
        if dataclasses.is_dataclass(hint):
            changes[key] = built(flat, getattr(default, key), f"{name}.")
        elif name in flat:
            changes[key] = flat[name]
            for one in (hint, *get_args(hint)):
                for limits in getattr(one, "__metadata__", ()):
                    if flat[name] is not None and not limits.holds(flat[name]):
                        raise UserError(f"{name} {limits.sentence.format(flat[name])}")
    return dataclasses.replace(default, **changes)


def _unknown_key(name: str, known: Mapping[str, Any], prefix: str = "") -> str:
    """The sentence about a key that does not exist among those `known` below `prefix`."""
    here, last = [f"{prefix}{key}" for key in known], f".{name.rpartition('.')[2]}"
    # The right key in the wrong table, such as epochs instead of training.epochs.
    elsewhere = (k for k in dotted_names() if k.startswith(prefix) and k.endswith(last))
    hint = did_you_mean(name, here) or next(
        (f" Did you mean {key!r}?" for key in elsewhere), f" Expected one of {', '.join(here)}."
    )
    return f"{name} is not a known key.{hint}" + see("an-unknown-key")


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    Any: "a value",
    Part: "a name or a table with name and options",
}


class Text(str):
    """A value of the command line: YAML, unless a text is wanted."""


NO_TEXT = Text("a key without a value")


def checked(value: Any, hint: Any, *, name: str, source: str = "") -> Any:
    """`value` as the type `hint` has it; UserError if it is of another."""
    where = f"{source}: " if source else ""
    if value is NO_TEXT:
        raise UserError(f"{where}{name} has no value. Expected {type_name(hint)}.")
    given, value = value, _read(value, hint)
    for key, one in _nonsense(value, name):
        expected = type_name(hint) if key == name else "a text" if one == one else "a number"
        raise UserError(f"{where}{key} is {one!r}. Expected {expected}.")
    origin, arguments = get_origin(hint), get_args(hint)
    inner = functools.partial(checked, hint=Part, source=source)
    if origin is dict and arguments[1] is Part and isinstance(value, dict):
        return {key: inner(entry, name=f"{name}.{key}") for key, entry in value.items()}
    if origin is tuple and arguments[0] is Part and isinstance(value, list):
        return tuple(inner(entry, name=f"{name}[{i}]") for i, entry in enumerate(value))
    try:
        if hint is Part:
            return _part(value)
        if value is None and hint is not Any and type(None) not in arguments:
            raise TypeError  # jsonargparse takes null for any type
        return _parser(hint).parse_object({"value": value}).value if hint is not Any else value
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise UserError(f"{where}{_wrong_type(name, given, hint)}") from error


def type_name(hint: Any) -> str:
    """A type as a user would say it: `whole number or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin in (tuple, list):
        return f"a list, each entry {type_name(arguments[0])}"
    if origin is dict:
        return f"a table, each value {type_name(arguments[1])}"
    return _NAMES.get(hint, str(hint))


def _read(value: Any, hint: Any = Any) -> Any:
    if isinstance(value, dict):
        return {key: _read(entry) for key, entry in value.items()}
    if not isinstance(value, Text):
        return value
    text = str(value)
    try:
        read = text if hint is str else load_yaml(text)
    except Exception:  # of a YAML parser; a text may hold anything
        return text
    # --data.data_dir=5 names a folder.
    return text if isinstance(read, (int, float)) and hint == (str | None) else read


def _nonsense(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What is NaN, or a text that no file can be called, with its key."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _nonsense(entry, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            yield from _nonsense(entry, f"{name}[{place}]")
    elif (isinstance(value, float) and math.isnan(value)) or "\0" in str(value):
        yield name, value


def _part(value: Any) -> Part:
    """Of a name or a table; raises TypeError."""
    part = Part(**({"name": value} if isinstance(value, str) else value))
    if not isinstance(part.name, str) or not isinstance(part.options, dict):
        raise TypeError
    return part


@functools.cache
def _parser(hint: Any) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _wrong_type(name: str, value: Any, hint: Any) -> str:
    if name == "strategy" and str(value).lower().replace("_", "").startswith(("parameters", "ps")):
        return (
            f"strategy is {value!r}, which is not supported: Keras 3 has no parameter servers "
            f"(keras issue 18624), and feedback weights would meet gradients of other weights. "
            f"Expected {type_name(hint)}."
        )
    near = did_you_mean(str(value), get_args(hint)) if get_origin(hint) is Literal else ""
    return f"{name} is {value!r}. Expected {type_name(hint)}.{near}"
