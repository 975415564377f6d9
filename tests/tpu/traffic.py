"""Bytes that a compiled TPU program moves between the chip's memory and its core.

The compiler's own count of bytes adds what every instruction takes and gives, and counts a copy
ahead of time into the chip's scratch memory several times: at its begin, at its end, and once more
where it is used. Which tensors are copied ahead changes from program to program, so that the count
does, too, by more than a rule's B weighs. What crosses the memory's bus
depends on it less: only by what stays in scratch memory between two uses.
"""

import math
import re
from collections.abc import Iterator

ITEM_BYTES = {
    dtype: size
    for size, dtypes in {
        1: ("pred", "s8", "u8"),
        2: ("bf16", "f16", "s16", "u16"),
        4: ("f32", "s32", "u32"),
        8: ("f64", "s64", "u64"),
    }.items()
    for dtype in dtypes
}
# They name what others have made, or wait for it.
NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
# Their work stands in other computations of the program.
ELSEWHERE = ("while", "conditional", "call")
AHEAD = ("copy-start", "slice-start")

# `%name = bf16[8,128]{1,0:T(8,128)S(1)} copy(%operand), attributes`; the shape may be a tuple.
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)$", re.MULTILINE)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")


def memory_traffic(text: str) -> int:
    """Bytes read from and written to the chip's main memory in one run of an HLO program.

    Every operand and every result of an instruction counts once if it lies in main memory, a tensor
    in scratch memory (`S(1)` and other spaces in its layout) not at all; of a copy or a slice that
    runs ahead, only what is copied. Shapes count without the padding to tiles.

    Args:
        text: The optimised program, as text.

    Raises:
        ValueError: The program has a loop, a condition, a call or a collective, whose traffic is
            not known.
    """
    entry = text.partition("\nENTRY ")[2]
    shapes: dict[str, str] = {}
    moved = 0
    for name, shape, operation, rest in _INSTRUCTION.findall(entry):
        shapes[name] = shape
        ahead = operation in AHEAD
        if operation in ELSEWHERE or (operation.endswith("-start") and not ahead):
            raise ValueError(
                f"'{name}' is a {operation}, whose traffic is not known. Expected a program for "
                "one chip, of one computation."
            )
        if operation in NO_TRAFFIC or operation.endswith("-done"):
            continue
        operands = [shapes[operand] for operand in re.findall(r"%([\w.-]+)", _inside(rest))]
        if ahead:
            # (to, from, ..) of a copy, ((from), to, ..) of a slice.
            results = list(_arrays(shape))
            to = results[1 if shape.startswith("((") else 0]
            ends = [
                to[1],
                *(in_memory for operand in operands for _, in_memory in _arrays(operand)),
            ]
            moved += to[0] * sum(ends)
        else:
            sides = [shape, *operands]
            moved += sum(size for side in sides for size, there in _arrays(side) if there)
    return moved


def _inside(rest: str) -> str:
    """What stands before the parenthesis that closes an instruction's operands."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:place]
    return rest


def _arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """Bytes of every array of a shape, and whether it lies in main memory."""
    for dtype, dimensions, layout in _ARRAY.findall(shape):
        sizes = map(int, dimensions.split(",")) if dimensions else ()
        yield ITEM_BYTES[dtype] * math.prod(sizes), "S(" not in layout
