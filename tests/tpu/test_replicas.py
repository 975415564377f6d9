"""Data parallelism on a TPU: no replica sends more than under backprop, but where B is averaged."""

import math
from collections.abc import Callable
from typing import Any

import keras
import pytest

import tfweightmirror as tfwm
from tests.communication import WAYS
from tests.tpu.conftest import Compile
from tests.tpu.replicas import in_replica, strategy_of
from tests.tpu.steps import small, train_step, trainable
from tests.tpu.target import TpuProgram, compiler_python

if compiler_python() is None:
    reason = "needs the TPU compiler, the packages of the extra `tpu-check`: run `make tpu-check`"
    pytest.skip(reason, allow_module_level=True)

pytestmark = pytest.mark.slow

InFour = Callable[..., tuple[TpuProgram, keras.Model]]


@pytest.fixture(scope="session")
def in_four_replicas(compiled: Compile) -> InFour:
    """`in_four_replicas(name, rule, *callbacks)`: one replica's whole step, and its model."""

    def compile_replica(
        name: str, rule: str | None, *callbacks: Any
    ) -> tuple[TpuProgram, keras.Model]:
        strategy = strategy_of(4)
        with strategy.scope():
            model = trainable(small, rule)
        step, specs = train_step(model, *callbacks)
        found = compiled(f"4 x small {name}", (in_replica(strategy, step), specs), replicas=4)
        assert found.host_operations == []
        assert found.operations["all-reduce"] > 0
        return found, model

    return compile_replica


@pytest.fixture(scope="session")
def sent_by_backprop(in_four_replicas: InFour) -> list[int]:
    """How many numbers every sum over replicas takes in the plain Keras model's step."""
    found, model = in_four_replicas("plain", None)
    assert found.summed == [math.prod(v.shape) for v in model.trainable_variables]
    return found.summed


@pytest.mark.parametrize("name", WAYS)
def test_a_replica_sends_what_backprop_sends_and_b_where_it_must(
    name: str, in_four_replicas: InFour, sent_by_backprop: list[int]
) -> None:
    way = WAYS[name]
    found, model = in_four_replicas(name, way.rule, *([way.callback()] if way.callback else []))
    kernels = [math.prod(pathway.kernel.shape) for pathway in tfwm.pathways(model)]
    assert sorted(found.summed) == sorted(sent_by_backprop + way.times_b * kernels)
    if way.rule == "wm" and way.times_b:
        assert found.operations["replica-id"] > 0  # each fires its own noise
