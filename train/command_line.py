"""The command line: flags and the configuration file become a `FitConfig`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from train.config import FitConfig
from train.config_file import dotted_names, read_config_file, unknown_key, wrong_type
from train.errors import UserError, did_you_mean

PRINT_CONFIG = "--print_config"
FLAGS = ("help", "config", "print_config")


def build_parser(defaults: dict[str, Any]) -> jsonargparse.ArgumentParser:
    """The parser of every command; `defaults` are the values of the configuration file."""
    parser = jsonargparse.ArgumentParser(
        prog="python -m train",
        description="Trains Keras models without weight transport.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    fit = jsonargparse.ArgumentParser(
        description="Trains one model. Every value below can stand in a configuration file, and "
        "the command line overrides the file.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    fit.add_argument("--config", type=str, help="YAML file; its key `base` names one it changes")
    fit.add_argument(PRINT_CONFIG, action="store_true", help="print every value as YAML and stop")
    fit.add_class_arguments(FitConfig)
    fit.set_defaults(defaults)
    for action in fit._actions:
        if action.dest not in (*dotted_names(FitConfig), *FLAGS):
            action.help = jsonargparse.SUPPRESS  # a whole table at once: not offered
    parser.add_subcommands().add_subcommand("fit", fit, help="Train one model.")
    return parser


def parse(arguments: Sequence[str]) -> tuple[FitConfig, bool]:
    """The configuration, and whether only to print it.

    Raises:
        UserError: If a key is not known or a value has the wrong type.
    """
    only_print = PRINT_CONFIG in arguments
    # jsonargparse would answer this flag itself, without the values of our file.
    arguments = _joined([argument for argument in arguments if argument != PRINT_CONFIG])
    # The file is read before the rest of the line, which overrides it wherever it stands.
    files = [
        argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")
    ]
    defaults = read_config_file(Path(files[-1]), FitConfig) if files else {}
    parser = build_parser(defaults)
    _check_keys(arguments)
    try:
        values = parser.instantiate(parser.parse_args(arguments)).fit
    except jsonargparse.ArgumentError as error:
        raise UserError(_in_one_sentence(str(error), arguments)) from error
    fields = {field.name: values[field.name] for field in dataclasses.fields(FitConfig)}
    return FitConfig(**fields), only_print


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--key value` written as `--key=value`."""
    joined: list[str] = []
    takes_value = False
    for argument in arguments:
        if takes_value and not argument.startswith("--"):
            joined[-1] += f"={argument}"
            takes_value = False
        else:
            joined.append(argument)
            takes_value = argument.startswith("--") and "=" not in argument
    return joined


def _check_keys(arguments: Sequence[str]) -> None:
    known = dotted_names(FitConfig)
    tables = [name for name, hint in known.items() if str(hint).startswith("dict")]
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = argument[2:].partition("=")[0]
        if name in known or name in FLAGS or name.rpartition(".")[0] in tables:
            continue
        hint = did_you_mean(name, [*known, *FLAGS])
        sentence = f"{name} is not a known key.{hint}" if hint else unknown_key(name, FitConfig)
        raise UserError(f"command line: {sentence}")


def _in_one_sentence(message: str, arguments: Sequence[str]) -> str:
    """jsonargparse's message about a value, in the words of those about a file."""
    if match := re.search(r'key "fit\.([\w.]+)"|key "([\w.]+)"', message):
        name = match[1] or match[2]
        hint = dotted_names(FitConfig).get(name)
        given = [text for text in arguments if text.startswith(f"--{name}=")]
        if hint is not None and given:
            return f"command line: {wrong_type(name, given[-1].partition('=')[2], hint)}"
    return f"command line: {' '.join(message.split())}"
