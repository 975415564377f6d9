"""Configuration files: YAML which may name a `base`, checked key by key against the dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import jsonargparse

from train.config import FitConfig
from train.config.old import modern
from train.config.part import InitFrom, Part
from train.errors import UserError, did_you_mean
from train.parsing.yaml_file import plain, read_yaml


def read_config_file(path: Path, config_class: type) -> dict[str, Any]:
    """Values that a file and the chain of its bases set, by dotted name.

    Args:
        path: A YAML file. Its key `base`, if any, names a file relative to it, whose values it
            changes, as `merged` says.
        config_class: Frozen dataclass that describes the keys.

    Raises:
        UserError: If a file is not there or not YAML, bases form a circle, a key is not known, or
            a value has the wrong type.
    """
    values: dict[str, Any] = {}
    for _, layer in chain(path, config_class):
        values = merged(values, layer)
    return values


def config_of(path: Path) -> FitConfig:
    """The configuration that a file describes.

    Raises:
        UserError: As `read_config_file`; or if a value is refused.
    """
    config: FitConfig = built(FitConfig, read_config_file(path, FitConfig))
    return config


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values `above` change those `below`.

    Tables with free keys (`feedback.layers`, `model.options`) are merged, but options belong to a
    name: where the name changes, those below go.
    """
    values = dict(below)
    for name, value in above.items():
        part, _, last = name.rpartition(".")
        if last == "name" and f"{part}.options" in values and values.get(name, value) != value:
            del values[f"{part}.options"]
        values[name] = value
    for name, value in above.items():
        part = name.removesuffix(".options")
        other = above.get(f"{part}.name", below.get(f"{part}.name")) != below.get(f"{part}.name")
        if isinstance(value, dict) and not (name.endswith(".options") and other):
            values[name] = {**below.get(name, {}), **value}
    return values


def chain(path: Path, config_class: type) -> list[tuple[str, dict[str, Any]]]:
    """A file and its bases, the last base first, each with the values it sets itself."""
    files = [path]
    layers: list[tuple[str, dict[str, Any]]] = []
    while True:
        current = files[-1]
        tree = modern(read_yaml(current, files[-2] if len(files) > 1 else None))
        base = tree.pop("base", None)
        layers.insert(0, (str(current), flatten(tree, config_class, source=str(current))))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise UserError(f"{current}: base is {base!r}. Expected the path of a YAML file.")
        following = current.parent / base
        if following.resolve() in {file.resolve() for file in files}:
            raise UserError(f"{current}: base {base} leads back to itself.")
        files.append(following)


def flatten(
    tree: Mapping[str, Any], config_class: type, *, source: str, prefix: str = ""
) -> dict[str, Any]:
    """Dotted name to value, checked against the dataclass; `source` is named in errors."""
    hints = typing.get_type_hints(config_class)
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise UserError(f"{source}: {unknown_key(name, config_class, prefix)}")
        hint = hints[key]
        if not dataclasses.is_dataclass(hint):
            flat[name] = checked(value, hint, name=name, source=source)
            continue
        keys = typing.get_type_hints(hint).keys()
        # What a text stands for that is given instead of a table.
        alone = "name" if {"name", "options"} <= keys else "file" if hint is InitFrom else ""
        if alone and (isinstance(value, str) or (value is None and hint in (Part, InitFrom))):
            value = {alone: value}
        if not isinstance(value, dict):
            a_name = f"a {alone}, or " if alone else ""
            raise UserError(
                f"{source}: {name} is {value!r}. Expected {a_name}a table with the keys "
                f"{', '.join(keys)}."
            )
        nested = typing.cast(type, hint)
        flat |= flatten(value, nested, source=source, prefix=f"{name}.")
    return flat


def dotted_names(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted name to type of every value below a dataclass."""
    names: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(config_class).items():
        if dataclasses.is_dataclass(hint):
            names |= dotted_names(typing.cast(type, hint), f"{prefix}{key}.")
        else:
            names[f"{prefix}{key}"] = hint
    return names


def built(config_class: type, flat: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass, with the values of `flat` and defaults elsewhere.

    Raises:
        UserError: If a table refuses its values.
    """
    default = config_class()
    changes: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(config_class).items():
        name = f"{prefix}{key}"
        if name in flat:
            changes[key] = flat[name]
        elif dataclasses.is_dataclass(hint):
            inner = {k: v for k, v in flat.items() if k.startswith(f"{name}.")}
            if hint is Part:
                below = getattr(default, key)
                given = merged({"name": below.name, "options": below.options}, _inside(inner, name))
                changes[key] = Part(**given)
            elif inner:
                changes[key] = built(typing.cast(type, hint), inner, f"{name}.")
    return dataclasses.replace(default, **changes)


def _inside(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in flat.items()}


def resolved(tree: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Dotted name to value of a whole configuration under its one spelling, old or new.

    Raises:
        UserError: If a key is not known, or a value has the wrong type or is refused.
    """
    config = built(FitConfig, flatten(modern(tree), FitConfig, source=source))
    return flatten(plain(config), FitConfig, source=source)


def unknown_key(name: str, config_class: type, prefix: str = "") -> str:
    """The sentence about a key that does not exist; `config_class` is what stands at `prefix`."""
    here = {f"{prefix}{key}": key for key in typing.get_type_hints(config_class)}
    if hint := did_you_mean(name, here):
        return f"{name} is not a known key.{hint}"
    # The right key in the wrong table, such as epochs instead of training.epochs.
    last = name.rpartition(".")[2]
    elsewhere = [full for full in dotted_names(config_class, prefix) if full.endswith(f".{last}")]
    if elsewhere:
        return f"{name} is not a known key. Did you mean {elsewhere[0]!r}?"
    return f"{name} is not a known key. Expected one of {', '.join(here)}."


def type_name(hint: Any) -> str:
    """A type as a user would say it: `whole number or null`."""
    plain = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
        Any: "a value",
        Part: "a name or a table with name and options",
    }
    if hint in plain:
        return plain[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin in (tuple, list):
        return f"a list, each entry {type_name(arguments[0])}"
    if origin is dict:
        return f"a table, each value {type_name(arguments[1])}"
    return str(hint)


def wrong_type(name: str, value: Any, hint: Any) -> str:
    """The sentence about a value of the wrong type."""
    text = str(value).lower().replace("_", "")
    if name == "strategy" and (text.startswith("parameterserver") or text == "ps"):
        return (
            f"strategy is {value!r}, which is not supported: Keras 3 has no parameter servers "
            f"(keras issue 18624), and feedback weights would meet gradients of other weights. "
            f"Expected {type_name(hint)}."
        )
    choices = [choice for choice in get_args(hint) if get_origin(hint) is Literal]
    near = did_you_mean(str(value), choices) if choices else ""
    return f"{name} is {value!r}. Expected {type_name(hint)}.{near}"


def checked(value: Any, hint: Any, *, name: str, source: str = "") -> Any:
    """`value` as the type `hint` has it.

    Raises:
        UserError: If it is of another type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    where = f"{source}: " if source else ""
    if hint is Any or (origin is dict and arguments[1] is Any and isinstance(value, dict)):
        return value
    if hint is Part and (isinstance(value, str) or _is_part(value)):
        return Part(value) if isinstance(value, str) else Part(**value)
    if origin is dict and arguments[1] is Part and isinstance(value, dict):
        return {k: checked(v, Part, name=f"{name}.{k}", source=source) for k, v in value.items()}
    if origin is tuple and arguments[0] is Part and isinstance(value, list):
        return tuple(
            checked(v, Part, name=f"{name}[{i}]", source=source) for i, v in enumerate(value)
        )
    try:
        # jsonargparse takes null for any type, and 5 for a text.
        if hint is Part or (value is None and type(None) not in get_args(hint)):
            raise TypeError
        return _parser(hint).parse_object({"value": value}).value
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise UserError(f"{where}{wrong_type(name, value, hint)}") from error


@functools.cache
def _parser(hint: Any) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _is_part(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"name", "options"}
        and isinstance(value.get("name"), str)
        and isinstance(value.get("options", {}), dict)
    )
