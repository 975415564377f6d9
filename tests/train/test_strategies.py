"""The result does not depend on the strategy; and what each strategy asks for."""

from pathlib import Path

import numpy as np
import pytest

from tests.train.twenty_steps import RULES, train_all
from train.local_cluster import start

REPOSITORY = Path(__file__).parents[2]


def one_process(out: Path, rules: tuple[str, ...], *arguments: str) -> dict[str, np.ndarray]:
    train_all(out, rules, arguments)
    return arrays(out)


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return dict(content)


@pytest.mark.first
@pytest.mark.parametrize(
    "rules", [("wm, kp",), pytest.param(tuple(RULES), marks=pytest.mark.slow)], ids="; ".join
)
def test_twenty_steps_give_the_same_weights_under_every_strategy(
    tmp_path: Path, rules: tuple[str, ...]
) -> None:
    """One device, two mirrored replicas, two worker processes on loopback."""
    one = one_process(tmp_path / "one.npz", rules, "--strategy=one_device")
    mirrored = one_process(tmp_path / "two.npz", rules, "--strategy=mirrored", "--replicas=2")
    workers = start(
        2,
        [str(tmp_path / "workers.npz"), ";".join(rules)],
        module="tests.train.twenty_steps",
        cwd=REPOSITORY,
    )
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    for other in (mirrored, arrays(tmp_path / "workers.npz")):
        assert list(one) == list(other)
        for name in one:
            # Angles are in degrees; where they are 0, rounding is all there is.
            tolerance = 1e-3 if "angle" in name else 1e-5
            np.testing.assert_allclose(other[name], one[name], atol=tolerance, rtol=0, err_msg=name)
    for rule in rules:
        weights = [name for name in one if name.startswith(f"{rule}/") and name[-1].isdigit()]
        assert len(weights) >= 6  # kernels and biases of three layers
    # The tolerance tells two rules apart.
    control = one_process(tmp_path / "control.npz", ("bp",), "--strategy=one_device")
    other_rule = next(rule for rule in rules if rule != "bp")
    assert np.abs(control["bp/0"] - one[f"{other_rule}/0"]).max() > 1e-3
