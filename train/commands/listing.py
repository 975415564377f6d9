"""What can be named in a configuration. Loads TensorFlow only for what is made with it."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from train.config.part import RULES
from train.errors import UserError, did_you_mean
from train.parsing.config_file import dotted_names, read_config_file
from train.parsing.start_up import load_tensorflow_quietly
from train.parsing.yaml_file import explanations

NOT_SHOWN = ("input_shape", "output_shape", "noise", "seed", "name", "dtype", "reduction")
PARAGRAPH = "\n\n"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


def print_all(what: str = "") -> None:
    """Prints the names of all kinds of parts, or of one kind with options and what they mean."""
    if what and what not in KINDS:
        raise UserError(
            f"command line: {what!r} cannot be listed. Expected one of {', '.join(KINDS)}."
            f"{did_you_mean(what, KINDS)}"
        )
    for kind in [what] if what else KINDS:
        key, where, *names = KINDS[kind]
        parts = dict.fromkeys(names) | _found(where)
        print(f"{kind} ({key}):")
        for name, part in parts.items():
            aliases = RULES[name] if kind == "rules" else ()
            full = f"  {name} ({', '.join(aliases)})" if aliases else f"  {name}"
            print(*(_lines(full, part) if what and part else [full]), sep="\n")
        if not what:
            print()
        elif any(parts.values()):
            print("\nOr the import path of one of your own: package.module:attribute.")
    if not what:
        print("python -m train list models, and so on, shows options with their defaults.")


def _found(where: str | Callable[[], Iterable[str]]) -> dict[str, Any]:
    """Name to part; None where a part has no options."""
    if not isinstance(where, str):
        return dict.fromkeys(where())
    load_tensorflow_quietly()
    found = pkgutil.resolve_name(where)
    if inspect.isclass(found):
        return {"options": found}
    return dict(found() if callable(found) else found)


def _lines(name: str, part: Any) -> Iterator[str]:
    """Name and summary; a line an option: name, default, meaning."""
    from train.parts.named import options_of

    yield f"\n{name}: {first_sentence((inspect.getdoc(part) or '').partition(PARAGRAPH)[0])}"
    told = explanations(part)
    for option, parameter in options_of(part, NOT_SHOWN).items():
        default = "needed" if parameter.default is parameter.empty else repr(parameter.default)
        meaning = f": {first_sentence(told[option])}" if option in told else ""
        yield f"    {option} = {default}{meaning}"


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends one: not that of `et al. 2019`, `eq. 7` or `e.g. SGD`."""
    line = " ".join(text.split())
    end = r"(?<!\bal)(?<!\beq)(?<!\bfig)(?<!\be\.g)(?<!\bi\.e)\.(?= [^a-z0-9]|$)"
    return re.split(end, line)[0]


def head_of(file: Path) -> str:
    """The first sentence of a configuration's head."""
    head = re.match("(# .*\n)*", file.read_text())
    return first_sentence(head[0].replace("# ", "")) if head else ""


def _data_sets() -> list[str]:
    configs = map(read_config_file, CONFIGS)
    named = {str(values["data.name"]) for values in configs if "data.name" in values}
    return [
        "digits: embedded",
        *sorted(named - {"digits"}),
        "any other name of TensorFlow Datasets, or the path of a builder folder",
        "a folder of images, <split>/<class>/*.png (JPEG, BMP, GIF)",
        "a .npz file with x_train, y_train, x_test, y_test, or a folder of such .npy files",
        "package.module:function, which returns (train, test): docs/own_parts.md",
    ]


def _configurations() -> list[str]:
    folder = Path(__file__).parents[2]
    return [f"{file.relative_to(folder)}: {head_of(file)}" for file in CONFIGS]


# Kind to its key, to where its parts are, imported only when asked for, and to names beside them.
KINDS: Mapping[str, tuple[Any, ...]] = {
    "models": ("model", "train.parts.models:MODELS"),
    "data": ("data.name", _data_sets),
    "rules": ("feedback.rule", "train.parts.feedback:KNOWN_RULES"),
    "noises": ("mirror.noise", "train.parts.feedback:KNOWN_NOISES"),
    "mirror": (
        "mirror.mode",
        "tfweightmirror.mirror:MirrorMode",
        *get_args(dotted_names()["mirror.mode"]),
    ),
    "constraints": ("constraints", "train.parts.constraints:known_constraints"),
    "losses": ("loss", "train.parts.losses:known_losses"),
    "metrics": ("metrics", "train.parts.losses:known_metrics"),
    "optimizers": ("optimizer.name", "train.parts.optimizers:known_optimizers"),
    "initializers": ("feedback.initializer", "train.parts.feedback:known_initializers"),
    "callbacks": ("callbacks", "train.parts.callbacks:known_callbacks"),
    "schedules": (
        "optimizer.schedule.name",
        "train.parts.schedules:known_schedules",
        *("constant", "piecewise", "cosine"),
    ),
    "configurations": ("--config", _configurations),
}
