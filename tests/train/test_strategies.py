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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What every strategy gives: one device, two mirrored replicas, two worker processes."""
    folder = tmp_path_factory.mktemp("strategies")
    mirrored = ["--strategy=mirrored", "--replicas=2"]
    found = {
        "one_device": one_process(folder / "one.npz", "--strategy=one_device"),
        "mirrored": one_process(folder / "two.npz", *mirrored),
    }
    workers = start(
        2, [str(folder / "workers.npz")], module="tests.train.twenty_steps", cwd=REPOSITORY
    )
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    found["multi_worker"] = arrays(folder / "workers.npz")
    return found


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
@pytest.mark.parametrize("rule", RULES)
def test_twenty_steps_give_the_same_weights_under_every_strategy(
    results: dict[str, dict[str, np.ndarray]], rule: str, strategy: str
) -> None:
    one, other = results["one_device"], results[strategy]
    names = [name for name in one if name.startswith(f"{rule}/")]
    assert len(names) >= 6 + 3  # three layers' weights, loss, evaluation
    assert names == [name for name in other if name.startswith(f"{rule}/")]
    for name in names:
        # Angles are in degrees; where they are 0, rounding is all there is.
        tolerance = 1e-3 if "angle" in name else 1e-5
        np.testing.assert_allclose(other[name], one[name], atol=tolerance, rtol=0, err_msg=name)


def test_tolerance_tells_two_rules_apart(results: dict[str, dict[str, np.ndarray]]) -> None:
    bp, fa = results["one_device"]["bp/0"], results["one_device"]["fa/0"]
    assert np.abs(bp - fa).max() > 1e-3
