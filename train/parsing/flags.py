"""The commands' own flags."""

from __future__ import annotations

import re
from collections.abc import Sequence

from train.errors import UserError

# Keys that a sweep sets itself, and how to set them instead.
NOT_IN_A_GRID = {
    "seed": "Expected --seeds, such as --seeds 0,1",
    "run_directory": "A sweep gives every run a folder of its own",
    "data.train_split": "A sweep cuts it, see --validation",
    "data.test_split": "A sweep never looks at test images",
}


def seeds(text: str) -> tuple[int, ...]:
    """Of `--seeds 0,1,2`."""
    parts = [part.strip() for part in text.strip("[]").split(",")]
    numbers = [int(part) for part in parts if re.fullmatch("[0-9]+", part)]
    if len(set(numbers)) != len(parts) or any(number >= 2**32 for number in numbers):
        raise UserError(
            f"command line: seeds is {text!r}. Expected different whole numbers from 0 to "
            f"{2**32 - 1} with commas between, such as 0,1,2."
        )
    return tuple(numbers)


def jobs(text: str) -> int:
    """Of `--jobs 2`."""
    if not re.fullmatch("[0-9]+", text) or int(text) < 1:
        raise UserError(f"command line: jobs is {text!r}. Expected 1 or more runs at a time.")
    return int(text)


def share(text: str) -> float:
    """Of `--validation 0.1`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UserError(
            f"command line: validation is {text!r}. Expected a share between 0 and 1, such as 0.1."
        )
    return value


def grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`KEY=a,b` several times, as key to values."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        # A comma inside brackets belongs to a value: model.options.units=[16],[16,16].
        split = tuple(value.strip() for value in re.split(r",(?![^\[{]*[\]}])", values))
        if not equals or not all(split):
            raise UserError(
                f"command line: grid is {text!r}. Expected KEY=VALUE,VALUE,..., such as "
                f"optimizer.learning_rate=0.1,0.05."
            )
        if key in NOT_IN_A_GRID:
            raise UserError(f"command line: grid has the key {key}. {NOT_IN_A_GRID[key]}.")
        if key in found or len(set(split)) != len(split):
            raise UserError(f"command line: grid gives {key} or one of its values twice.")
        found[key] = split
    return found
