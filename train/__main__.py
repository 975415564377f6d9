"""`python -m train fit --config configs/quickstart.yaml`; `python -m train --help` has the rest."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from train.errors import TerminatedError, UserError

if TYPE_CHECKING:
    from train.parsing.command_line import Command

INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            status = _with_sentences(arguments)
        finally:
            sys.stdout.flush()
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        # One line, although what others wrote (Keras, an API server) may have several.
        sentence = re.sub(r"\s*\n\s*", " ", str(error))
        print(f"error: {sentence}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
        return NOBODY_READS
    except KeyboardInterrupt:
        print("ended by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    return status


def _with_sentences(arguments: Sequence[str]) -> int:
    """Runs one command; what is no fault of this code becomes a UserError that names its source."""
    sources: Mapping[str, str] = {}
    try:
        from train.parsing.command_line import read_command, with_source

        try:
            command = read_command(arguments)
            sources = command.sources
            return _run(command)
        except UserError as error:
            raise type(error)(with_source(str(error), sources)) from error
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in ("train", "tfweightmirror"):
            raise
        raise UserError(
            f"The Python package {package} is not installed, which the launcher needs. Expected "
            f"its packages: pip install -e '.[train]', in the clone."
        ) from error


def _run(command: Command) -> int:
    if command.only_print:
        from train.parsing.annotated_yaml import to_annotated_yaml

        print(to_annotated_yaml(command.config), end="")
        return 0
    if command.name == "report":
        from train.report.write import report

        report(command.operands, command.flags["out"])
        return 0
    if command.name == "compare":
        from train.commands.compare import compare

        compare(*command.operands, as_json="json" in command.flags)
        return 0
    # TensorFlow takes seconds to load: not before the configuration is known to be right.
    from train.parsing.start_up import load_tensorflow_quietly, memory_errors

    load_tensorflow_quietly()
    try:
        with memory_errors():
            _do(command)
    except TerminatedError as end:
        print(f"{end}: the same command goes on from there", file=sys.stderr)
        return end.status
    return 0


def _do(command: Command) -> None:
    from train.parts.named import import_folders

    import_folders(command.config)  # what a run is compared with may be named by an import path
    if command.name == "fit":
        from train.commands.runs import fit_seeds

        fit_seeds(command)
    elif command.name == "evaluate":
        from train.commands.trained import evaluate

        evaluate(command.operands[0], command.config, as_json="json" in command.flags)
    elif command.name == "export":
        from train.commands.trained import export

        export(command.operands[0], command.flags["out"], command.flags.get("feedback"))
    elif command.name == "angles":
        from train.commands.trained import angles

        angles(command.operands[0], as_json="json" in command.flags)
    elif command.name == "list":
        from train.commands.listing import print_all

        print_all(*command.operands)
    else:
        from train.commands.sweep import sweep

        sweep(command)


if __name__ == "__main__":
    sys.exit(main())
