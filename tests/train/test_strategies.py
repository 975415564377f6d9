"""The result does not depend on the strategy; and what each strategy asks for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.train.twenty_steps import RULES
from train.local_cluster import start

REPOSITORY = Path(__file__).parents[2]


def one_process(out: Path, *arguments: str) -> dict[str, np.ndarray]:
    module = "tests.train.twenty_steps"
    subprocess.run([sys.executable, "-m", module, str(out), *arguments], cwd=REPOSITORY, check=True)
    return arrays(out)


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return dict(content)


@pytest.mark.first
def test_twenty_steps_give_the_same_weights_under_every_strategy(tmp_path: Path) -> None:
    """One device, two mirrored replicas, two worker processes on loopback."""
    one = one_process(tmp_path / "one.npz", "--strategy=one_device")
    mirrored = one_process(tmp_path / "two.npz", "--strategy=mirrored", "--replicas=2")
    workers = start(
        2, [str(tmp_path / "workers.npz")], module="tests.train.twenty_steps", cwd=REPOSITORY
    )
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    for other in (mirrored, arrays(tmp_path / "workers.npz")):
        assert list(one) == list(other)
        for name in one:
            # Angles are in degrees; where they are 0, rounding is all there is.
            tolerance = 1e-3 if "angle" in name else 1e-5
            np.testing.assert_allclose(other[name], one[name], atol=tolerance, rtol=0, err_msg=name)
    for rule in RULES:
        weights = [name for name in one if name.startswith(f"{rule}/") and name[-1].isdigit()]
        assert len(weights) >= 6  # kernels and biases of three layers
    # The tolerance tells two rules apart.
    assert np.abs(one["bp/0"] - one["fa/0"]).max() > 1e-3
