"""What can be named in a configuration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tfweightmirror as tfwm
from tfweightmirror.mirror.noise import NOISES
from train.config.part import RULES
from train.data import EMBEDDED
from train.errors import UserError, did_you_mean
from train.parsing.config_file import read_config_file
from train.parsing.yaml_file import explanations
from train.parts.callbacks import known_callbacks
from train.parts.feedback import MODES, OWN_KEYS, known_initializers
from train.parts.losses import known_losses, known_metrics
from train.parts.models import MODELS, SHAPES
from train.parts.named import options_of
from train.parts.optimizers import known_optimizers
from train.parts.schedules import known_schedules

NOT_SHOWN = (*SHAPES, *OWN_KEYS, "name", "dtype", "reduction")
CONFIGS = Path(__file__).parents[2] / "configs"


def print_all(what: str = "") -> None:
    """Prints the names that a part of a configuration may have.

    Args:
        what: One kind of part, which is shown with options, defaults and what they mean; without
            it the names of all kinds.

    Raises:
        UserError: If there is no such kind.
    """
    if not what:
        for kind, (key, names, _) in KINDS.items():
            print(f"{kind} ({key}):", *(f"  {name}" for name in names()), "", sep="\n")
        print("python -m train list models, and so on, shows options with their defaults.")
        return
    if what not in KINDS:
        raise UserError(
            f"command line: {what!r} cannot be listed. Expected one of {', '.join(KINDS)}."
            f"{did_you_mean(what, KINDS)}"
        )
    key, names, parts = KINDS[what]
    print(f"{what} ({key}):")
    if parts is None:
        print(*(f"  {name}" for name in names()), sep="\n")
        return
    for name, part in parts().items():
        print(f"\n  {name}: {_summary(part)}")
        for line in _options(part):
            print(f"    {line}")
    print("\nOr the import path of one of your own: package.module:attribute.")


def _summary(part: Any) -> str:
    return first_sentence((inspect.getdoc(part) or "").partition("\n\n")[0])


def _options(part: Any) -> Iterator[str]:
    """A line an option: name, default, meaning."""
    told = explanations(part)
    for name, option in options_of(part, NOT_SHOWN).items():
        default = "needed" if option.default is option.empty else repr(option.default)
        meaning = f": {first_sentence(told[name])}" if name in told else ""
        yield f"{name} = {default}{meaning}"


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends one: not that of `et al. 2019`, `eq. 7` or `e.g. SGD`."""
    line = " ".join(text.split())
    return re.split(r"(?<!\bal)(?<!\beq)(?<!\bfig)(?<!\be\.g)(?<!\bi\.e)\.(?= [^a-z0-9]|$)", line)[
        0
    ]


def head_of(file: Path) -> str:
    """The first sentence of a configuration's head."""
    lines: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:])
    return first_sentence(" ".join(lines))


def _data_sets() -> Iterator[str]:
    configs = [read_config_file(file) for file in sorted(CONFIGS.rglob("*.yaml"))]
    named = {str(values["data.name"]) for values in configs if "data.name" in values}
    yield from (f"{name}: embedded" for name in EMBEDDED)
    yield from sorted(named - set(EMBEDDED))
    yield "any other name of TensorFlow Datasets, or the path of a builder folder"
    yield "a folder of images, <split>/<class>/*.png (JPEG, BMP, GIF)"
    yield "a .npz file with x_train, y_train, x_test, y_test, or a folder of such .npy files"
    yield "package.module:function, which returns (train, test): docs/own_parts.md"


def _configurations() -> Iterator[str]:
    for file in sorted(CONFIGS.rglob("*.yaml")):
        yield f"{file.relative_to(CONFIGS.parent)}: {head_of(file)}"


def _rules() -> dict[str, Any]:
    return {
        f"{name} ({', '.join(aliases)})": type(tfwm.rules.get(name))
        for name, aliases in RULES.items()
    }


# Kind to its key, its names, and what has options.
KINDS: Mapping[str, tuple[str, Callable[[], Any], Callable[[], Mapping[str, Any]] | None]] = {
    "models": ("model", lambda: MODELS, lambda: MODELS),
    "data": ("data.name", _data_sets, None),
    "rules": ("feedback.rule", _rules, _rules),
    "noises": (
        "mirror.noise",
        lambda: [noise.name for noise in NOISES],
        lambda: {noise.name: noise for noise in NOISES},
    ),
    "mirror": ("mirror.mode", lambda: MODES, lambda: {"options": tfwm.mirror.MirrorMode}),
    "losses": ("loss", known_losses, known_losses),
    "metrics": ("metrics", known_metrics, known_metrics),
    "optimizers": ("optimizer.name", known_optimizers, known_optimizers),
    "initializers": (
        "feedback.initializer",
        known_initializers,
        known_initializers,
    ),
    "callbacks": ("callbacks", known_callbacks, known_callbacks),
    "schedules": (
        "optimizer.schedule.name",
        lambda: ["constant", "piecewise", "cosine", *known_schedules()],
        known_schedules,
    ),
    "configurations": ("--config", _configurations, None),
}
