"""The process that holds the TPU compiler: programs in, the compiler's answers out, line by line.

Run as a script by `target.py`, with a Python that has jax, jaxlib and libtpu, and neither
TensorFlow nor this library: TensorFlow and libtpu must not share a process. libtpu compiles for a
TPU on any x86 Linux host. jax is only the binding here; the calls with an underscore are private,
hence the pinned versions of the extra `tpu-check`.

A request is the path of a serialised HloModuleProto and a number of replicas, as a JSON list. The
answer is a JSON object; the compiled program's text is written to a file beside the request's.
"""

import json
import math
import os
import pathlib
import sys
import time
from typing import Any

# No metadata server is asked, no attached TPU is looked for; libtpu's host-wide lock guards a chip
# that is not there.
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import numpy as np
from jax._src.interpreters import mlir
from jax.experimental import topologies
from jaxlib import _jax
from jaxlib.mlir import ir

TOPOLOGY = "v5e:2x2"
PRODUCTS = ("stablehlo.convolution", "stablehlo.dot_general")


def stablehlo(program: bytes) -> Any:
    """The program as the compiler takes it; call in an MLIR context."""
    module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(program))
    # TensorFlow's bridge copies what is read from and written to variables. StableHLO has no copy;
    # it is an identity, and the compiler makes the copies that it needs.
    copies = operations(module, ("mhlo.copy",))
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()
    return module


def operations(module: Any, names: tuple[str, ...]) -> list[Any]:
    """All operations of these names."""
    found: list[Any] = []

    def visit(operation: Any) -> Any:
        if operation.name in names:
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def compile_program(path: pathlib.Path, replicas: int, devices: tuple[Any, ...]) -> dict[str, Any]:
    """Compile for the first `replicas` of `devices`, one replica on each."""
    devices = devices[:replicas]
    options = _jax.CompileOptions()
    options.num_replicas, options.num_partitions = replicas, 1
    places = np.array([[device.id] for device in devices], np.int32)
    options.device_assignment = _jax.DeviceAssignment.create(places)
    with mlir.make_ir_context():
        module = stablehlo(path.read_bytes())
        products = [
            [str(ir.RankedTensorType(operand.type).element_type) for operand in product.operands]
            for product in operations(module, PRODUCTS)
        ]
        summed = [
            math.prod(ir.RankedTensorType(operand.type).shape)
            for total in operations(module, ("stablehlo.all_reduce",))
            for operand in total.operands
        ]
        start = time.perf_counter()
        executable = devices[0].client.compile(module, _jax.DeviceList(devices), options)
        seconds = time.perf_counter() - start
    text = path.with_suffix(".txt")
    text.write_text(executable.hlo_modules()[0].to_string())
    cost, memory = executable.cost_analysis(), executable.get_compiled_memory_stats()
    return {
        "seconds": seconds,
        "products": products,
        "summed": summed,
        "text": str(text),
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
    }


def main() -> None:
    """Answer until the requests end."""
    # Answers have the standard output for themselves; whatever else is printed goes to the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    described = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    for line in sys.stdin:
        path, replicas = json.loads(line)
        try:
            answer = compile_program(pathlib.Path(path), replicas, tuple(described.devices))
        except Exception as error:  # what the compiler refuses is an answer, too
            answer = {"refused": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
