"""Keras' test modules from a source tree, run against the installed Keras."""

import importlib
import re
from pathlib import Path

import keras

# What must pass on twins, by the package under `keras.src.layers`.
MODULES = {
    "core": ("dense_test", "einsum_dense_test"),
    "convolutional": (
        "conv_test",
        "conv_transpose_test",
        "depthwise_conv_test",
        "separable_conv_test",
    ),
    "rnn": ("simple_rnn_test", "lstm_test", "gru_test"),
    "attention": ("multi_head_attention_test", "grouped_query_attention_test"),
}


def test_modules(source: Path) -> list[Path]:
    """The test modules under `source`, each imported once with Keras' own layers.

    Raises:
        ValueError: `source` is not the source of the installed Keras, or has no tests.
    """
    _refuse_other_versions(source)
    names = []
    for package, modules in MODULES.items():
        name = f"keras.src.layers.{package}"
        folder = source / "keras/src/layers" / package
        # Last: only what the installed Keras lacks, its tests, comes from the source tree.
        importlib.import_module(name).__path__.append(str(folder))
        names += [f"{name}.{module}" for module in modules]
    # Test modules import one another, and what they import must not see exchanged layers.
    return [Path(str(importlib.import_module(name).__file__)) for name in names]


def _refuse_other_versions(source: Path) -> None:
    version_file = source / "keras/src/version.py"
    found = re.search(
        r'__version__ = "(.*)"', version_file.read_text("utf-8") if version_file.is_file() else ""
    )
    has_tests = (source / "keras/src/layers/core/dense_test.py").is_file()
    if not found or found[1] != keras.__version__ or not has_tests:
        received = f"Keras {found[1]}" if found else "no Keras"
        tag = f"v{keras.__version__}"
        raise ValueError(
            f"'{source}' holds {received} {'with' if has_tests else 'without'} tests, and the "
            f"tests of the installed Keras {keras.__version__} are needed. Take "
            f"`git clone --depth 1 --branch {tag} https://github.com/keras-team/keras` and call "
            "`make keras-suite KERAS_SOURCE=/path/to/that/clone`."
        )
