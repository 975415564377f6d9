"""What fields of the tables are made of: parts that a user may exchange, numbers with a range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from train.errors import UserError

# Canonical name of a rule to its other names. The library has the same table
# (`tfweightmirror.rules`), but takes TensorFlow to read.
RULES: dict[str, tuple[str, ...]] = {
    "backprop": ("bp",),
    "feedback_alignment": ("fa", "frfb"),
    "sign_symmetry": ("ss", "usf", "frsf", "brsf"),
    "weight_mirror": ("wm",),
    "kolen_pollack": ("kp",),
    "updated_random_feedback": ("urfb",),
    "direct_feedback_alignment": ("dfa",),
    "information_alignment": ("ia",),
    "activation_alignment": ("aa",),
    "symmetric_alignment": ("sa",),
    "product_feedback_alignment": ("pfa",),
    "no_feedback": (),
}
_MAGNITUDES = {"usf": "uniform", "frsf": "fixed", "brsf": "batch"}


@dataclasses.dataclass(frozen=True)
class Part:
    """What is used, and how. In a file and on the command line a text alone is the name.

    Args:
        name: One of ours, a Keras name where the part has them, or an import path
            `package.module:attribute`; null: see the part.
        options: Its arguments by name.
    """

    name: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """A saved model to start from. In a file and on the command line a text alone is the file.

    Args:
        file: Of a saved model (.keras); null: none.
        layers: Name patterns of the layers that take its weights, feedback weights and statistics,
            a backbone for example; the file may have other layers then. None: all layers.
    """

    file: str | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layers and self.file is None:
            raise UserError(
                f"init_from.layers is {list(self.layers)} without init_from.file. Expected both."
            )


def import_paths(value: Any) -> Iterator[str]:
    """The import paths that a configuration, or a part of it, names."""
    if getattr(value, "is_function", False) or (isinstance(value, Part) and ":" in str(value.name)):
        yield value.name
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from import_paths(entry)


def canonical_rule(part: Part, key: str = "feedback.rule") -> Part:
    """The rule under its one name, so that `kp` and `kolen_pollack` are no two configurations."""
    given = (part.name or "").lower()
    for name, aliases in RULES.items():
        if given == name or given in aliases:
            magnitude = {"magnitude": _MAGNITUDES[given]} if given in _MAGNITUDES else {}
            if (other := {**magnitude, **part.options}) != {**part.options, **magnitude}:
                raise UserError(
                    f"{key} is {given} with the option magnitude={other['magnitude']}, but {given} "
                    f"means magnitude={magnitude['magnitude']}. Expected ss with that option, or "
                    f"{given} without it."
                )
            return Part(name, other)
    return part


def short_rule(part: Part) -> str:
    """A rule in one word, for names of folders and headlines."""
    for alias, magnitude in _MAGNITUDES.items():
        if part.name == "sign_symmetry" and part.options.get("magnitude") == magnitude:
            return alias
    return str(part.name).rpartition(":")[2]


@dataclasses.dataclass(frozen=True)
class Range:
    """What holds of a number, and what is said behind its key where it does not, {} the number."""

    holds: Callable[[float], bool]
    sentence: str


_NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "is {}. Expected null, 0 or a number above it.")
Count = Annotated[int, Range(lambda n: n >= 1, "has the value {}. Expected 1 or more.")]
Positive = Annotated[float, Range(lambda x: 0 < x < math.inf, "is {}. Expected a number above 0.")]
NotNegative = Annotated[float, _NOT_NEGATIVE]
WholeNotNegative = Annotated[int, _NOT_NEGATIVE]
Seed = Annotated[int, Range(lambda n: 0 <= n < 2**32, f"is {{}}. Expected 0 to {2**32 - 1}.")]
Port = Annotated[int, Range(lambda n: 0 < n < 2**16, "is {}. Expected 1 to 65535.")]
ZeroOrSeveral = Annotated[
    int,
    Range(
        lambda n: n == 0 or n >= 2,
        "is {}. Expected 0, or 2 or more, which have a standard deviation.",
    ),
]
