"""The command line: flags and the configuration file become a `Command`."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from train.config import FitConfig
from train.errors import UserError, did_you_mean
from train.parsing.config_file import (
    dotted_names,
    read_config_file,
    sources_of,
    unknown_key,
    wrong_type,
)

PRINT_CONFIG = "--print_config"
DEBUG = "--debug"
JSON = "--json"
OPERANDS = {
    "evaluate": ("model_or_run", "run directory, or .keras file"),
    "export": ("model_or_run", "run directory, or .keras file"),
    "angles": ("model_or_run", "run directory, or .keras file"),
    "compare": ("runs", "two run directories"),
    "report": ("runs", "run directories, or folders that hold several"),
}
COUNTS = {"evaluate": 1, "export": 1, "angles": 1, "compare": 2}
"""How many operands a command has; `report` as many as it likes, the others none."""
WITH_JSON = ("compare",)
WITH_CONFIG = ("fit", "evaluate", "sweep")
FLAGS = ("help", "config", "print_config")

STATUSES = """\
exit status:
  0    finished
  2    a mistake in the command, a file or the environment: one sentence says which
  3    a worker of several is lost; the same command on all of them goes on
  143  ended by SIGTERM, behind a checkpoint; the same command goes on

--debug, anywhere on the line, shows where in the code a mistake was noticed."""

EXAMPLES = {
    "fit": "python -m train fit --config configs/quickstart.yaml --seeds 0,1,2",
    "evaluate": "python -m train evaluate runs/digits-mlp-backprop-1 --data.test_split=test[:100]",
    "export": "python -m train export runs/digits-mlp-backprop-1 --out digits.keras",
    "list": "python -m train list",
    "sweep": "python -m train sweep --config configs/quickstart.yaml "
    "--grid optimizer.learning_rate=0.1,0.05 --grid optimizer.weight_decay=0.1,0.01 --seeds 0,1",
    "report": "python -m train report runs/quickstart-1 runs/digits-mlp-backprop-1 --out report",
    "compare": "python -m train compare runs/digits-mlp-backprop-1 runs/digits-mlp-backprop-2",
    "angles": "python -m train angles runs/digits-mlp-weight_mirror-1",
}

SUMMARIES = {
    "fit": "Train one model, or one for each seed.",
    "evaluate": "Loss and accuracy of a trained model, over every test image once.",
    "export": "Write a trained model as a plain Keras model, which needs nothing of this library.",
    "list": "Show the models, data sets, rules, noises, optimizers and configurations there are.",
    "sweep": "Choose values on a part of the training images; test images are never looked at.",
    "report": "Tables, curves and angles of finished runs, beside published numbers.",
    "compare": "What differs between two runs: configuration, set-up, results.",
    "angles": "Weight angle and norm ratio of every layer of a trained model.",
}

# Keys that a sweep sets itself, and how to set them instead.
NOT_IN_A_GRID = {
    "seed": "Expected --seeds, such as --seeds 0,1",
    "run_directory": "A sweep gives every run a folder of its own",
    "data.train_split": "A sweep cuts it, see --validation",
    "data.test_split": "A sweep never looks at test images",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Args:
        name: fit, evaluate, export, list, sweep, report, compare or angles.
        config: The configuration, of `fit`, `evaluate` and `sweep`.
        keys: The part of the line that makes the configuration: `--config=...`, `--key=value`.
        sources: Key to where it was set: a file, or `command line`.
        only_print: Whether the configuration is only to be printed.
        seeds: Of `fit` and `sweep`; empty: that of the configuration.
        model: Of `evaluate`, `export` and `angles`: a run directory or a .keras file.
        runs: Of `report` and `compare`: run directories.
        out: Of `export`: the file to write; of `report`: the folder.
        as_json: Of `compare`: whether to print JSON.
        grid: Of `sweep`: key to values, as they were written.
        validation: Of `sweep`: the share of the training split to choose on.
    """

    name: str
    config: FitConfig = dataclasses.field(default_factory=FitConfig)
    keys: tuple[str, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only_print: bool = False
    seeds: tuple[int, ...] = ()
    model: str = ""
    runs: tuple[str, ...] = ()
    out: str = ""
    as_json: bool = False
    grid: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    validation: float = 0.1


def read_command(arguments: Sequence[str]) -> Command:
    """The command; --debug is for the caller.

    Raises:
        UserError: If a command or key is not known, or a value has the wrong type.
    """
    only_print, as_json = PRINT_CONFIG in arguments, JSON in arguments
    # jsonargparse would answer this flag itself, without the values of our file.
    arguments = _joined([a for a in arguments if a not in (PRINT_CONFIG, DEBUG, JSON)])
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    wants_help = not arguments or bool({"--help", "-h"} & set(arguments))
    if wants_help:
        build_parser().parse_args([name, "--help"] if name in SUMMARIES else ["--help"])
    if name not in SUMMARIES:
        raise UserError(
            f"command line: {name or arguments[0]!r} is not a command. Expected one of "
            f"{', '.join(map(repr, SUMMARIES))}.{did_you_mean(name, SUMMARIES)}"
        )
    if arguments[0] != name:
        raise UserError(f"command line: {arguments[0]} stands before {name}. Expected it behind.")
    if as_json and name not in WITH_JSON:
        raise UserError(f"command line: {name} takes no --json.")
    own = _own_flags(name)
    given, keys, operands = _sorted_out(arguments[1:], own)
    options: dict[str, Any] = {"name": name, "as_json": as_json, **_operands(name, operands)}
    if name in ("export", "report"):
        if "out" not in given:
            raise UserError(f"command line: {name} needs --out, {own['out']}.")
        options["out"] = given["out"][-1]
    if "seeds" in given:
        options["seeds"] = _seeds(given["seeds"][-1])
    if "validation" in given:
        options["validation"] = _share(given["validation"][-1])
    if name == "sweep":
        options["grid"] = _grid(given.get("grid", []))
    if name not in WITH_CONFIG:
        _check_keys(keys, own=own, config=False)
        return Command(**options)
    _check_keys(keys, own=own)
    if name == "evaluate":
        keys = _with_config_of_run(operands[0], keys)
    config, sources = _configuration(keys)
    if "seeds" in options and sources.get("seed") == "command line":
        raise UserError("command line: seed and seeds are both given. Expected one of them.")
    return Command(
        **options, config=config, keys=tuple(keys), sources=sources, only_print=only_print
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
    for key, source in sources.items():
        if key == first or key.startswith(f"{first}.") or first.startswith(f"{key}."):
            return sentence if sentence.startswith(f"{source}: ") else f"{source}: {sentence}"
    return sentence


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
    for name, summary in SUMMARIES.items():
        commands.add_subcommand(name, _parser_of(name, {}), help=summary)
    return parser


def _parser_of(name: str, defaults: Mapping[str, Any]) -> jsonargparse.ArgumentParser:
    """The parser of one command; `defaults` are the values of the configuration file."""
    overrides = (
        "Every value below can stand in a configuration file, and the command line overrides it."
    )
    has_config = name in WITH_CONFIG
    parser = jsonargparse.ArgumentParser(
        description=f"{SUMMARIES[name]} {overrides if has_config else ''}\n\n  {EXAMPLES[name]}",
        epilog=STATUSES,
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    if name in OPERANDS:
        operand, text = OPERANDS[name]
        nargs: Any = {"report": "+", "compare": 2}.get(name)
        parser.add_argument(operand, type=str, help=text, nargs=nargs)
    for flag, text in _own_flags(name).items():
        parser.add_argument(f"--{flag}", type=str, help=text)
    if name in WITH_JSON:
        parser.add_argument(JSON, action="store_true", help="print JSON")
    if has_config:
        parser.add_argument(
            "--config", type=str, help="YAML file; its key `base` names one it changes"
        )
        parser.add_argument(
            PRINT_CONFIG, action="store_true", help="print every value as YAML and stop"
        )
        parser.add_class_arguments(FitConfig)
        parser.set_defaults(dict(defaults))
        for action in parser._actions:
            offered = (*dotted_names(FitConfig), *FLAGS, *_own_flags(name), "model_or_run")
            if action.dest not in offered:
                action.help = jsonargparse.SUPPRESS  # a whole table at once: not offered
    return parser


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples and statuses."""


def _own_flags(command: str) -> dict[str, str]:
    """Flags of a command beside the configuration's keys."""
    seeds = {"seeds": "numbers with commas between, such as 0,1,2: a run for each"}
    return {
        "fit": seeds,
        "evaluate": {},
        "export": {"out": "the .keras file to write; must not exist"},
        "list": {},
        "sweep": {
            "grid": "KEY=VALUE,VALUE,...; several --grid: every combination",
            **seeds,
            "validation": "share of the training split, its last part, to choose on; default 0.1",
        },
        "report": {"out": "the folder to write; must be new or empty"},
        "compare": {},
        "angles": {},
    }[command]


def _operands(name: str, operands: Sequence[str]) -> dict[str, Any]:
    """The options that operands make, if there are as many as the command takes."""
    count = COUNTS.get(name, len(operands) if name == "report" else 0)
    if operands[count:]:
        raise UserError(
            f"command line: unrecognized arguments: {' '.join(operands[count:])}. A key is written "
            f"--key=value."
        )
    if name == "compare" and len(operands) < 2:
        raise UserError("command line: compare needs two run directories.")
    if name in OPERANDS and not operands:
        what = "run directories" if name == "report" else "a run directory or a .keras file"
        raise UserError(f"command line: {name} needs {what}.")
    if name not in OPERANDS:
        return {}
    return {"runs": tuple(operands)} if name in ("report", "compare") else {"model": operands[0]}


def _configuration(keys: Sequence[str]) -> tuple[FitConfig, dict[str, str]]:
    """The configuration that `--config=...` and `--key=value` make, and where each was set."""
    # The file is read before the rest of the line, which overrides it wherever it stands.
    files = [Path(key.partition("=")[2]) for key in keys if key.startswith("--config=")]
    defaults = read_config_file(files[-1], FitConfig) if files else {}
    sources = sources_of(files[-1], FitConfig) if files else {}
    sources |= {key[2:].partition("=")[0]: "command line" for key in keys if key[:8] != "--config"}
    parser = _parser_of("fit", defaults)
    try:
        values = parser.instantiate(parser.parse_args(list(keys)))
    except jsonargparse.ArgumentError as error:
        raise UserError(_in_one_sentence(str(error), keys)) from error
    except UserError as error:
        raise UserError(with_source(str(error), sources)) from error
    return FitConfig(**{f.name: values[f.name] for f in dataclasses.fields(FitConfig)}), sources


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
            if not equals:
                raise UserError(f"command line: {flag} has no value. Expected {own[flag]}.")
            given.setdefault(flag, []).append(value)
        else:
            keys.append(argument)
    return given, keys, operands


def _check_keys(keys: Sequence[str], *, own: Mapping[str, str], config: bool = True) -> None:
    known = dotted_names(FitConfig) if config else {}
    flags = [*(FLAGS if config else ("help",)), *own]
    tables = [name for name, hint in known.items() if str(hint).startswith("dict")]
    for key in keys:
        name = key[2:].partition("=")[0]
        if name in known or name in flags or name.rpartition(".")[0] in tables:
            continue
        hint = did_you_mean(name, [*known, *flags])
        if hint or not config:
            sentence = f"{name} is not a known key.{hint}"
        else:
            sentence = unknown_key(name, FitConfig)
        raise UserError(f"command line: {sentence}")


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.strip("[]").split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise UserError(
            f"command line: seeds is {text!r}. Expected different whole numbers with commas "
            f"between, such as 0,1,2."
        )
    return tuple(map(int, parts))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(
            f"command line: validation is {text!r}. Expected a share between 0 and 1, such as 0.1."
        )
    return share


def _grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`KEY=a,b` several times, as key to values."""
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        # A comma inside brackets belongs to a value: model.mlp.units=[16],[16,16].
        split = tuple(value.strip() for value in re.split(r",(?![^\[{]*[\]}])", values))
        if not equals or not all(split):
            raise UserError(
                f"command line: grid is {text!r}. Expected KEY=VALUE,VALUE,..., such as "
                f"optimizer.learning_rate=0.1,0.05."
            )
        _check_keys([f"--{key}"], own={})
        if key in NOT_IN_A_GRID or key in FLAGS:
            reason = NOT_IN_A_GRID.get(key, "It is no value of the configuration")
            raise UserError(f"command line: grid has the key {key}. {reason}.")
        if key in grid or len(set(split)) != len(split):
            raise UserError(f"command line: grid gives {key} or one of its values twice.")
        grid[key] = split
    if not grid:
        raise UserError(
            "command line: sweep needs --grid KEY=VALUE,VALUE,..., such as "
            "optimizer.learning_rate=0.1,0.05."
        )
    return grid


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


def _in_one_sentence(message: str, arguments: Sequence[str]) -> str:
    """jsonargparse's message about a value, in the words of those about a file."""
    if match := re.search(r'key "([\w.]+)"', message):
        name = match[1]
        hint = dotted_names(FitConfig).get(name)
        given = [text for text in arguments if text.startswith(f"--{name}=")]
        if hint is not None and given:
            return f"command line: {wrong_type(name, given[-1].partition('=')[2], hint)}"
    return f"command line: {' '.join(message.split())}"
