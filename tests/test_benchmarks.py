"""What `make bench-check` calls worse."""

from typing import Any

import pytest

from benchmarks.check import worse


def results(ratio: float, spread: float) -> dict[str, Any]:
    return {"fit": {"KolenPollack()": {"over_stock": ratio, "over_stock_spread": spread}}}


@pytest.mark.parametrize(("now", "told"), [(1.0, 0), (1.05, 0), (1.07, 1), (1.2, 1)])
def test_a_ratio_is_worse_beyond_the_spreads_of_both_measurements(now: float, told: int) -> None:
    sentences = worse(results(1.02, 0.02), results(now, 0.02))
    assert len(sentences) == told
    assert all("was 1.020" in sentence for sentence in sentences)
