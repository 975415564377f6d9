"""Finds what a name or an import path means, and checks options against its signature."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config import FitConfig, Part
from train.errors import UserError, did_you_mean, see
from train.parsing.config_file import checked
from train.parsing.phases import paths_of


def find(
    key: str,
    name: str | None,
    known: Mapping[str, Any],
    *,
    also: str = "",
    aliases: Sequence[str] = (),
) -> Any:
    """What `name` means: one of `known` (in lower case, too), or what an import path leads to.

    `key` is the configuration's, `also` what else may be named, and `aliases` are other names of
    the known, all for the UserError.
    """
    name = name or ""
    if ":" in name:
        return imported(key, name)
    found = known.get(name, known.get(name.lower()))
    if found is None:
        also += f" ({', '.join(aliases)})" if aliases else ""
        near = did_you_mean(name, [*known, *aliases])
        raise UserError(
            f"{key} is {name or None!r}, which is not known. Expected one of {', '.join(known)}"
            f"{also}, or an import path package.module:attribute.{near}"
            + see("a-name-that-is-not-known")
        )
    return found


def imported(key: str, path: str) -> Any:
    """The attribute at `package.module:attribute`; raises UserError if there is none."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{key}={path}: {module} needs {error.name}: {error}.") from error
        raise UserError(
            f"{key} is {path!r}, but there is no module {error.name!r}. Expected one that Python "
            f"finds, in the folder of the configuration file or in one of import_from."
            + see("a-module-of-your-own-is-not-found")
        ) from error
    except (Exception, SystemExit) as error:  # whatever a module of the user's does
        raise UserError(
            f"{key} is {path!r}, and importing it fails: {type(error).__name__}: {error}."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, (name for name in vars(found) if not name.startswith("_")))
            raise UserError(f"{key} is {path!r}, but {module} has no {attribute!r}.{near}")
        found = getattr(found, part)
    return found


def import_folders(config: FitConfig) -> None:
    """Lets Python find what import paths name."""
    for folder in config.import_from:
        if folder not in sys.path:
            sys.path.insert(0, folder)


def import_all(config: FitConfig) -> None:
    """Imports every module that an import path names, so that saved models find their classes."""
    import_folders(config)
    for name in paths_of(config):
        imported("a saved run's part", name)


# Large, and told by commit and version.
_NOT_OWN = {"train", "tfweightmirror", "keras", "tensorflow"}


def own_code(config: FitConfig) -> dict[str, str]:
    """Module or package of a user's own, which import paths name, to a hash of its files."""
    import_folders(config)
    named = {re.split("[.:]", path)[0] for path in paths_of(config)}
    return {name: code_hash(name) for name in sorted(named - _NOT_OWN)}


def code_hash(name: str) -> str:
    """Of the files of a module, or of a package and all below it; empty if there is none."""
    spec, whole = importlib.util.find_spec(name), hashlib.sha256()
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    files = [(file, file.relative_to(top)) for top in folders for file in top.rglob("*.py")]
    if spec and spec.has_location and spec.origin and not folders:
        files = [(Path(spec.origin), Path(name))]
    for file, below in sorted(files):
        whole.update(str(below).encode() + file.read_bytes())
    return whole.hexdigest()[:12] if files else ""


def classes_of(module: Any, base: Any, *, snake_case: bool = False) -> dict[str, Any]:
    """Subclasses of `base` in a module of Keras by name, `MeanSquaredError` or with underscores."""
    classes = {
        name: member
        for name, member in vars(module).items()
        if inspect.isclass(member) and issubclass(member, base) and member is not base
    }
    if not snake_case:
        return classes
    parts = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return {re.sub(parts, "_", name).lower(): member for name, member in classes.items()}


def checked_options(
    key: str, target: Any, options: Mapping[str, Any], *, set_by_us: Iterable[str] = ()
) -> dict[str, Any]:
    """`options` in the types that the signature of `target` wants; what it lacks is a UserError.

    `key` is that of the options, such as model.options; the caller gives the arguments `set_by_us`.
    """
    accepted, hints = options_of(target, set_by_us), _hints(target)
    of_keras = str(getattr(target, "__module__", "")).startswith("keras.")
    # Keras takes any keyword, only to refuse it.
    takes_any = not of_keras and any(p.kind is p.VAR_KEYWORD for p in _parameters(target).values())
    name = getattr(target, "__name__", str(target))
    for option in options:
        if option not in accepted and (not takes_any or option in set_by_us):
            offered = f"Expected one of {', '.join(accepted)}." if accepted else "It has none."
            raise UserError(
                f"{key}.{option} is not an option of {name}. {offered}"
                f"{did_you_mean(option, accepted)}" + see("an-option-that-a-part-does-not-have")
            )
    values = {o: checked(v, hints.get(o, Any), name=f"{key}.{o}") for o, v in options.items()}
    for option in values.keys() & accepted.keys() if of_keras else ():
        _check_of_keras(f"{key}.{option}", values[option], accepted[option].default)
    for option, parameter in accepted.items():
        if parameter.default is parameter.empty and option not in values:
            raise UserError(f"{key}.{option} is missing, which {name} needs.")
    return values


def _check_of_keras(key: str, value: Any, default: Any) -> None:
    """Keras says no types, takes "yes" for true, and fails at the norm "1" in the first step."""
    truth = isinstance(default, bool)
    wrong = isinstance(value, str) or isinstance(value, bool) != truth
    if wrong and isinstance(default, (bool, int, float)):
        raise UserError(f"{key} is {value!r}. Expected {'true or false' if truth else 'a number'}.")


@contextlib.contextmanager
def refusals(sentence: str) -> Iterator[None]:
    """What a part says of its arguments becomes a UserError, `sentence: what it says`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UserError(f"{sentence}: {' '.join(str(error).split())}") from error


def instance(
    key: str,
    part: Part,
    known: Mapping[str, Any],
    base: Any,
    expected: str,
    *,
    aliases: Sequence[str] = (),
) -> Any:
    """What `part` names, or what the class or function of that name gives for its options.

    Refused unless it is an instance of `base`, which is `expected` in words; the rest as `find`.
    """
    found = find(key, part.name, known, aliases=aliases)
    if isinstance(found, base) and part.options:
        found = type(found)
    if callable(found) and not isinstance(found, base):
        options = checked_options(f"{key}.options", found, part.options)
        with refusals(f"{key}={part.name} refuses its options"):
            found = found(**options)
    if not isinstance(found, base):
        raise UserError(f"{key}={part.name} is {found!r}. Expected {expected}.")
    return found


def options_of(target: Any, set_by_us: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
    """Parameters of `target` that a configuration may set."""
    return {
        name: parameter
        for name, parameter in _parameters(target).items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in set_by_us
    }


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    with contextlib.suppress(TypeError, ValueError):  # it may have none that Python can see
        return inspect.signature(target).parameters
    return {}


def _hints(target: Any) -> dict[str, Any]:
    """Types of arguments, as far as plain values can have them."""
    hints: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # annotations of a user's own may name anything
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    return {name: hint for name, hint in hints.items() if _is_plain(hint)}


def _is_plain(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, tuple, list, dict):
        return all(_is_plain(a) for a in typing.get_args(hint) if a is not Ellipsis)
    return origin is typing.Literal or hint in (int, float, str, bool, type(None))
