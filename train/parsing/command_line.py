"""The command line: flags and configuration files become a `Command`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.config.part import import_paths
from train.errors import UserError, did_you_mean
from train.parsing.commands import COMMANDS, FLAGS, PRINT_CONFIG, SWITCHES, build_parser
from train.parsing.config_file import (
    built,
    chain,
    checked,
    dotted_names,
    merged,
    type_name,
    unknown_key,
    wrong_type,
)
from train.parsing.flags import grid, jobs, seeds, share
from train.parsing.phases import phase_configs
from train.parsing.yaml_file import load_yaml

DEBUG = "--debug"
COMMAND_LINE = "command line"


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Args:
        name: fit, evaluate, export, list, sweep, report, compare or angles.
        config: The configuration, of `fit`, `evaluate` and `sweep`.
        keys: The part of the line that makes the configuration: `--config=...`, `--key=value`.
        sources: Key to where it was set: a file, or `command line`.
        only_print: Whether the configuration is only to be printed.
        flags: The command's own flags, by name, as they were written; the last of several.
        operands: Run directories, files, or what is to be listed.
        seeds: Of `fit` and `sweep`; empty: that of the configuration.
        jobs: Runs at a time, of `fit` and `sweep`.
        grid: Of `sweep`: key to values, as they were written.
        validation: Of `sweep`: the share of the training split to choose on.
        debug: Whether mistakes show where they were noticed.
    """

    name: str
    config: FitConfig = dataclasses.field(default_factory=FitConfig)
    keys: tuple[str, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only_print: bool = False
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    operands: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    jobs: int = 1
    grid: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    validation: float = 0.1
    debug: bool = False


def read_command(arguments: Sequence[str]) -> Command:
    """The command.

    Raises:
        UserError: If a command or key is not known, or a value has the wrong type.
    """
    only_print, debug = PRINT_CONFIG in arguments, DEBUG in arguments
    arguments = _joined([a for a in arguments if a not in (PRINT_CONFIG, DEBUG)])
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    if not arguments or {"--help", "-h"} & set(arguments):
        build_parser().parse_args([name, "--help"] if name in COMMANDS else ["--help"])
    if name not in COMMANDS:
        raise UserError(
            f"command line: {name or arguments[0]!r} is not a command. Expected one of "
            f"{', '.join(map(repr, COMMANDS))}.{did_you_mean(name, COMMANDS)}"
        )
    if arguments[0] != name:
        raise UserError(f"command line: {arguments[0]} stands before {name}. Expected it behind.")
    kind = COMMANDS[name]
    given, keys, operands = _sorted_out(arguments[1:], kind.flags)
    kind.check_operands(name, operands)
    flags = {flag: values[-1] for flag, values in given.items()}
    if missing := [flag for flag in kind.needs if flag not in flags]:
        flag = missing[0]
        raise UserError(f"command line: {name} needs --{flag} {kind.flags[flag]}.")
    options: dict[str, Any] = {"flags": flags, "operands": tuple(operands), "debug": debug}
    if "seeds" in flags:
        options["seeds"] = seeds(flags["seeds"])
    if "jobs" in flags:
        options["jobs"] = jobs(flags["jobs"])
        if name == "fit" and "seeds" not in flags:
            raise UserError("command line: jobs is given without seeds. Expected both, or none.")
    if "validation" in flags:
        options["validation"] = share(flags["validation"])
    if name == "sweep":
        options["grid"] = grid(given["grid"])
        for key, values in options["grid"].items():
            for value in values:  # told before anything is trained
                value_of(f"--{key}={value}")
    if not kind.has_config:
        for key in keys:
            flag = key[2:].partition("=")[0]
            raise UserError(
                f"command line: {flag} is not a known key.{did_you_mean(flag, kind.flags)}"
            )
        return Command(name, **options)
    if name == "evaluate":
        keys = _with_config_of_run(operands[0], keys)
    config, sources = configuration(keys, flags=(*FLAGS, *kind.flags))
    if "seeds" in options and sources.get("seed") == COMMAND_LINE:
        raise UserError("command line: seed and seeds are both given. Expected one of them.")
    return Command(
        name, **options, config=config, keys=tuple(keys), sources=sources, only_print=only_print
    )


def parse(arguments: Sequence[str]) -> tuple[FitConfig, bool]:
    """The configuration of `fit`, and whether only to print it.

    Raises:
        UserError: As `read_command`.
    """
    command = read_command(arguments)
    return command.config, command.only_print


def with_source(sentence: str, sources: Mapping[str, str]) -> str:
    """A sentence that begins with a key, with the file that set it in front."""
    first = re.split(r"[=:\s]", sentence, maxsplit=1)[0].rstrip(".")
    for key, source in sorted(sources.items(), key=lambda pair: -len(pair[0])):
        if key == first or key.startswith(f"{first}.") or first.startswith(f"{key}."):
            return sentence if sentence.startswith(f"{source}: ") else f"{source}: {sentence}"
    return sentence


def configuration(
    keys: Sequence[str], flags: Sequence[str] = FLAGS
) -> tuple[FitConfig, dict[str, str]]:
    """The configuration that `--config=...` and `--key=value` make, and where each was set.

    Files are merged in their order, below the keys, wherever they stand.

    Raises:
        UserError: If a key is not known, or a value has the wrong type or is refused.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    folders: list[str] = []
    for key in keys:
        if key.startswith("--config="):
            file = Path(key.partition("=")[2])
            for source, layer in chain(file, FitConfig):
                values = merged(values, layer)
                sources |= dict.fromkeys(_with_options(layer), source)
                folders.append(str(Path(source).parent.resolve()))
    for key in keys:
        if not key.startswith("--config="):
            layer = value_of(key, flags)
            values = merged(values, layer)
            sources |= dict.fromkeys(_with_options(layer), COMMAND_LINE)
    if values.get("training.steps") is not None:
        values.setdefault("training.epochs", None)  # a default gives way, what is written does not
    try:
        config = built(FitConfig, values)
        phases = phase_configs(config)
    except UserError as error:
        raise UserError(with_source(str(error), sources)) from error
    _check_mirror(phases, keys)
    folders = [folder for folder in dict.fromkeys(folders) if folder not in config.import_from]
    if any(import_paths([config, phases])):
        config = dataclasses.replace(config, import_from=(*config.import_from, *folders))
    return config, sources


def _with_options(layer: Mapping[str, Any]) -> list[str]:
    """Keys, and those of the tables with free keys."""
    tables = {name: value for name, value in layer.items() if isinstance(value, dict)}
    inside = [f"{name}.{key}" for name, table in tables.items() for key in table]
    return [*inside, *layer]


def value_of(key: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Of `--key=value`: dotted name to checked value."""
    name, equals, text = key[2:].partition("=")
    known = dotted_names(FitConfig)
    if name not in known and {f"{name}.name", f"{name}.options"} <= known.keys():
        name = f"{name}.name"
    elif name not in known and f"{name}.file" in known:
        name = f"{name}.file"
    table, _, option = name.rpartition(".")
    if name in known:
        hint: Any = known[name]
    elif str(known.get(table, "")).startswith("dict"):
        hint = known[table].__args__[1]
    else:
        near = did_you_mean(name, [*known, *flags])
        sentence = f"{name} is not a known key.{near}" if near else unknown_key(name, FitConfig)
        raise UserError(f"command line: {sentence}")
    if not equals:
        raise UserError(f"command line: {name} has no value. Expected {type_name(hint)}.")
    value = _checked_text(name, text, hint)
    return {name: value} if name in known else {table: {option: value}}


def _checked_text(name: str, text: str, hint: Any) -> Any:
    try:
        value = text if hint is str else load_yaml(text)
    except Exception:  # of a YAML parser; a text may hold anything
        value = text
    if isinstance(value, (int, float)) and hint == (str | None):
        value = text  # --data.data_dir=5 names a folder
    try:
        return checked(value, hint, name=name, source=COMMAND_LINE)
    except UserError as error:
        raise UserError(f"{COMMAND_LINE}: {wrong_type(name, text, hint)}") from error


def _check_mirror(phases: Sequence[FitConfig], keys: Sequence[str]) -> None:
    """Raises UserError for mirror keys on the command line where no layer has a mirror."""
    rules = [
        rule
        for table in (phase.feedback for phase in phases)
        for rule in (table.rule, table.last_layer, *table.layers.values())
    ]
    mirrored = any(rule.name == "weight_mirror" or ":" in str(rule.name) for rule in rules)
    given = [key for key in keys if key.startswith("--mirror.")]
    if given and not mirrored:
        raise UserError(
            f"command line: {given[0][2:].partition('=')[0]} is given, but no layer learns by "
            f"weight_mirror. Expected --feedback.rule=weight_mirror with it."
        )


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
            bare = argument.startswith("--") and "=" not in argument
            takes_value = bare and argument[2:] not in SWITCHES
    return joined


def _sorted_out(
    arguments: Sequence[str], own: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """The command's own flags with their values, the configuration's keys, and the rest."""
    given: dict[str, list[str]] = {}
    keys, operands = [], []
    for argument in arguments:
        flag, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            operands.append(argument)
        elif flag in own:
            if not equals and flag not in SWITCHES:
                raise UserError(f"command line: {flag} has no value. Expected {own[flag]}.")
            given.setdefault(flag, []).append(value)
        else:
            keys.append(argument)
    return given, keys, operands


def _with_config_of_run(model: str, keys: Sequence[str]) -> list[str]:
    """The keys of `evaluate`: a run's own configuration below, one device unless asked otherwise.

    How many processes and devices a run was trained on says nothing of where it is evaluated.
    """
    named = any(key.startswith("--config=") for key in keys)
    path = Path(model)
    if path.is_dir():
        if named:
            raise UserError(
                f"command line: config is given, but {model} is a run directory and has its own "
                f"config.yaml. Expected the run alone, or its model.keras and --config."
            )
        if not (path / "config.yaml").is_file():
            raise UserError(f"{model} holds no run: it has no config.yaml.")
        keys = [f"--config={path / 'config.yaml'}", *keys]
    elif not named:
        if not path.exists():
            raise UserError(f"{model} does not exist. Expected a run directory or a .keras file.")
        raise UserError(
            f"command line: evaluate {model} needs --config, the configuration that names the "
            f"data and the loss; a run directory has its own."
        )
    return ["--strategy=one_device", "--replicas=null", *keys]
