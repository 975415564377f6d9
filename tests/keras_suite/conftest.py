"""What Keras' tests expect of pytest, and what is told of them at the end."""

from collections import Counter
from typing import Any

import pytest

from tests.keras_suite.differences import refusal_of

IDS = "tests/keras_suite/test_keras_layers.py::"


def pytest_configure(config: pytest.Config) -> None:
    """Register Keras' marker."""
    config.addinivalue_line("markers", "requires_trainable_backend: of Keras; TensorFlow is one")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for every rule: passed, refused as documented, skipped by Keras, failed."""
    outcomes: dict[str, Counter[str]] = {}
    for outcome in ("passed", "skipped", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if not report.nodeid.startswith(IDS) or "::" not in report.nodeid:
                continue
            case, _, test = report.nodeid.removeprefix(IDS).partition("::")
            case, _, rule = case.rpartition("_")
            refusal = refusal_of(f"{case}.{test}") if outcome == "passed" else None
            said = f"refused ({refusal.kind})" if refusal else outcome
            outcomes.setdefault(rule, Counter())[said] += 1
    for rule, counts in outcomes.items():
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        terminalreporter.write_line(f"Keras' layer tests under {rule}: {said}")
