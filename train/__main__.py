"""`python -m train fit --config configs/quickstart.yaml`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from train.command_line import parse
from train.config_file import to_yaml
from train.errors import UserError
from train.start_up import load_tensorflow_quietly

ENDED_BY_SIGTERM = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        config, only_print = parse(arguments)
        if only_print:
            print(to_yaml(config), end="")
            return 0
        # TensorFlow takes seconds to load: not before the configuration is known to be right.
        load_tensorflow_quietly()
        from train.fit import fit
        from train.survival import TerminatedError

        try:
            fit(config)
        except TerminatedError as end:
            print(f"{end}: the same command goes on from there", file=sys.stderr)
            return ENDED_BY_SIGTERM
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
