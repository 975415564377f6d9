"""Configuration files: YAML which may name a `base`, checked key by key against the dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import jsonargparse
import yaml

from train.errors import UserError, did_you_mean


def read_config_file(path: Path, config_class: type) -> dict[str, Any]:
    """Values that a file and the chain of its bases set, by dotted name.

    Args:
        path: A YAML file. Its key `base`, if any, names a file relative to it, whose values it
            changes. Values of a table with free keys (`feedback.layers`, `optimizer.options`) are
            merged as well.
        config_class: Frozen dataclass that describes the keys.

    Raises:
        UserError: If a file is not there or not YAML, bases form a circle, a key is not known, or
            a value has the wrong type.
    """
    merged: dict[str, Any] = {}
    for _, layer in reversed(_chain(path, config_class)):
        for name, value in layer.items():
            free_keys = isinstance(value, dict)
            merged[name] = {**merged.get(name, {}), **value} if free_keys else value
    return merged


def sources_of(path: Path, config_class: type) -> dict[str, str]:
    """Dotted name to the file of the chain that sets it."""
    sources: dict[str, str] = {}
    for file, layer in reversed(_chain(path, config_class)):
        sources |= dict.fromkeys(layer, str(file))
    return sources


def _chain(path: Path, config_class: type) -> list[tuple[Path, dict[str, Any]]]:
    """A file and its bases, the last base last, each with the values it sets itself."""
    chain = [path]
    layers: list[dict[str, Any]] = []
    while True:
        current = chain[-1]
        tree = _read_yaml(current, chain[-2] if len(chain) > 1 else None)
        base = tree.pop("base", None)
        layers.append(flatten(tree, config_class, source=str(current)))
        if base is None:
            return list(zip(chain, layers, strict=True))
        if not isinstance(base, str):
            raise UserError(f"{current}: base is {base!r}. Expected the path of a YAML file.")
        following = current.parent / base
        if following.resolve() in {file.resolve() for file in chain}:
            raise UserError(f"{current}: base {base} leads back to itself.")
        chain.append(following)


def flatten(
    tree: dict[str, Any], config_class: type, *, source: str, prefix: str = ""
) -> dict[str, Any]:
    """Dotted name to value, checked against the dataclass; `source` is named in errors."""
    hints = typing.get_type_hints(config_class)
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise UserError(f"{source}: {unknown_key(name, config_class, prefix)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(
                    f"{source}: {name} is {value!r}. Expected a table with the keys "
                    f"{', '.join(typing.get_type_hints(hints[key]))}."
                )
            nested = typing.cast(type, hints[key])
            flat |= flatten(value, nested, source=source, prefix=f"{name}.")
        else:
            flat[name] = _checked(value, hints[key], name=name, source=source)
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
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    if hint is type(None):
        return "null"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is tuple:
        return f"a list, each entry {type_name(arguments[0])}"
    if origin is dict:
        return f"a table, each value {type_name(arguments[1])}"
    return str(hint)


def wrong_type(name: str, value: Any, hint: Any) -> str:
    """The sentence about a value of the wrong type."""
    plain = str(value).lower().replace("_", "")
    if name == "strategy" and (plain.startswith("parameterserver") or plain == "ps"):
        return (
            f"strategy is {value!r}, which is not supported: Keras 3 has no parameter servers "
            f"(keras issue 18624), and feedback weights would meet gradients of other weights. "
            f"Expected {type_name(hint)}."
        )
    choices = [choice for choice in get_args(hint) if get_origin(hint) is Literal]
    near = did_you_mean(str(value), choices) if choices else ""
    return f"{name} is {value!r}. Expected {type_name(hint)}.{near}"


def to_yaml(config: Any) -> str:
    """Every value of a configuration, as a file that `read_config_file` reads back."""
    plain = _without_tuples(dataclasses.asdict(config))
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100)


def _read_yaml(path: Path, named_by: Path | None) -> dict[str, Any]:
    where = f", the base of {named_by}," if named_by else ""
    try:
        tree = yaml.safe_load(path.read_text())
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


def _checked(value: Any, hint: Any, *, name: str, source: str) -> Any:
    # jsonargparse takes null for any type, and 5 for a text.
    is_null_wrongly = value is None and type(None) not in get_args(hint)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        if is_null_wrongly:
            raise TypeError
        return parser.parse_object({"value": value}).value
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise UserError(f"{source}: {wrong_type(name, value, hint)}") from error


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value
