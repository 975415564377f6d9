"""What can be named in a configuration. Loads TensorFlow only for what is made with it."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from train.config.part import RULES
from train.errors import UserError, did_you_mean
from train.parsing.config_file import read_config_file
from train.parsing.start_up import load_tensorflow_quietly
from train.parsing.yaml_file import explanations

NOT_SHOWN = ("input_shape", "output_shape", "noise", "seed", "name", "dtype", "reduction")
PARAGRAPH = "\n\n"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
_at = pkgutil.resolve_name


def print_all(what: str = "") -> None:
    """Prints the names of all kinds of parts, or of one kind with options and what they mean."""
    if what and what not in KINDS:
        raise UserError(
            f"command line: {what!r} cannot be listed. Expected one of {', '.join(KINDS)}."
            f"{did_you_mean(what, KINDS)}"
        )
    for kind in [what] if what else KINDS:
        if kind not in WITHOUT_TENSORFLOW:
            load_tensorflow_quietly()
        key, named = KINDS[kind]
        parts = named()
        print(f"{kind} ({key}):")
        for name, part in parts.items():
            print(*(_lines(name, part) if what and part else [f"  {name}"]), sep="\n")
        if not what:
            print()
        elif any(parts.values()):
            print("\nOr the import path of one of your own: package.module:attribute.")
    if not what:
        print("python -m train list models, and so on, shows options with their defaults.")


def _lines(name: str, part: Any) -> Iterator[str]:
    """Name and summary; a line an option: name, default, meaning."""
    from train.parts.named import options_of

    yield f"\n  {name}: {first_sentence((inspect.getdoc(part) or '').partition(PARAGRAPH)[0])}"
    told = explanations(part)
    for name, option in options_of(part, NOT_SHOWN).items():
        default = "needed" if option.default is option.empty else repr(option.default)
        meaning = f": {first_sentence(told[name])}" if name in told else ""
        yield f"    {name} = {default}{meaning}"


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends one: not that of `et al. 2019`, `eq. 7` or `e.g. SGD`."""
    line = " ".join(text.split())
    end = r"(?<!\bal)(?<!\beq)(?<!\bfig)(?<!\be\.g)(?<!\bi\.e)\.(?= [^a-z0-9]|$)"
    return re.split(end, line)[0]


def head_of(file: Path) -> str:
    """The first sentence of a configuration's head."""
    head = re.match("(# .*\n)*", file.read_text())
    return first_sentence(head[0].replace("# ", "")) if head else ""


def _data_sets() -> dict[str, None]:
    configs = map(read_config_file, CONFIGS)
    named = {str(values["data.name"]) for values in configs if "data.name" in values}
    lines = (
        "digits: embedded",
        *sorted(named - {"digits"}),
        "any other name of TensorFlow Datasets, or the path of a builder folder",
        "a folder of images, <split>/<class>/*.png (JPEG, BMP, GIF)",
        "a .npz file with x_train, y_train, x_test, y_test, or a folder of such .npy files",
        "package.module:function, which returns (train, test): docs/own_parts.md",
    )
    return dict.fromkeys(lines)


def _configurations() -> dict[str, None]:
    folder = Path(__file__).parents[2]
    return dict.fromkeys(f"{file.relative_to(folder)}: {head_of(file)}" for file in CONFIGS)


# Kind to its key, and to what has options by name, imported only when it is asked for.
KINDS: Mapping[str, tuple[str, Callable[[], Mapping[str, Any]]]] = {
    "models": ("model", lambda: _at("train.parts.models:MODELS")),
    "data": ("data.name", _data_sets),
    "rules": (
        "feedback.rule",
        lambda: {
            f"{name} ({', '.join(aliases)})": type(_at("tfweightmirror.rules:get")(name))
            for name, aliases in RULES.items()
        },
    ),
    "noises": (
        "mirror.noise",
        lambda: {noise.name: noise for noise in _at("tfweightmirror.mirror.noise:NOISES")},
    ),
    "mirror": (
        "mirror.mode",
        lambda: {
            **dict.fromkeys(_at("train.parts.feedback:MODES")),
            "options": _at("tfweightmirror.mirror:MirrorMode"),
        },
    ),
    "losses": ("loss", lambda: _at("train.parts.losses:known_losses")()),
    "metrics": ("metrics", lambda: _at("train.parts.losses:known_metrics")()),
    "optimizers": ("optimizer.name", lambda: _at("train.parts.optimizers:known_optimizers")()),
    "initializers": (
        "feedback.initializer",
        lambda: _at("train.parts.feedback:known_initializers")(),
    ),
    "callbacks": ("callbacks", lambda: _at("train.parts.callbacks:known_callbacks")()),
    "schedules": (
        "optimizer.schedule.name",
        lambda: {
            **dict.fromkeys(("constant", "piecewise", "cosine")),
            **_at("train.parts.schedules:known_schedules")(),
        },
    ),
    "configurations": ("--config", _configurations),
}
WITHOUT_TENSORFLOW = ("data", "configurations")
