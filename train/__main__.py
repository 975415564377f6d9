"""`python -m train fit --config configs/quickstart.yaml`; `python -m train --help` has the rest."""

from __future__ import annotations

import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence

from train.errors import TerminatedError, UserError
from train.parsing.annotated_yaml import to_annotated_yaml
from train.parsing.command_line import DEBUG, Command, read_command, with_source
from train.parsing.start_up import load_tensorflow_quietly

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sources: Mapping[str, str] = {}
    try:
        command = read_command(arguments)
        sources = command.sources
        return _run(command)
    except UserError as error:
        if DEBUG in arguments:
            traceback.print_exc()
        # One line, although what others wrote (Keras, an API server) may have several.
        sentence = re.sub(r"\s*\n\s*", " ", with_source(str(error), sources))
        print(f"error: {sentence}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("ended by Ctrl-C", file=sys.stderr)
        return INTERRUPTED


def _run(command: Command) -> int:
    if command.only_print:
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
    load_tensorflow_quietly()
    try:
        _do(command)
    except TerminatedError as end:
        print(f"{end}: the same command goes on from there", file=sys.stderr)
        return end.status
    return 0


def _do(command: Command) -> None:
    if command.name == "fit":
        from train.commands.seeds import fit_seeds

        fit_seeds(command)
    elif command.name == "evaluate":
        from train.commands.evaluate import evaluate

        evaluate(command.operands[0], command.config, as_json="json" in command.flags)
    elif command.name == "export":
        from train.commands.export import export

        export(command.operands[0], command.flags["out"], command.flags.get("feedback"))
    elif command.name == "angles":
        from train.commands.angles import angles

        angles(command.operands[0], as_json="json" in command.flags)
    elif command.name == "list":
        from train.commands.listing import print_all

        print_all(*command.operands)
    else:
        from train.commands.sweep import sweep

        sweep(command)


if __name__ == "__main__":
    sys.exit(main())
