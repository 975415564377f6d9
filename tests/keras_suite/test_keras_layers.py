"""Keras' own layer tests, on the feedback twins of every rule: `make keras-suite`.

They come from the source tree that KERAS_SOURCE names, which holds `keras/src`. Keras 3.15.1 has
them in its wheel; where a wheel has none, CONTRIBUTING.md says how to get them.
"""

import os
from pathlib import Path

import pytest

from tests.keras_suite.exchange import ALL_RULES, Exchange
from tests.keras_suite.source import test_modules as modules_of

if not os.environ.get("KERAS_SOURCE"):
    pytest.skip("needs the source of Keras: run `make keras-suite`", allow_module_level=True)

EXPECTED_WARNINGS = (
    "`shuffle=True` was passed",  # Keras' own, in its tests of plain layers too
    "Layer .* was passed an input with a mask",  # the same
    ".* trains with the rule 'weight_mirror', but nothing teaches",  # documented
)
pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore:{words}:UserWarning") for words in EXPECTED_WARNINGS),
]

paths = modules_of(Path(os.environ["KERAS_SOURCE"]))
for exchange in map(Exchange, ALL_RULES):
    for path in paths:
        globals().update(exchange.cases(path))
