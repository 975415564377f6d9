"""`python -m train fit --config configs/quickstart.yaml`; `python -m train --help` has the rest."""

from __future__ import annotations

import os
import pkgutil
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from train.errors import TerminatedError, UserError, see, with_source

if TYPE_CHECKING:
    from train.parsing.command_line import Command

INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
# Where each command is, imported when it is asked for, and what it takes of the command line.
RUNS: Mapping[str, tuple[str, Callable[[Any, Command], object]]] = {
    "fit": ("commands.runs:fit_seeds", lambda run, c: run(c)),
    "sweep": ("commands.sweep:sweep", lambda run, c: run(c)),
    "evaluate": (
        "commands.trained:evaluate",
        lambda run, c: run(c.operands[0], c.config, as_json=c.json),
    ),
    "export": ("commands.trained:export", lambda run, c: run(c.operands[0], c.out, c.feedback)),
    "angles": ("commands.trained:angles", lambda run, c: run(c.operands[0], as_json=c.json)),
    "compare": ("commands.compare:compare", lambda run, c: run(*c.operands, as_json=c.json)),
    "list": ("commands.listing:print_all", lambda run, c: run(*c.operands)),
    "report": ("report.write:report", lambda run, c: run(c.operands, c.out)),
}
NEED_NO_TENSORFLOW = ("compare", "list", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status; what is no fault of this code is a sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sources: Mapping[str, str] = {}
    mistake: Exception
    try:
        try:
            from train.parsing.command_line import read_command

            command = read_command(arguments)
            sources = command.sources
            return _run(command)
        finally:
            sys.stdout.flush()
    except UserError as error:
        mistake, sentence, status = error, with_source(str(error), sources), error.status
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in ("train", "tfweightmirror"):
            raise
        mistake, status = error, UserError.status
        sentence = (
            f"The Python package {package} is not installed, which the launcher needs. Expected "
            f"its packages: pip install -e '.[train]', in the clone."
        )
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
        return NOBODY_READS
    except OSError as error:
        if error.filename is None:
            raise
        mistake, status = error, UserError.status
        sentence = f"{error.strerror}: {os.fsdecode(error.filename)!r}. Expected another file."
    except KeyboardInterrupt:
        print("ended by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    if "--debug" in arguments:
        traceback.print_exception(mistake)
    # One line, although what others wrote (Keras, an API server) may have several.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", sentence)  # Keras writes some words in bold
    print("error:", re.sub(r"\s*\n\s*", " ", plain), file=sys.stderr)
    return status


def _run(command: Command) -> int:
    if command.only_print:
        from train.parsing.yaml_file import to_annotated_yaml

        print(to_annotated_yaml(command.config), end="")
        return 0
    where, call = RUNS[command.name]
    if command.name in NEED_NO_TENSORFLOW:
        call(pkgutil.resolve_name(f"train.{where}"), command)
        return 0
    # It takes seconds to load: not before the configuration is known to be right.
    from train.parsing.start_up import load_tensorflow_quietly

    load_tensorflow_quietly()
    import tensorflow as tf

    from train.disk import reason_of
    from train.parts.faults import faults_as_user_errors
    from train.parts.named import import_folders

    import_folders(command.config)  # what a run is compared with may be named by an import path
    try:
        with faults_as_user_errors(command.config):
            call(pkgutil.resolve_name(f"train.{where}"), command)
    except TerminatedError as end:
        print(f"{end}: the same command goes on from there", file=sys.stderr)
        return end.status
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        if "No space left" in str(error):
            raise UserError(
                f"The disk is full: {reason_of(error)}. Expected room." + see("memory-and-disk")
            ) from error
        what = " ".join(str(error).split())[:120]
        raise UserError(
            f"Memory ran out{f' ({what})' if what else ''}. Expected less at a time: a smaller "
            f"training.batch_size or test_batch_size, data.storage=disk, or fewer --jobs."
            + see("memory-and-disk")
        ) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
