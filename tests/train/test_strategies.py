"""The result does not depend on the strategy, nor on a worker that was lost on the way."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.train.twenty_steps import RULES, train_all
from train.devices.cluster import WORKER_LOST

REPOSITORY = Path(__file__).parents[2]


def one_process(out: Path, rules: tuple[str, ...], *arguments: str) -> dict[str, np.ndarray]:
    train_all(out, rules, arguments)
    return arrays(out)


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return dict(content)


@pytest.mark.slow
@pytest.mark.first
@pytest.mark.parametrize(
    "rules",
    [pytest.param(("wm, kp",), marks=pytest.mark.always), tuple(RULES)],
    ids="; ".join,
)
def test_twenty_steps_give_the_same_weights_under_every_strategy_and_after_the_loss_of_a_worker(
    tmp_path: Path, rules: tuple[str, ...]
) -> None:
    """One device, two mirrored replicas, two worker processes of which one dies and is started."""
    one = one_process(tmp_path / "one.npz", rules, "--strategy=one_device")
    mirrored = one_process(tmp_path / "two.npz", rules, "--strategy=mirrored", "--replicas=2")
    out = tmp_path / "workers.npz"
    workers = subprocess.run(
        [sys.executable, "-m", "tests.train.twenty_steps", str(out), ";".join(rules), "2", "0"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
    )
    lost, again = json.loads(workers.stdout)
    assert lost == [WORKER_LOST, -signal.SIGKILL], workers.stderr
    assert "error: A worker is lost" in workers.stderr
    assert "Start the same command again on all workers" in workers.stderr
    assert "Traceback" not in workers.stderr
    assert again == [0, 0], workers.stderr
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
