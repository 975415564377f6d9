"""Whether a committed cost got worse: `python -m benchmarks.check`, or `make bench-check`.

A result of `benchmarks.step_time --keep` that is older than a change of mirror mode or of the
callbacks is measured again, with the same options. It fails if a ratio over the stock model got
worse by more than the spreads of both measurements together. Run it while nothing else runs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.step_time import KEPT, measured

# What a sweep, or a step under a callback, costs is written here.
WATCHED = ("tfweightmirror/mirror", "tfweightmirror/callbacks")


def is_older(commit: str) -> bool:
    """Whether what is watched has changed since `commit`, or that cannot be known."""
    difference = subprocess.run(
        ["git", "diff", "--quiet", commit, "--", *WATCHED], capture_output=True, check=False
    )
    return difference.returncode != 0


def worse(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One sentence for each ratio that got worse; arguments are two `results`."""
    sentences = []
    for measure, rows in before.items():
        for name, old in rows.items():
            new = now[measure][name]
            spread = old["over_stock_spread"] + new["over_stock_spread"]
            if new["over_stock"] > old["over_stock"] + spread:
                sentences.append(
                    f"{measure} of {name}: {new['over_stock']:.3f} of stock, was "
                    f"{old['over_stock']:.3f}, and the spread is {spread:.3f}"
                )
    return sentences


def main(folder: Path = KEPT) -> int:
    status = 0
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        if not is_older(document["where"]["commit"]):
            print(f"{path}: of these very mirror and callbacks")
            continue
        now = measured(argparse.Namespace(**{"first_layer": None} | document["options"]))
        for sentence in worse(document["results"], now["results"]):
            print(f"{path}: {sentence}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
