"""The commands of `python -m train`: what each takes, its help and an example."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jsonargparse

from train.config import FitConfig
from train.errors import UserError
from train.parsing.config_file import dotted_names

STATUSES = """\
exit status:
  0    finished
  2    a mistake in the command, a file or the environment: one sentence says which
  3    a worker of several is lost; the same command on all of them goes on
  4    the loss is no longer finite
  130  ended by Ctrl-C, behind a checkpoint; the same command goes on
  141  nobody reads what it writes, as behind `| head`
  143  ended by SIGTERM, behind a checkpoint, too

--debug, anywhere on the line, shows where in the code a mistake was noticed."""
# Keys that a sweep sets itself, and how to set them instead.
NOT_IN_A_GRID = {
    "seed": "Expected --seeds, such as --seeds 0,1",
    "run_directory": "A sweep gives every run a folder of its own",
    "data.train_split": "A sweep cuts it, see --validation",
    "data.test_split": "A sweep never looks at test images",
}


class Kind(NamedTuple):
    """A command. Operands are what has no key: name, explanation, at least and at most so many."""

    summary: str
    example: str
    operands: tuple[str, str, int, int] = ("", "", 0, 0)
    flags: tuple[str, ...] = ()
    has_config: bool = False


_MODEL = ("model_or_run", "a run directory or a .keras file", 1, 1)
COMMANDS = {
    "fit": Kind(
        "Train one model, or one for each seed.",
        "--config configs/quickstart.yaml --seeds 0,1,2",
        flags=("seeds", "jobs"),
        has_config=True,
    ),
    "evaluate": Kind(
        "Loss and accuracy of a trained model, over every test image once.",
        "runs/digits-mlp-backprop-1 --data.test_split=test[:100]",
        _MODEL,
        flags=("json",),
        has_config=True,
    ),
    "export": Kind(
        "Write a trained model as a plain Keras model, which needs nothing of this library.",
        "runs/digits-mlp-backprop-1 --out digits.keras",
        _MODEL,
        flags=("out", "feedback"),
    ),
    "list": Kind(
        "Show what can be named in a configuration, with options and their defaults.",
        "models",
        ("what", "one of models, rules, noises, losses, ...; nothing: all, by name", 0, 1),
    ),
    "sweep": Kind(
        "Choose values on a part of the training images; test images are never looked at.",
        "--config configs/quickstart.yaml --grid optimizer.learning_rate=0.1,0.05 "
        "--grid optimizer.weight_decay=0.1,0.01 --seeds 0,1",
        flags=("grid", "seeds", "jobs", "validation"),
        has_config=True,
    ),
    "report": Kind(
        "Tables, curves and angles of finished runs, beside published numbers.",
        "runs/quickstart-1 runs/digits-mlp-backprop-1 --out report",
        ("runs", "run directories, or folders that hold several", 1, 10**6),
        flags=("out",),
    ),
    "compare": Kind(
        "What differs between two runs: configuration, set-up, results.",
        "runs/digits-mlp-backprop-1 runs/digits-mlp-backprop-2",
        ("runs", "two run directories", 2, 2),
        flags=("json",),
    ),
    "angles": Kind(
        "Weight angle and norm ratio of every layer of a trained model.",
        "runs/digits-mlp-weight_mirror-1",
        _MODEL,
        flags=("json",),
    ),
}


def read_seeds(texts: Sequence[str]) -> tuple[int, ...]:
    """Of `--seeds 0,1,2`; the last of several, as of all flags but --grid."""
    parts = [part.strip() for part in texts[-1].strip("[]").split(",")]
    numbers = [int(part) for part in parts if re.fullmatch("[0-9]+", part)]
    if len(set(numbers)) != len(parts) or any(number >= 2**32 for number in numbers):
        raise UserError(
            f"command line: seeds is {texts[-1]!r}. Expected different whole numbers from 0 to "
            f"{2**32 - 1} with commas between, such as 0,1,2."
        )
    return tuple(numbers)


def read_jobs(texts: Sequence[str]) -> int:
    """Of `--jobs 2`."""
    if not re.fullmatch("0*[1-9][0-9]*", texts[-1]):
        raise UserError(f"command line: jobs is {texts[-1]!r}. Expected 1 or more runs at a time.")
    return int(texts[-1])


def read_validation(texts: Sequence[str]) -> float:
    """Of `--validation 0.1`."""
    with contextlib.suppress(ValueError):
        if 0 < float(texts[-1]) < 1:
            return float(texts[-1])
    raise UserError(
        f"command line: validation is {texts[-1]!r}. Expected a share between 0 and 1, such as 0.1."
    )


def read_grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`KEY=a,b` several times, as key to values."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        # A comma inside brackets belongs to a value: model.options.units=[16],[16,16].
        split = tuple(value.strip() for value in re.split(r",(?![^\[{]*[\]}])", values))
        if not all(split):
            raise UserError(
                f"command line: grid is {text!r}. Expected KEY=VALUE,VALUE,..., such as "
                f"optimizer.learning_rate=0.1,0.05."
            )
        if key in NOT_IN_A_GRID:
            raise UserError(f"command line: grid has the key {key}. {NOT_IN_A_GRID[key]}.")
        if key in found or len(set(split)) != len(split):
            raise UserError(f"command line: grid gives {key} or one of its values twice.")
        found[key] = split
    return found


# Flag to what it takes, and how the texts that are given for it are read.
FLAGS: dict[str, tuple[str, Callable[[Sequence[str]], Any]]] = {
    "seeds": (
        "numbers with commas between, such as 0,1,2: a run for each, in a process of its own",
        read_seeds,
    ),
    "jobs": ("how many runs at a time; default 1", read_jobs),
    "grid": ("KEY=VALUE,VALUE,...; several --grid: every combination", read_grid),
    "validation": (
        "share of the training split, its last part, to choose on; default 0.1",
        read_validation,
    ),
    "out": (
        "FILE.keras, or FOLDER of a report, to write; nothing is overwritten",
        lambda texts: texts[-1],
    ),
    "feedback": (
        "FILE.npz, to write: W and B of every pathway, for a chip",
        lambda texts: texts[-1],
    ),
    "json": ("nothing: prints JSON", lambda texts: True),
}
NEEDED = ("grid", "out")
SWITCHES = ("json",)
"""Flags without a value."""


def print_help(name: str) -> None:
    """Prints the help of a command, or of all, and exits."""
    parser = _parser("Trains Keras models without weight transport.", prog="python -m train")
    commands = parser.add_subcommands()
    for command, kind in COMMANDS.items():
        commands.add_subcommand(command, _parser_of(command, kind), help=kind.summary)
    parser.parse_args([name, "--help"] if name in COMMANDS else ["--help"])


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples and statuses."""


def _parser(description: str, **options: Any) -> jsonargparse.ArgumentParser:
    return jsonargparse.ArgumentParser(
        description=description, epilog=STATUSES, formatter_class=_Formatter, **options
    )


def _parser_of(name: str, kind: Kind) -> jsonargparse.ArgumentParser:
    overrides = (
        "Every value below can stand in a configuration file, and the command line overrides it."
    )
    summary = f"{kind.summary} {overrides if kind.has_config else ''}"
    parser = _parser(f"{summary}\n\n  python -m train {name} {kind.example}")
    operand, text, least, most = kind.operands
    if most:
        nargs: Any = {(1, 1): None, (0, 1): "?", (2, 2): 2}.get((least, most), "+")
        parser.add_argument(operand, type=str, help=text, nargs=nargs)
    for flag in kind.flags:
        parser.add_argument(f"--{flag}", type=str, help=FLAGS[flag][0])
    if kind.has_config:
        base = "YAML file; its key `base` names one it changes"
        parser.add_argument("--config", type=str, help=base)
        whole = "print every value as YAML and stop"
        parser.add_argument("--print_config", action="store_true", help=whole)
        parser.add_class_arguments(FitConfig)
        offered = {*dotted_names(), *kind.flags, operand, "help", "config", "print_config"}
        for action in parser._actions:
            if action.dest not in offered:
                action.help = jsonargparse.SUPPRESS  # a whole table at once: not offered
    return parser
