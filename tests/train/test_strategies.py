"""The result does not depend on the strategy, nor on a worker that was lost on the way."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.test_cluster import finish
from tests.train.twenty_steps import RULES, train_all
from train.devices.cluster import WORKER_LOST
from train.local_cluster import start

REPOSITORY = Path(__file__).parents[2]


def one_process(out: Path, rules: tuple[str, ...], *arguments: str) -> dict[str, np.ndarray]:
    train_all(out, rules, arguments)
    return arrays(out)


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return dict(content)


def two_workers(out: Path, rules: tuple[str, ...], dies_after: int) -> list[tuple[int, str]]:
    """Statuses of two worker processes on loopback, and what they said."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    line = [str(out), ";".join(rules), str(dies_after)]
    module = "tests.train.twenty_steps"
    return finish(start(2, line, module=module, cwd=REPOSITORY, **pipes), within_s=300)


@pytest.mark.first
@pytest.mark.parametrize(
    "rules", [("wm, kp",), pytest.param(tuple(RULES), marks=pytest.mark.slow)], ids="; ".join
)
def test_twenty_steps_give_the_same_weights_under_every_strategy_and_after_the_loss_of_a_worker(
    tmp_path: Path, rules: tuple[str, ...]
) -> None:
    """One device, two mirrored replicas, two worker processes of which one dies and is started."""
    one = one_process(tmp_path / "one.npz", rules, "--strategy=one_device")
    mirrored = one_process(tmp_path / "two.npz", rules, "--strategy=mirrored", "--replicas=2")
    out = tmp_path / "workers.npz"
    (chief, said), (other, last) = two_workers(out, rules, dies_after=2)
    assert (chief, other) == (WORKER_LOST, -signal.SIGKILL), said + last
    assert "error: A worker is lost" in said
    assert "Start the same command again on all workers" in said
    assert "Traceback" not in said
    assert not out.exists()
    again = two_workers(out, rules, dies_after=0)
    assert [status for status, _ in again] == [0, 0], again
    for other_way in (mirrored, arrays(out)):
        assert list(one) == list(other_way)
        for name in one:
            # Angles are in degrees; where they are 0, rounding is all there is.
            tolerance = 1e-3 if "angle" in name else 1e-5
            np.testing.assert_allclose(
                other_way[name], one[name], atol=tolerance, rtol=0, err_msg=name
            )
    for rule in rules:
        weights = [name for name in one if name.startswith(f"{rule}/") and name[-1].isdigit()]
        assert len(weights) >= 6  # kernels and biases of three layers
    if len(rules) > 1:  # the tolerance tells two rules apart
        assert np.abs(one[f"{rules[0]}/0"] - one[f"{rules[1]}/0"]).max() > 1e-3
