"""Conversion to direct feedback alignment: whose error it is, what is refused, what is kept."""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.convert_helpers import chain, changes, compiled, fit, images, vectors
from tests.slow import slow_but
from tfweightmirror.rules import DirectFeedbackAlignment

k = keras.layers


def rules_of(model: keras.Model) -> dict[str, tuple[str, int | None, bool]]:
    found = {}
    for pathway in tfwm.pathways(model):
        rule: Any = pathway.rule
        direct = isinstance(rule, DirectFeedbackAlignment)
        told = (rule.error_cells, rule.is_output) if direct else (None, False)
        found[pathway.name] = (rule.name, *told)
    return found


DIRECT = "direct_feedback_alignment"


def test_the_last_layer_that_is_called_is_the_output_layer() -> None:
    class HeadFirst(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.low = k.Dense(3, name="head"), k.Dense(4, name="low")

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.head(self.low(x))

    model = HeadFirst()
    model(vectors()[0])
    tfwm.convert_model(model, "dfa")
    assert rules_of(model) == {"low": (DIRECT, 3, False), "head": (DIRECT, 3, True)}


def test_b_leads_from_the_cells_of_the_output_to_the_cells_of_each_input() -> None:
    model = tfwm.convert_model(chain(), "dfa", seed=3)
    shapes = {p.name: tuple(p.feedback_kernel.shape) for p in tfwm.pathways(model)}
    assert shapes == {"conv": (72, 3), "depth": (12, 3), "hidden": (3, 3), "head": (5, 3)}
    kernels = [p.feedback_kernel for p in tfwm.pathways(model)]
    for kernel in kernels:  # Glorot-uniform by B's own shape
        limit = np.sqrt(6 / sum(kernel.shape))
        assert 0.5 * limit < np.abs(kernel).max() <= limit
        assert not kernel.trainable
    again = tfwm.convert_model(chain(), "dfa", seed=3)
    for kernel, pathway in zip(kernels, tfwm.pathways(again), strict=True):
        assert np.array_equal(kernel, pathway.feedback_kernel)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(kernels[2], kernels[3][:3])


@pytest.mark.parametrize("rule", slow_but(["fa"], ["backprop", "fa", "usf"]))
def test_layers_below_may_have_other_rules(rule: str) -> None:
    model, (x, y) = compiled(chain(), run_eagerly=True), images()
    fit(model, x, y)
    tfwm.convert_model(model, {"conv": rule, "*": "dfa"})
    known = rules_of(model)
    assert known.pop("conv", ("feedback_alignment",))[0] != DIRECT
    assert known == {
        "depth": (DIRECT, 3, False),
        "hidden": (DIRECT, 3, False),
        "head": (DIRECT, 3, True),
    }
    conv, depth = (model.get_layer(name) for name in ("conv", "depth"))
    before = conv.kernel.numpy()
    depth.feedback_kernel.assign(np.zeros(depth.feedback_kernel.shape))
    fit(model, x, y)
    assert np.array_equal(conv.kernel, before)  # all of its error came through B of `depth`


# --- refusals -----------------------------------------------------------------------------------


def sequential(*layers: k.Layer, shape: tuple[int | None, ...] = (4,)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers])


def two_outputs() -> keras.Model:
    inputs = keras.Input((4,))
    middle = k.Dense(4, name="middle")(inputs)
    return keras.Model(inputs, [middle, k.Dense(2, name="head")(middle)])


def stopped() -> keras.Model:
    inputs = keras.Input((4,))
    teacher = keras.ops.stop_gradient(k.Dense(4, name="teacher")(inputs))
    student = k.Dense(4, name="student")(inputs)
    return keras.Model(inputs, k.Dense(2, name="head")(student + teacher))


class InALoop(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.head = k.Dense(4, name="low"), k.Dense(2, name="head")
        self(tf.zeros((1, 4)))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        body = lambda i, h: (i + 1, self.low(h))  # noqa: E731
        return self.head(tf.while_loop(lambda i, _: i < 2, body, (0, x))[1])


def again() -> keras.Model:
    inner = tfwm.convert_model(sequential(k.Dense(4, name="inner"), k.Dense(4)), "dfa")
    return sequential(inner, k.Dense(2, name="head"))


def attention() -> keras.Model:
    inputs = keras.Input((5, 4))
    pooled = k.GlobalAveragePooling1D()(k.MultiHeadAttention(2, 2, name="mha")(inputs, inputs))
    return keras.Model(inputs, k.Dense(2)(pooled))


HEAD: dict[str, Any] = {"units": 2, "name": "head"}
REFUSALS: dict[str, tuple[Callable[[], keras.Model], Any, str]] = {
    "not built": (lambda: keras.Sequential([k.Dense(2)]), "dfa", "is not built.*Build it first"),
    "two outputs": (two_outputs, "dfa", r"output of shape \(None, 4\) that its last layer 'head'"),
    "positions": (
        lambda: sequential(k.Dense(3), k.Dense(**HEAD), shape=(5, 4)),
        "dfa",
        r"'head' \(Dense\) has outputs of shape \(None, 5, 2\).*end the model with pooling",
    ),
    "attention": (attention, "dfa", r"'mha' \(MultiHeadAttention\) cannot train by direct"),
    "recurrent": (
        lambda: sequential(k.LSTM(3, name="lstm"), k.Dense(2), shape=(5, 4)),
        "dfa",
        r"'lstm' \(LSTM\) cannot train by direct.*\{'lstm': 'backprop', '\*': \.\.\.\}",
    ),
    "sizes": (
        lambda: sequential(
            k.Conv1D(3, 3, name="conv"), k.GlobalMaxPooling1D(), k.Dense(2), shape=(None, 4)
        ),
        "dfa",
        r"'conv' \(FeedbackConv1D\) is built for inputs of shape \(None, None, 4\)",
    ),
    "loop": (InALoop, "dfa", r"'low' \(Dense\) is called inside a loop or a branch of the graph"),
    "stopped": (stopped, "dfa", r"No error of the output comes back to layer 'teacher' \(Dense\)"),
    "again": (again, {"head": "dfa"}, "trains by direct_feedback_alignment already"),
    "plain head": (
        lambda: sequential(k.Dense(3, name="low"), k.Dense(**HEAD)),
        {"head": "backprop", "*": "dfa"},
        r"The last layer of model .*'head' \(Dense\), is left to another rule or to backprop",
    ),
    "other head": (
        lambda: sequential(k.Dense(3, name="low"), k.Dense(**HEAD)),
        {"low": "dfa", "*": "fa"},
        r"'head' \(Dense\), is left to another rule",
    ),
    "cells": (
        lambda: sequential(k.Dense(3), k.Dense(**HEAD)),
        DirectFeedbackAlignment(error_cells=5),
        "was given error_cells=5, and the output layer has 2 cells",
    ),
    "all are told that they are the last": (
        lambda: sequential(k.Dense(3), k.Dense(**HEAD)),
        DirectFeedbackAlignment(is_output=True),
        r"was given is_output=True for layers that are not the last\. Leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_one_output_error_is_refused_and_left_as_it_was(name: str) -> None:
    make, rule, said = REFUSALS[name]
    model = make()
    before = [(type(layer), len(layer.weights)) for layer in model.layers]
    with pytest.raises(ValueError, match=said):
        tfwm.convert_model(model, rule)
    assert [(type(layer), len(layer.weights)) for layer in model.layers] == before


def test_layers_made_by_hand_ask_for_the_cells_of_the_output() -> None:
    layer = tfwm.layers.FeedbackDense(3, rule="dfa")
    with pytest.raises(ValueError, match=r"rule=DirectFeedbackAlignment\(error_cells=\.\.\.\)"):
        layer.build((None, 4))
    for cls in (tfwm.layers.FeedbackLSTM, tfwm.layers.FeedbackGRUCell):
        with pytest.raises(ValueError, match="cannot train by direct_feedback_alignment"):
            cls(3, rule="dfa")
    layer = tfwm.layers.FeedbackDense(3, rule=DirectFeedbackAlignment(5, is_output=True))
    with (
        pytest.raises(ValueError, match=r"gives outputs of shape \(2, 3\)\. Expected \(batch, 5\)"),
        tf.GradientTape(),
    ):
        layer(tf.ones((2, 4)))


def test_a_layer_that_the_model_does_not_call_does_not_train_alone() -> None:
    class WithSpare(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.head = k.Dense(4, name="spare"), k.Dense(2, name="head")

        def build(self, input_shape: Any) -> None:
            self.head.build(input_shape)

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.head(x)

    model = WithSpare()
    model(vectors()[0])
    tfwm.convert_model(model, "dfa")
    assert rules_of(model) == {"head": (DIRECT, 2, True)}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.spare(vectors()[0]))
    with pytest.raises(ValueError, match="'spare' trains by direct_feedback_alignment, but no"):
        tape.gradient(loss, model.spare.trainable_variables)


# --- what is kept -------------------------------------------------------------------------------


def kept(model: keras.Model, other: keras.Model) -> None:
    """The same B, and the same step."""
    x, y = images()
    ours, theirs = tfwm.pathways(model), tfwm.pathways(other)
    assert [p.rule for p in ours] == [p.rule for p in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert np.array_equal(one.feedback_kernel, two.feedback_kernel)
    if other.optimizer is None:
        compiled(other, run_eagerly=True)
    first, second = changes(model, x, y), changes(other, x, y)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_files_and_checkpoints_keep_b_and_whose_error_it_is(tmp_path: pathlib.Path) -> None:
    model, (x, y) = compiled(tfwm.convert_model(chain(), "dfa", seed=1), run_eagerly=True), images()
    fit(model, x, y)
    model.save(tmp_path / "model.keras")
    kept(model, keras.models.load_model(tmp_path / "model.keras"))
    model.save_weights(tmp_path / "m.weights.h5")
    tf.train.Checkpoint(model).write(str(tmp_path / "checkpoint"))
    other = compiled(tfwm.convert_model(chain(), "dfa", seed=2), run_eagerly=True)
    other.load_weights(tmp_path / "m.weights.h5")
    kept(model, other)
    other = compiled(tfwm.convert_model(chain(), "dfa", seed=2), run_eagerly=True)
    tf.train.Checkpoint(other).read(str(tmp_path / "checkpoint")).assert_consumed()
    kept(model, other)


def test_copies_hear_of_the_same_output_and_reset_draws_as_at_birth() -> None:
    model = compiled(tfwm.convert_model(chain(), "dfa", seed=1), run_eagerly=True)
    copy = compiled(keras.models.clone_model(model), run_eagerly=True)
    assert rules_of(copy) == rules_of(model)
    copy.set_weights(model.get_weights())
    kept(model, copy)
    born = [p.feedback_kernel.numpy() for p in tfwm.pathways(model)]
    tfwm.reset_feedback(model, seed=5)
    assert not np.array_equal(tfwm.pathways(model)[0].feedback_kernel, born[0])
    tfwm.reset_feedback(model)
    for pathway, array in zip(tfwm.pathways(model), born, strict=True):
        assert np.array_equal(pathway.feedback_kernel, array)
    tfwm.reset_feedback(model, initializer={"hidden": np.ones((3, 3))})
    assert np.array_equal(model.get_layer("hidden").feedback_kernel, np.ones((3, 3)))
    with pytest.raises(
        ValueError, match=r"for 'depth', whose feedback kernel has the shape \(12, 3\)"
    ):
        tfwm.reset_feedback(model, initializer={"depth": np.ones((2, 2, 3, 1))})


def test_stripped_it_is_the_plain_model() -> None:
    model, plain, (x, y) = (
        compiled(chain(), run_eagerly=True),
        compiled(chain(), run_eagerly=True),
        images(),
    )
    plain.set_weights(model.get_weights())
    fit(tfwm.convert_model(model, "dfa"), x, y)
    plain.set_weights([v.numpy() for v in model.weights if "feedback" not in v.name])
    tfwm.strip_feedback(model)
    assert [type(layer) for layer in model.layers] == [type(layer) for layer in plain.layers]
    assert not [v.path for v in model.variables if "feedback" in v.path]
    fit(model, x, y)
    fit(plain, x, y)
    for one, two in zip(model.weights, plain.weights, strict=True):
        assert np.array_equal(one, two)


def test_a_constraint_that_masks_b_is_refused_and_another_holds_w_alone() -> None:
    model = tfwm.convert_model(chain(), "dfa")
    with pytest.raises(ValueError, match=r"masks B as it masks W \(Sparse\), but under direct"):
        tfwm.training.constrain(model, tfwm.training.Sparse(0.5))
    plain = tfwm.training.constrain(chain(), tfwm.training.Sparse(0.5))
    with pytest.raises(ValueError, match=r"masks B as it masks W \(Sparse\), but under direct"):
        tfwm.convert_model(plain, "dfa")
    tfwm.training.constrain(model, tfwm.training.GlorotClip())
    assert all(p.feedback_kernel.constraint is None for p in tfwm.pathways(model))
