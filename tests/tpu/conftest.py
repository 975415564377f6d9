"""One compiler for all tests, and a table of what it said."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.tpu.steps import Step
from tests.tpu.target import Target, TpuProgram, compiler_python

Compile = Callable[..., TpuProgram]
ROWS = pytest.StashKey[list[str]]()
HEAD = (
    f"{'step':36}{'compile s':>10}{'convolutions':>13}{'Gflop':>9}{'MB read, written':>17}{'MB':>8}"
)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The compiler's process."""
    python = compiler_python()
    assert python is not None
    target = Target(python, tmp_path_factory.mktemp("tpu"))
    yield target
    target.close()


@pytest.fixture(scope="session")
def compiled(target: Target, pytestconfig: pytest.Config) -> Compile:
    """`compiled(name, (step, specs), replicas=1)`: the TPU program, a row of the table."""
    rows = pytestconfig.stash.setdefault(ROWS, [HEAD])

    def compile_step(name: str, step: Step, **options: Any) -> TpuProgram:
        program = target.compile(*step, **options)
        rows.append(
            f"{name:36}{program.seconds:10.1f}{program.convolutions:13}"
            f"{program.flops / 1e9:9.4f}{program.bytes_accessed / 1e6:17.2f}"
            f"{program.total_bytes / 1e6:8.2f}"
        )
        return program

    return compile_step


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("compiled ahead of time for TPU v5e")
        for row in rows:
            terminalreporter.write_line(row)
