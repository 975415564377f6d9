"""The exchange of layers by twins does what it says, and what goes wrong turns red."""

import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import pytest

import tfweightmirror as tfwm
from tests.keras_suite import source
from tests.keras_suite.exchange import Exchange
from tests.layers.kinds import RULES

# In the words of Keras' tests. The names decide what must be refused.
MODULE = """
import numpy as np
from absl.testing import parameterized
from keras.src import layers
from keras.src import testing


class LayerTest(testing.TestCase):
    @parameterized.named_parameters(
        ("dense", layers.Dense, {"units": 2}, 2, (3, 4)),
        ("separable", layers.SeparableConv1D, {"filters": 2, "kernel_size": 2}, 3, (3, 4, 2)),
        ("attention", layers.MultiHeadAttention, {"num_heads": 1, "key_dim": 2}, 8, None),
    )
    def test_weights(self, layer_cls, init_kwargs, trainable, input_shape):
        query = {"query_shape": (2, 3, 4), "value_shape": (2, 3, 4)}
        self.run_layer_test(
            layer_cls,
            init_kwargs,
            input_shape=input_shape or query,
            expected_num_trainable_weights=trainable,
            expected_num_non_trainable_weights=0,
            run_training_check=False,
            run_mixed_precision_check=False,
        )

    def test_values(self):
        layer = layers.Dense(2)
        layer.build((None, 2))
        layer.set_weights([np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([5.0, 6.0])])
        self.assertAllClose(layer(np.array([[1.0, 1.0]])), [[9.0, 12.0]])

    def test_of_no_twin(self):
        layers.Layer()

    def test_enable_lora(self):
        layers.Dense(2, lora_rank=1)

    def test_enable_lora_that_works(self):
        layers.Dense(2)

    def test_refusal_that_is_not_documented(self):
        layers.Dense(2, lora_rank=1)
"""
WRONG = {"test_of_no_twin", "test_enable_lora_that_works", "test_refusal_that_is_not_documented"}


def failed(tmp_path: Path, exchange: Exchange) -> set[str]:
    """The tests of `MODULE` that fail on the twins of `exchange`."""
    path = tmp_path / "layer_test.py"
    path.write_text(MODULE, "utf-8")
    (case,) = exchange.cases(path).values()
    result = unittest.TestResult()
    unittest.TestLoader().loadTestsFromTestCase(case).run(result)
    assert result.testsRun == 8
    return {test.id().rpartition(".")[2] for test, _ in result.failures + result.errors}


@pytest.mark.parametrize("rule", ["usf", "brsf", "kp"])  # no B, no B but a state, a trained B
def test_right_twins_fail_only_where_no_twin_or_another_refusal_is_met(
    tmp_path: Path, rule: str
) -> None:
    exchange = Exchange(rule)
    assert issubclass(exchange.layers.Dense, tfwm.layers.FeedbackDense)
    assert exchange.layers.Dense(2).rule == RULES[rule]
    assert failed(tmp_path, exchange) == WRONG


class WithoutFeedback(tfwm.layers.FeedbackDense):
    """Has no B."""

    def build_feedback(self) -> None:
        self.feedback_kernel = self.feedback_state = None


class WrongOutput(tfwm.layers.FeedbackDense):
    """Is not the plain layer forward."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return 2 * super().call(inputs, training)


@pytest.mark.parametrize(
    ("twins", "found"),
    [
        ({keras.layers.Dense: WithoutFeedback}, "test_weights_dense"),
        ({keras.layers.Dense: WrongOutput}, "test_values"),
        ({keras.layers.Conv1D: tfwm.layers.FeedbackConv1D}, "test_values"),
    ],
    ids=["no feedback kernel", "wrong output", "not exchanged"],
)
def test_wrong_twin_is_found(tmp_path: Path, twins: Mapping[Any, Any], found: str) -> None:
    assert found in failed(tmp_path, Exchange("fa", {**twins}))


@pytest.mark.parametrize("version", ["1.0.0", keras.__version__, None])
def test_source_of_another_keras_or_without_tests_is_refused(
    tmp_path: Path, version: str | None
) -> None:
    if version:
        (tmp_path / "keras/src").mkdir(parents=True)
        (tmp_path / "keras/src/version.py").write_text(f'__version__ = "{version}"\n', "utf-8")
    received = f"Keras {version} without tests" if version else "no Keras without tests"
    with pytest.raises(ValueError, match=received) as refusal:
        source.test_modules(tmp_path)
    assert f"--branch v{keras.__version__}" in str(refusal.value)
