"""Parts of a user's own that fail, for test_refusals."""

from typing import Any

import keras


def no_model(inputs: Any, outputs: Any) -> Any:
    """Like a name that is not in a dictionary."""
    return {}["units"]


def two_outputs(inputs: Any, outputs: Any) -> keras.Model:
    """One more than there are targets."""
    x = keras.Input(inputs)
    y = keras.layers.Dense(outputs[0])(keras.layers.Flatten()(x))
    return keras.Model(x, [y, y])


def no_weights(inputs: Any, outputs: Any) -> keras.Model:
    """Nothing to train."""
    x = keras.Input(inputs)
    return keras.Model(x, keras.layers.Flatten()(x)[:, : outputs[0]])


def no_loss(y_true: Any, y_pred: Any) -> Any:
    """Fails when it is called."""
    raise RuntimeError("the loss is broken")


class NoMetric(keras.metrics.Mean):
    """Fails when it is called."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        raise LookupError("the metric is broken")


class NoCallback(keras.callbacks.Callback):
    """Fails in the first step."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise RuntimeError("the callback is broken")


class NoState(keras.callbacks.Callback):
    """Its state is no variable."""

    def state(self) -> dict[str, int]:
        return {"count": 3}


class TextInLogs(keras.callbacks.Callback):
    """A measure that is no number."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["mood"] = "good"


class NoSchedule:
    """Of no class that Keras knows."""
