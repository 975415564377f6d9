"""Where Keras' tests may differ on feedback twins: what the documentation says is refused.

A test that is named here must meet its refusal, and a test that is not must pass: when Keras adds a
test or the library learns to do more, this table has to be looked at.
"""

import dataclasses
import fnmatch


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A documented refusal.

    Attributes:
        kind: What is refused.
        tests: Patterns of `Case.test` names.
        words: A regular expression for what the error says.
    """

    kind: str
    tests: tuple[str, ...]
    words: str


REFUSALS = (
    Refusal("sparse inputs", ("DenseTest.test_dense_sparse",), "received a sparse tensor"),
    Refusal(
        "LoRA",
        (
            "*.test_enable_lora*",
            "*.test_lora_rank_argument",
            "*.test_lora_weight_name",
            "*DenseTest.test_quantize_lora_integration_*",
            "MultiHeadAttentionTest.test_lora",
        ),
        "uses LoRA, where no single kernel",
    ),
    # Weights of a plain layer lack B; the test goes on to quantized layers.
    Refusal(
        "quantization",
        ("*DenseTest.test_legacy_load_own_variables",),
        "uses quantization, where no single kernel|expected [234] variables",
    ),
    # The test takes every error of `quantize` for a layer that has none, then misses int8 kernels.
    Refusal(
        "quantization",
        ("MultiHeadAttentionTest.test_quantize_int8",),
        r"x\.dtype=float32 and dtype=int8",
    ),
    Refusal(
        "quantization",
        (
            "*DenseTest.test_*_custom_quantizer",
            "*DenseTest.test_awq_*",
            "*DenseTest.test_gptq_*",
            "*DenseTest.test_int4_*",
            "DenseTest.test_dense_int8_weight_only_quantizer",
            "DenseTest.test_dense_quantize_config_*",
            "EinsumDenseTest.test_einsum_dense_quantize_*",
            "*DenseTest.test_quantize_by_setting_dtype_policy_*",
            "*DenseTest.test_quantize_dtype_argument_*",
            "*DenseTest.test_quantize_float8*",
            "*DenseTest.test_quantize_int_*",
            "*DenseTest.test_quantize_on_subclass_*",
            "*DenseTest.test_quantize_when_already_quantized_*",
            "*DenseTest.test_quantize_with_specific_equations_*",
            "MultiHeadAttentionTest.test_dtype_policy_map",
        ),
        "uses quantization, where no single kernel",
    ),
)

# Tests of functions alone: they make no layer that could be a twin.
WITHOUT_LAYERS = {"EinsumDenseTest.test_analyze_einsum_string_axes"}


def refusal_of(name: str) -> Refusal | None:
    """The refusal that the test `Case.test` must meet, if any."""
    for refusal in REFUSALS:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in refusal.tests):
            return refusal
    return None
