"""The command line: flags and configuration files become a `Command`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.config.part import import_paths
from train.errors import UserError, did_you_mean, see, with_source
from train.parsing.commands import COMMANDS, FLAGS, NEEDED, SWITCHES, print_help
from train.parsing.config_file import (
    DEFAULT,
    NO_TEXT,
    Flat,
    Text,
    built,
    chain,
    dotted_names,
    flatten,
    merged,
)
from train.parsing.phases import phase_configs

DEBUG = "--debug"
COMMAND_LINE = "command line"


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line asks for. `FLAGS` explains what is below the operands."""

    name: str
    config: FitConfig = DEFAULT
    keys: tuple[str, ...] = ()  # what makes the configuration: `--config=...`, `--key=value`
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)  # file or line, by key
    only_print: bool = False
    debug: bool = False
    operands: tuple[str, ...] = ()  # run directories, files, or what is to be listed
    seeds: tuple[int, ...] = ()
    jobs: int = 1
    grid: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    validation: float = 0.1
    out: str = ""
    feedback: str | None = None
    json: bool = False


def read_command(arguments: Sequence[str]) -> Command:
    """The command; UserError if it or a key is not known, or a value refused."""
    words = [word for word in arguments if word not in ("--print_config", DEBUG)]
    name = next((word for word in words if not word.startswith("-")), "")
    if not words or {"--help", "-h"} & set(words):
        print_help(name)
    if name not in COMMANDS:
        raise UserError(
            f"command line: {name or words[0]!r} is not a command. Expected one of "
            f"{', '.join(map(repr, COMMANDS))}.{did_you_mean(name, COMMANDS)}"
        )
    if words[0] != name:
        raise UserError(f"command line: {words[0]} stands before {name}. Expected it behind.")
    flags, keys, operands = _sorted_out(name, words[1:])
    if "jobs" in flags and name == "fit" and "seeds" not in flags:
        raise UserError("command line: jobs is given without seeds. Expected both, or none.")
    for key, values in flags.get("grid", {}).items():
        for value in values:  # told before anything is trained
            value_of(f"--{key}={value}")
    command = Command(name, operands=tuple(operands), debug=DEBUG in arguments, **flags)
    if not COMMANDS[name].has_config:
        return command
    keys = _with_config_of_run(operands[0], keys) if name == "evaluate" else keys
    config, sources = configuration(keys)
    if name != "sweep":  # which checks its points
        for sentence in unread(config, keys).values():
            raise UserError(sentence)
    if command.seeds and sources.get("seed") == COMMAND_LINE:
        raise UserError("command line: seed and seeds are both given. Expected one of them.")
    only_print = "--print_config" in arguments
    return dataclasses.replace(
        command, config=config, keys=tuple(keys), sources=sources, only_print=only_print
    )


def parse(arguments: Sequence[str]) -> tuple[FitConfig, bool]:
    """The configuration of `fit`, and whether only to print it."""
    command = read_command(arguments)
    return command.config, command.only_print


def configuration(keys: Sequence[str]) -> tuple[FitConfig, dict[str, str]]:
    """The configuration that `--config=...` and `--key=value` make, and where each was set.

    Files are merged in their order, below the keys, wherever they stand.
    """
    files = [Path(key.partition("=")[2]) for key in keys if key.startswith("--config=")]
    layers = [layer for file in files for layer in chain(file)]
    folders = dict.fromkeys(str(Path(source).parent.resolve()) for source, _ in layers)
    own = [key for key in keys if not key.startswith("--config=")]
    layers += [(COMMAND_LINE, value_of(key)) for key in own]
    values: Flat = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        values = merged(values, layer)
        for name, value in layer.items():
            inside = value if isinstance(value, dict) else {}
            sources |= dict.fromkeys([*(f"{name}.{key}" for key in inside), name], source)
    if values.get("training.steps") is not None:
        values.setdefault("training.epochs", None)  # a default gives way, what is written does not
    try:
        config = built(values)
        phases = phase_configs(config)
    except UserError as error:
        raise UserError(with_source(str(error), sources)) from error
    if any(import_paths([config, phases])):
        config = dataclasses.replace(
            config, import_from=tuple(dict.fromkeys((*config.import_from, *folders)))
        )
    return config, sources


def value_of(key: str) -> Flat:
    """Of `--key=value`: dotted name to checked value."""
    name, equals, text = key.removeprefix("--").partition("=")
    tree: Any = Text(text) if equals else NO_TEXT
    for part in reversed(name.split(".")):
        tree = {part: tree}
    return flatten(tree, source=COMMAND_LINE)


def unread(config: FitConfig, keys: Sequence[str]) -> dict[str, str]:
    """Of `--key=value` those that `config` reads in no phase, each with a sentence that says so.

    In files they may stand: others with the same base read them.
    """
    phases = phase_configs(config)
    one, optimizers = phases[0], [phase.optimizer for phase in phases]
    rules: set[str] = set()
    for table in (phase.feedback for phase in phases):
        ends = (table.first_layer, table.last_layer)
        rules |= {str(r.name) for r in (table.rule, *ends, *table.layers.values())}
    mirrored = any(name == "weight_mirror" or ":" in name for name in rules)
    feeds_back = bool(rules - {"backprop", "None"})
    measured = feeds_back or one.monitor.backprop
    decays = any(each.weight_decay is not None for each in optimizers)
    scaled = any(each.learning_rate_scaling != "none" for each in optimizers)
    schedules = {each.schedule.name for each in optimizers}
    no_mirror = "no layer learns by weight_mirror. Expected --feedback.rule=weight_mirror with it"
    no_feedback = "no layer has feedback weights. Expected --feedback.rule with it"
    no_decay = "optimizer.weight_decay is null. Expected both"
    schedule = f"optimizer.schedule.name is {min(schedules)}. Expected"
    crops = f"data.augmentation is {one.data.augmentation}. Expected pad_crop_flip"
    no_scaling = "optimizer.learning_rate_scaling is none. Expected linear or sqrt"
    reads = [
        ("mirror", mirrored, no_mirror),
        ("feedback.initializer", feeds_back, no_feedback),
        ("monitor.delta_angles", measured or not one.monitor.delta_angles, no_feedback),
        ("monitor.gradient_angles", measured or not one.monitor.gradient_angles, no_feedback),
        ("data.pad", one.data.augmentation == "pad_crop_flip", crops),
        ("optimizer.schedule.factor", "piecewise" in schedules, f"{schedule} piecewise"),
        ("optimizer.schedule.final_factor", "cosine" in schedules, f"{schedule} cosine"),
        ("optimizer.decay", decays, no_decay),
        ("optimizer.decay_biases", decays, no_decay),
        ("optimizer.reference_batch_size", scaled, no_scaling),
    ]
    return {
        key: f"command line: {name} is given, but {sentence}. (In a --config file it may stand, "
        f"for others that read it.)"
        for key in keys
        for name in [key.removeprefix("--").partition("=")[0]]
        for beginning, is_read, sentence in reads
        if not is_read and f"{name}.".startswith(f"{beginning}.")
    }


def _sorted_out(name: str, words: list[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The command's own flags as they are read, the configuration's keys, and the operands."""
    kind = COMMANDS[name]
    known = [*kind.flags, *(("config", "print_config", *dotted_names()) if kind.has_config else ())]
    texts: dict[str, list[str]] = {}
    keys, operands = [], []
    while words:
        word = words.pop(0)
        flag, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            operands.append(word)
            continue
        if not equals and flag not in SWITCHES and words and not words[0].startswith("--"):
            equals, text = "=", words.pop(0)
        if flag in kind.flags:
            if not equals and flag not in SWITCHES:
                raise UserError(f"command line: {flag} has no value. Expected {FLAGS[flag][0]}.")
            texts.setdefault(flag, []).append(text)
            continue
        if flag == "config" and kind.has_config and not text:
            raise UserError("command line: config has no value. Expected a YAML file.")
        keys.append(f"--{flag}{equals}{text}")
        near, table = did_you_mean(flag, known), flag.partition(".")[0]
        if not kind.has_config or (near and table != "config" and not hasattr(DEFAULT, table)):
            raise UserError(
                f"command line: {flag} is not a known key.{near}" + see("an-unknown-key")
            )
    _, expected, least, most = kind.operands
    if operands[most:]:
        raise UserError(
            f"command line: unrecognized arguments: {' '.join(operands[most:])}. A key is written "
            f"--key=value."
        )
    if len(operands) < least:
        raise UserError(f"command line: {name} needs {expected}.")
    for flag in NEEDED:
        if flag in kind.flags and flag not in texts:
            raise UserError(f"command line: {name} needs --{flag} {FLAGS[flag][0]}.")
    return {flag: FLAGS[flag][1](given) for flag, given in texts.items()}, keys, operands


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
