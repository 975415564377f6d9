"""Canary: every private hook of Keras' `fit` still does what this library relies on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.convert_helpers import chain, compiled
from tfweightmirror._internals import fit_hooks as hooks


def test_a_fit_of_a_model_is_seen_from_within_and_no_longer_after_it() -> None:
    seen = []

    class Asks(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            seen.append((hooks.is_fitting(self.model), hooks.is_fitting(other)))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise KeyboardInterrupt

    model, other = compiled(chain(), run_eagerly=True), chain()
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.zeros((2, 6, 6, 2)), np.zeros((2, 3)), verbose=0, callbacks=[Asks()])
    assert seen == [(True, False)]
    assert not hooks.is_fitting(model)


def test_keras_says_that_backup_and_restore_has_put_a_training_back(tmp_path: Path) -> None:
    model = compiled(chain())
    backup = keras.callbacks.BackupAndRestore(str(tmp_path), save_freq=1)
    backup.set_model(model)
    backup.on_train_begin()
    assert not hooks.was_restored(model)
    backup.on_train_batch_end(1)
    backup.on_train_begin()
    assert hooks.was_restored(model)


@pytest.mark.parametrize("metrics", [None, ["mae"]])
def test_what_the_first_trace_would_make_is_made_before(metrics: Any) -> None:
    traces = []

    class Traced(keras.layers.Layer):
        def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
            traces.append(training)
            return x

    def model() -> keras.Model:
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(3, name="head")(Traced()(inputs)))
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, name="sgd")
        model.compile(optimizer, "mse", metrics=metrics, jit_compile=False)
        return model

    x, y = tf.ones((8, 4)), tf.ones((8, 3))
    data = tf.data.Dataset.from_tensors((x, y))
    made = []
    for before in (False, True):
        one = model()
        if before:
            hooks.make_training_variables(one, data.element_spec)
            assert one.optimizer.built
            assert metrics is None or one._compile_metrics.built
        traces.clear()
        one.fit(data, shuffle=False, verbose=0)
        assert traces.count(True) == (1 if before else 2)
        made.append([v.path for v in (*one.optimizer.variables, *one.metrics_variables)])
    assert made[0] == made[1]


def test_nothing_is_made_where_it_is_not_known_before() -> None:
    unbuilt = compiled(keras.Sequential([keras.layers.Dense(3)]))
    hooks.make_training_variables(unbuilt, tf.TensorSpec((8, 4)))
    assert not unbuilt.optimizer.built
    model = compiled(chain())
    hooks.make_training_variables(model, None)
    assert not model.optimizer.built
    frozen = chain()
    frozen.trainable = False
    hooks.make_training_variables(compiled(frozen), tf.TensorSpec((8, 6, 6, 2)))
    assert not frozen.optimizer.built
