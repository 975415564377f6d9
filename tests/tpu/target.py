"""A TPU to compile for: TensorFlow steps in, what the TPU compiler says about them out.

    tf.function --(TensorFlow's XLA bridge)--> HLO --(jaxlib)--> StableHLO --(libtpu)--> TPU program

Nothing runs. A program that compiles shows that every operation of the step has a TPU lowering,
that its shapes are static and that it fits the chip; the counts are the compiler's own.
"""

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import tensorflow as tf

from tests.tpu.traffic import ITEM_BYTES, memory_traffic

# What moves data between program and host, or waits for it. The compiler prints a host callback,
# `tf.py_function`'s kind, as a send and a receive or as a custom call.
HOST_OPERATIONS = ("infeed", "outfeed", "send", "recv")
# Custom calls that stay on the chip: 64-bit integers as two halves, tuples as one buffer, room for
# what several operations write (loops, concatenations), a promise about the indices of a gather.
DEVICE_CALLS = {
    *("X64SplitLow", "X64SplitHigh", "X64Combine", "ConcatBitcast"),
    *("AllocateBuffer", "AssumeGatherIndicesInBound"),
}


class RefusedError(Exception):
    """The step is no TPU program; the message names why."""


def compiler_python() -> str | None:
    """The Python that has the compiler; None where there is none.

    `make tpu-check` names one in TPU_CHECK_PYTHON, and then a compiler that is missing is a
    failure. Otherwise this one is taken if the extra is installed beside TensorFlow.
    """
    named = os.environ.get("TPU_CHECK_PYTHON")
    there = all(importlib.util.find_spec(name) for name in ("jax", "jaxlib", "libtpu"))
    return named or (sys.executable if there else None)


@dataclasses.dataclass(frozen=True)
class TpuProgram:
    """A compiled program.

    Attributes:
        seconds: What the compiler took.
        products: Element types of the operands of every convolution and matrix product, as the
            compiler got them.
        summed: How many numbers each sum over all replicas takes, as the compiler got them.
        text: The optimised program.
        flops, bytes_accessed: Of one step, by the compiler's cost analysis.
        argument_bytes: Variables and batch, padded to the chip's tiles.
        output_bytes, alias_bytes, temp_bytes: Results; results that take an argument's place;
            the rest, without what the compiler puts into the chip's scratch memory.
    """

    seconds: float
    products: list[list[str]]
    summed: list[int]
    text: str
    flops: float
    bytes_accessed: float
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int

    @property
    def total_bytes(self) -> int:
        """Memory that the step needs on the chip."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes

    @functools.cached_property
    def operations(self) -> collections.Counter[str]:
        """How often each operation stands in the program, those inside fusions included."""
        return collections.Counter(
            re.findall(r"^ +(?:ROOT )?\S+ = .*? ([a-z][\w-]*)\(", self.text, re.M)
        )

    @property
    def convolutions(self) -> int:
        """Convolutions and matrix products, which are one operation on a TPU."""
        return self.operations["convolution"] + self.operations["dot"]

    @property
    def memory_traffic(self) -> int:
        """Bytes between the chip's main memory and its core, each tensor once a use."""
        return memory_traffic(self.text)

    @property
    def host_operations(self) -> list[str]:
        """Whatever would stop the chip to ask the host: must be empty."""
        return host_operations(self.text)

    @functools.cached_property
    def stored_bytes(self) -> dict[tuple[int, ...], int]:
        """Padded size of the program's arguments, by shape."""
        return stored_bytes(self.text)


def host_operations(text: str) -> list[str]:
    """Operations of an HLO text that talk to the host, and custom calls that are not known."""
    moves = re.findall(rf" ((?:{'|'.join(HOST_OPERATIONS)})(?:-start|-done)?)\(", text)
    calls = set(re.findall(r'custom_call_target="([^"]*)"', text)) - DEVICE_CALLS
    return moves + sorted(calls)


def stored_bytes(text: str) -> dict[tuple[int, ...], int]:
    """Padded size of the arguments of an HLO text, by shape: `f32[3,20]{1,0:T(8,128)}` is 4096."""
    arguments = text.partition("entry_computation_layout={(")[2].partition(")->")[0]
    sizes = {}
    layout = r"(\w+)\[([\d,]+)\]\{([\d,]+):T\(([\d,]+)\)"
    for dtype, dimensions, order, tile in re.findall(layout, arguments):
        shape, tiles = _numbers(dimensions), _numbers(tile)
        padded = [shape[axis] for axis in _numbers(order)]  # the fastest first
        for i, size in enumerate(reversed(tiles)):
            padded[i] = math.ceil(padded[i] / size) * size
        sizes[shape] = math.prod(padded) * ITEM_BYTES[dtype]
    return sizes


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


class Target:
    """The compiler's process, which takes one program at a time.

    Args:
        python: The Python that has the compiler.
        folder: Where programs are exchanged.
    """

    def __init__(self, python: str, folder: pathlib.Path) -> None:
        self.folder = folder
        self._log = (folder / "compiler.log").open("w+")
        self._process = subprocess.Popen(
            [python, str(pathlib.Path(__file__).with_name("compiler.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def compile(
        self, step: Callable[..., Any], specs: Sequence[tf.TensorSpec], *, replicas: int = 1
    ) -> TpuProgram:
        """Compile `step` for tensors of `specs`.

        Raises:
            RefusedError: TensorFlow or the TPU compiler refuses the step.
        """
        path = self.folder / "step.pb"
        path.write_bytes(exported(step, specs))
        answer = self._ask([str(path), replicas])
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        text = pathlib.Path(answer.pop("text")).read_text()
        return TpuProgram(**answer, text=text)

    def _ask(self, request: list[Any]) -> dict[str, Any]:
        requests, answers = self._pipes()
        line = ""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says below why
            print(json.dumps(request), file=requests, flush=True)
            line = answers.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"The TPU compiler's process ended. It wrote:\n{self._log.read()}")
        return json.loads(line)

    def _pipes(self) -> tuple[TextIO, TextIO]:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        return requests, answers

    def close(self) -> None:
        """End the process."""
        for pipe in self._pipes():
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()
        self._log.close()


def exported(step: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> bytes:
    """The HloModuleProto that TensorFlow's bridge makes of `step`, before any optimisation.

    TensorFlow's wheels hold no kernels of the bridge for TPUs, so that those for CPUs are taken.
    They are the same code, but for the default generator of random numbers; this library names its
    own (`tfweightmirror/_internals/draws.py`).

    Raises:
        RefusedError: An operation has no XLA kernel, or a shape is not static.
    """
    function = tf.function(step, jit_compile=True, autograph=False)
    try:
        return function.experimental_get_compiler_ir(*specs)(
            stage="hlo_serialized", platform_name="CPU"
        )
    except (ValueError, tf.errors.OpError) as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error
