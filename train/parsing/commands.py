"""The commands of `python -m train`: what each takes, its help and an example."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jsonargparse

from train.config import FitConfig
from train.errors import UserError
from train.parsing.config_file import dotted_names

PRINT_CONFIG = "--print_config"
FLAGS = ("help", "config", "print_config")
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


@dataclasses.dataclass(frozen=True)
class Kind:
    """One command.

    Args:
        summary: What it does.
        example: One.
        operands: (name, explanation, at least, at most) of what has no key; None: nothing.
        flags: Flag to what it takes, beside the configuration's keys.
        needs: Flags that must be given.
        has_config: Whether it takes the keys of the configuration.
    """

    summary: str
    example: str
    operands: tuple[str, str, int, int] | None = None
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    has_config: bool = False

    def check_operands(self, name: str, operands: Sequence[str]) -> None:
        """Raises UserError unless there are as many as the command takes."""
        _, text, least, most = self.operands or ("", "", 0, 0)
        if operands[most:]:
            raise UserError(
                f"command line: unrecognized arguments: {' '.join(operands[most:])}. A key is "
                f"written --key=value."
            )
        if len(operands) < least:
            raise UserError(f"command line: {name} needs {text}.")


_MODEL = ("model_or_run", "a run directory or a .keras file", 1, 1)
_SEEDS = {
    "seeds": "numbers with commas between, such as 0,1,2: a run for each, in a process of its own",
    "jobs": "how many runs at a time; default 1",
}
SWITCHES = ("json",)
"""Flags without a value."""
_JSON = {"json": "nothing: prints JSON"}

COMMANDS = {
    "fit": Kind(
        "Train one model, or one for each seed.",
        "python -m train fit --config configs/quickstart.yaml --seeds 0,1,2",
        flags=_SEEDS,
        has_config=True,
    ),
    "evaluate": Kind(
        "Loss and accuracy of a trained model, over every test image once.",
        "python -m train evaluate runs/digits-mlp-backprop-1 --data.test_split=test[:100]",
        _MODEL,
        flags=_JSON,
        has_config=True,
    ),
    "export": Kind(
        "Write a trained model as a plain Keras model, which needs nothing of this library.",
        "python -m train export runs/digits-mlp-backprop-1 --out digits.keras",
        _MODEL,
        flags={
            "out": "FILE.keras, to write; must not exist",
            "feedback": "FILE.npz, to write: W and B of every pathway, for a chip",
        },
        needs=("out",),
    ),
    "list": Kind(
        "Show what can be named in a configuration, with options and their defaults.",
        "python -m train list models",
        ("what", "one of models, rules, noises, losses, ...; nothing: all, by name", 0, 1),
    ),
    "sweep": Kind(
        "Choose values on a part of the training images; test images are never looked at.",
        "python -m train sweep --config configs/quickstart.yaml "
        "--grid optimizer.learning_rate=0.1,0.05 --grid optimizer.weight_decay=0.1,0.01 "
        "--seeds 0,1",
        flags={
            "grid": "KEY=VALUE,VALUE,...; several --grid: every combination",
            **_SEEDS,
            "validation": "share of the training split, its last part, to choose on; default 0.1",
        },
        needs=("grid",),
        has_config=True,
    ),
    "report": Kind(
        "Tables, curves and angles of finished runs, beside published numbers.",
        "python -m train report runs/quickstart-1 runs/digits-mlp-backprop-1 --out report",
        ("runs", "run directories, or folders that hold several", 1, 10**6),
        flags={"out": "FOLDER, to write; must be new or empty"},
        needs=("out",),
    ),
    "compare": Kind(
        "What differs between two runs: configuration, set-up, results.",
        "python -m train compare runs/digits-mlp-backprop-1 runs/digits-mlp-backprop-2",
        ("runs", "two run directories", 2, 2),
        flags=_JSON,
    ),
    "angles": Kind(
        "Weight angle and norm ratio of every layer of a trained model.",
        "python -m train angles runs/digits-mlp-weight_mirror-1",
        _MODEL,
        flags=_JSON,
    ),
}


def build_parser() -> jsonargparse.ArgumentParser:
    """The parser of every command, as --help shows it."""
    parser = jsonargparse.ArgumentParser(
        prog="python -m train",
        description="Trains Keras models without weight transport.",
        epilog=STATUSES,
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands()
    for name, kind in COMMANDS.items():
        commands.add_subcommand(name, _parser_of(kind), help=kind.summary)
    return parser


def _parser_of(kind: Kind) -> jsonargparse.ArgumentParser:
    overrides = (
        "Every value below can stand in a configuration file, and the command line overrides it."
    )
    parser = jsonargparse.ArgumentParser(
        description=f"{kind.summary} {overrides if kind.has_config else ''}\n\n  {kind.example}",
        epilog=STATUSES,
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    if kind.operands:
        operand, text, least, most = kind.operands
        nargs: Any = {(1, 1): None, (0, 1): "?", (2, 2): 2}.get((least, most), "+")
        parser.add_argument(operand, type=str, help=text, nargs=nargs)
    for flag, text in kind.flags.items():
        parser.add_argument(f"--{flag}", type=str, help=text)
    if kind.has_config:
        parser.add_argument(
            "--config", type=str, help="YAML file; its key `base` names one it changes"
        )
        parser.add_argument(
            PRINT_CONFIG, action="store_true", help="print every value as YAML and stop"
        )
        parser.add_class_arguments(FitConfig)
        offered = (*dotted_names(FitConfig), *FLAGS, *kind.flags, "model_or_run")
        for action in parser._actions:
            if action.dest not in offered:
                action.help = jsonargparse.SUPPRESS  # a whole table at once: not offered
    return parser


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples and statuses."""
