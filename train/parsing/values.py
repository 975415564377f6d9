"""Values in the types that fields and signatures want, or the sentence about another type."""

from __future__ import annotations

import functools
import types
from typing import Any, Literal, Union, get_args, get_origin

import jsonargparse

from train.config.part import Part
from train.errors import UserError, did_you_mean
from train.parsing.yaml_file import load_yaml

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
    """`value` as the type `hint` has it.

    Raises:
        UserError: If it is of another type.
    """
    where = f"{source}: " if source else ""
    if value is NO_TEXT:
        raise UserError(f"{where}{name} has no value. Expected {type_name(hint)}.")
    given, value = value, _read(value, hint)
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
