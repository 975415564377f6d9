"""Sign flips and attempts, counted against NumPy."""

from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.callbacks.training import compiled, dense, fit
from tests.slow import slow_but
from tfweightmirror.callbacks import SignFlips
from tfweightmirror.training import FixedSign, constrain


class KernelsAtEpochs(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        self.kernels = [self.model.get_layer("hidden").kernel.numpy().copy()]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.kernels.append(self.model.get_layer("hidden").kernel.numpy().copy())


@pytest.mark.slow
def test_flips_are_counted_from_epoch_to_epoch() -> None:
    model, seen = compiled(dense(None), keras.optimizers.SGD(0.3)), KernelsAtEpochs()
    history = fit(model, seen, SignFlips(), epochs=3)
    pairs = zip(seen.kernels, seen.kernels[1:], strict=False)
    expected = [np.mean(one * other < 0) for one, other in pairs]
    np.testing.assert_allclose(history["sign_flips/hidden"], expected, rtol=1e-6)
    assert expected[0] > 0
    assert "sign_attempts/hidden" not in history


@pytest.mark.parametrize("hold", slow_but([0.0], [0.0, 1e-10]))
def test_under_fixed_signs_there_are_attempts_and_no_flips(hold: float) -> None:
    model = constrain(compiled(dense("fa"), keras.optimizers.SGD(0.3)), FixedSign(hold=hold))
    fit(model)
    attempts = model.get_layer("hidden").kernel_constraint.attempts
    before = int(attempts)
    monitor = tfwm.callbacks.FeedbackMonitor(measures=["zeros"])
    history = fit(model, SignFlips(), monitor, epochs=2)
    assert history["sign_flips/hidden"] == [0, 0]
    counted = np.array(history["sign_attempts/hidden"]) * 64 * 6
    assert counted.sum() == pytest.approx(int(attempts) - before)
    assert before > 0
    assert (counted > 0).all()
    w = model.get_layer("hidden").kernel.numpy()
    assert history["zeros/hidden"][-1] == pytest.approx(np.mean(np.abs(w) <= np.float32(1e-10)))
    assert 0 < history["zeros/hidden"][-1] < 0.5


def test_two_kernels_of_a_layer_are_told_apart() -> None:
    separable = keras.layers.SeparableConv2D(2, 3, name="separable")
    lines, rnn = keras.layers.Reshape((6, 12)), keras.layers.SimpleRNN(3, name="rnn")
    model = keras.Sequential([keras.Input((8, 8, 1)), separable, lines, rnn])
    callback = SignFlips()
    callback.set_model(model)
    callback.on_train_begin()
    logs: dict[str, Any] = {}
    callback.on_epoch_end(0, logs)
    kernels = ("depthwise_kernel", "pointwise_kernel", "kernel", "recurrent_kernel")
    owners = ("separable", "separable", *["rnn/simple_rnn_cell"] * 2)
    assert set(logs) == {f"sign_flips/{o}/{k}" for o, k in zip(owners, kernels, strict=True)}


def test_a_model_without_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="SignFlips found no kernel in"):
        fit(
            compiled(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])),
            SignFlips(),
        )
