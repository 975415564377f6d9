"""The next character of a text, from those before it: a task of classes on rows of tokens.

python -m train fit --data.name=train.data.characters:next_character ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from train.data import Sets
from train.errors import UserError

TEXT = Path(__file__).parent / "shakespeare" / "input.txt"


def next_character(
    length: int = 32, *, stride: int = 3, test_share: float = 0.1, file: str | None = None
) -> Any:
    """Windows of a text, each with the character behind it; the end of the text is for the test.

    Args:
        length: Characters that are seen.
        stride: Characters between the begins of two windows for training; those for the test
            stand side by side.
        test_share: Share of the text, at its end, that no training window reaches.
        file: A text in UTF-8; null: the embedded one, by Shakespeare.

    Returns:
        `Sets` of inputs (windows, length) and targets (windows,): places of characters in the
        alphabet of the whole text, which is the sorted set of its characters.
    """
    path = TEXT if file is None else Path(file)
    if min(length, stride) < 1 or not 0 < test_share < 1:
        raise UserError(
            f"data.options are length={length}, stride={stride}, test_share={test_share}. Expected "
            f"whole numbers of at least 1, and a share between 0 and 1."
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.options.file={path} cannot be read: {error}.") from error
    alphabet, codes = np.unique(np.array(list(text)), return_inverse=True)
    end = round(len(codes) * (1 - test_share))
    parts = {"train": (codes[:end], stride), "test": (codes[end:], length + 1)}
    if min(len(part) for part, _ in parts.values()) <= length:
        raise UserError(
            f"data.options.file={path} has {len(text)} characters. Expected more than "
            f"{length} + 1 for the training and as many for the test."
        )
    pairs = {name: _windows(part, length, step) for name, (part, step) in parts.items()}
    return Sets(pairs["train"], pairs["test"], target="classes", num_classes=len(alphabet))


def _windows(codes: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    windows = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::stride]
    return windows[:, :-1].astype(np.int32), windows[:, -1].astype(np.int32)
