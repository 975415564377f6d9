"""The long version of test_resume: many kills at random moments.

    python -m tests.train.kill_many --kills 30

Runs are killed by SIGKILL at random times after their training began, and started again with the
same command, until they finish; then a new one begins. Every finished run must equal, to the bit,
one that was never killed. About ten seconds a kill.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.train.killing import assert_same_bits, run

STRATEGIES = {"one_device": [], "mirrored": ["--strategy=mirrored", "--replicas=2"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--strategy", choices=STRATEGIES, default="one_device")
    options = parser.parse_args()
    arguments = STRATEGIES[options.strategy]
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        assert run(reference, *arguments) == 0
        kills = attempts = runs = 0
        while kills < options.kills:
            directory = Path(folder) / f"run_{runs}"
            status = -9
            while status != 0:
                attempts += 1
                # Attempts without a trap after many kills would never be needed: every start
                # writes a checkpoint after two steps at the latest.
                status = run(directory, *arguments, trap=("random", str(attempts)))
                kills += status == -9
                assert status in (0, -9), status
            assert_same_bits(reference, directory)
            runs += 1
            print(f"{kills} kills, {runs} finished runs, all equal to the bit", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
