"""KolenPollack where weights are restored, or a model is compiled anew, in the middle of things."""

from typing import Any

import keras
import numpy as np
import pytest

from tests.callbacks.gaps import COUPLED_SGD, HOOKS, LAW, Optimizer, gaps, law
from tests.callbacks.test_kolen_pollack_coupled import coupled_law
from tests.callbacks.training import SGD, compiled, dense, fit, images, own_train_step
from tfweightmirror.callbacks import KolenPollack


def sgd(**options: Any) -> Optimizer:
    """An optimizer that would do."""
    return SGD(0.1, **{"weight_decay": 0.6, **options})


# --- state that comes from elsewhere ------------------------------------------------------------


def test_the_law_begins_with_what_a_backup_restores(tmp_path: Any) -> None:
    def model() -> keras.Model:
        return compiled(dense("kolen_pollack"), sgd())

    def backup() -> keras.callbacks.Callback:
        return keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)

    fit(model(), KolenPollack(), backup(), epochs=2)
    second = model()
    history = fit(second, KolenPollack(), backup(), epochs=3)  # a wrong law would warn
    assert len(history["loss"]) == 1
    predicted = law(second.optimizer, 0.6, 8)
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)
    assert history["feedback_gap"] == pytest.approx([predicted], rel=LAW)


def test_state_that_is_restored_after_the_begin_is_kept() -> None:
    model, callback = compiled(dense("kolen_pollack"), sgd()), KolenPollack()
    before = gaps(model)

    class Restores(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            state = callback.state()
            state["first_gaps"].assign(np.array([*before.values()]) * 4.0)
            state["predicted"].assign([0.25, 0.25])

    history = fit(model, callback, Restores())
    predicted = 0.25 * law(model.optimizer, 0.6, 8)
    assert history["feedback_gap_predicted"] == pytest.approx([predicted], rel=1e-5)
    assert history["feedback_gap"] == pytest.approx([predicted], rel=LAW)
    np.testing.assert_allclose(callback.state()["first_gaps"], np.array([*before.values()]) * 4)


# --- a model that is compiled in mid-training ---------------------------------------------------


class CompilesAgain(keras.callbacks.Callback):
    """At the begin of the second epoch, as is done to unfreeze layers."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.shared: list[bool] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.get_layer("hidden").trainable = True
            compiled(self.model, self.optimizer)
            self.model.make_train_function(force=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.shared.append(all(hook in vars(self.model.optimizer) for hook in HOOKS))


def test_an_optimizer_that_is_compiled_in_mid_training_is_followed() -> None:
    first, second = sgd(), SGD(0.05, momentum=0.9, weight_decay=2.0)
    model = compiled(dense("kolen_pollack"), first)
    model.get_layer("hidden").trainable = False
    before, again = gaps(compiled(model, first)), CompilesAgain(second)
    history = fit(model, KolenPollack(), again, epochs=2)
    expected = {"hidden": law(second, 2.0, 8), "head": law(first, 0.6, 8) * law(second, 2.0, 8)}
    for name, gap in gaps(model).items():
        assert gap / before[name] == pytest.approx(expected[name], rel=LAW), name
    predicted = [law(first, 0.6, 8), expected["hidden"]]  # each time the largest that has moved
    assert history["feedback_gap_predicted"] == pytest.approx(predicted, rel=1e-5)
    assert history["feedback_gap"] == pytest.approx(predicted, rel=LAW)
    assert again.shared == [True, True]
    assert not any(hook in vars(first) or hook in vars(second) for hook in HOOKS)
    assert own_train_step(model)


def test_a_new_optimizer_begins_without_momentum_under_coupled_decay() -> None:
    options = {"momentum": 0.9, "coupled_weight_decay": 0.1}
    model = compiled(dense("kolen_pollack"), COUPLED_SGD(0.1, **options))
    before = gaps(model)
    fit(model, KolenPollack(), CompilesAgain(COUPLED_SGD(0.1, **options)), epochs=2)
    of_one = coupled_law([0.1] * 8, 0.1, 0.9, nesterov=False)
    assert of_one**2 != pytest.approx(coupled_law([0.1] * 16, 0.1, 0.9, nesterov=False), rel=0.1)
    for name, gap in gaps(model).items():
        assert gap / before[name] == pytest.approx(of_one**2, rel=LAW), name


def test_an_optimizer_that_is_compiled_in_mid_training_is_checked() -> None:
    model = compiled(dense("kolen_pollack"), sgd())
    with pytest.raises(ValueError, match="needs weight decay"):
        fit(model, KolenPollack(), CompilesAgain(SGD(0.1)), epochs=2)


def test_driven_by_hand_around_train_on_batch_the_law_is_followed() -> None:
    model = compiled(dense("kolen_pollack"), sgd())
    callback = KolenPollack()
    told = keras.callbacks.CallbackList([callback], model=model, epochs=1)
    x, y = images(4)
    before, logs = gaps(model), dict[str, Any]()
    told.on_train_begin()
    for batch in range(4):
        told.on_train_batch_begin(batch)
        model.train_on_batch(x[batch * 8 : batch * 8 + 8], y[batch * 8 : batch * 8 + 8])
        told.on_train_batch_end(batch)
    callback.on_epoch_end(0, logs)
    told.on_train_end()
    predicted = law(model.optimizer, 0.6, 4)
    assert logs["feedback_gap_predicted"] == pytest.approx(predicted, rel=1e-5)
    for name, gap in gaps(model).items():
        assert gap / before[name] == pytest.approx(predicted, rel=LAW), name
