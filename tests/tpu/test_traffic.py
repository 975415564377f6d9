"""Traffic of programs that are short enough to count it by hand."""

import pytest

from tests.tpu.traffic import memory_traffic

# Lines as the TPU compiler prints them. A kernel is copied ahead into scratch memory, half of x is
# sliced ahead into it, and a fusion takes both and x, and gives one result to each memory.
PROGRAM = """HloModule step, is_scheduled=true

%fused (p: f32[8,4]) -> f32[8,4] {
  ROOT %inside = f32[8,4]{1,0:T(8,128)} negate(%p)
}

ENTRY %main.0 (x: bf16[16,8], w: f32[8,4]) -> (f32[8,4]) {
  %x = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}
  %w = f32[8,4]{1,0:T(8,128)} parameter(1)
  %copy-start = (f32[8,4]{1,0:T(8,128)S(1)}, f32[8,4]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%w)
  %copy-done = f32[8,4]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %slice-start = ((bf16[16,8]{1,0:T(8,128)(2,1)}), bf16[8,8]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:8]}
  %slice-done = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} slice-done(%slice-start)
  %fusion.1 = (f32[8,4]{1,0:T(8,128)}, /*index=1*/f32[4]{0:T(128)S(1)}) fusion(%copy-done, %slice-done, %x), kind=kOutput, calls=%fused, metadata={op_name="f(g)"}
  %gte = f32[8,4]{1,0:T(8,128)} get-tuple-element(%fusion.1), index=0
  ROOT %tuple = (f32[8,4]{1,0:T(8,128)}) tuple(%gte)
}
"""  # noqa: E501


def test_each_tensor_in_main_memory_counts_once_a_use() -> None:
    kernel, x, half = 8 * 4 * 4, 16 * 8 * 2, 8 * 8 * 2
    ahead = kernel + half  # read; what is written stays in scratch memory
    assert memory_traffic(PROGRAM) == ahead + x + kernel  # the result has the kernel's shape


@pytest.mark.parametrize(
    "line",
    [
        "  %loop = (s32[]) while(%x), condition=%c, body=%b",
        "  %cond = f32[4]{0} conditional(%x), branch_computations={%a, %b}",
        "  %sum = (f32[4]{0}, f32[4]{0}) all-reduce-start(%w), replica_groups={{0,1}}",
    ],
    ids=lambda line: line.split()[0],
)
def test_traffic_that_cannot_be_read_off_is_refused(line: str) -> None:
    program = PROGRAM.replace("  %gte =", f"{line}\n  %gte =")
    with pytest.raises(ValueError, match="whose traffic is not known"):
        memory_traffic(program)
