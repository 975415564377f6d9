"""`python -m train fit --config configs/quickstart.yaml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from train.command_line import parse
from train.config_file import to_yaml
from train.errors import UserError
from train.start_up import load_tensorflow_quietly


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

        fit(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
