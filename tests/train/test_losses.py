"""Losses on logits, against NumPy."""

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfweightmirror.training import MultiClassHinge
from train.config import Part
from train.errors import UserError
from train.parts.losses import build_loss, build_metrics, check_logits

random = np.random.default_rng(2)
LOGITS = random.normal(scale=4, size=(6, 5)).astype("float32")
LABELS = random.integers(0, 5, 6)
TARGETS = np.eye(5)[LABELS]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def loss_and_gradient(name: Any, logits: np.ndarray = LOGITS) -> tuple[float, np.ndarray]:
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = build_loss(Part(name))(tf.constant(LABELS), z)
    return float(loss), tape.gradient(loss, z).numpy()


def test_sigmoid_cross_entropy_is_summed_over_outputs_and_averaged_over_samples() -> None:
    y = sigmoid(LOGITS.astype("float64"))
    expected = -(TARGETS * np.log(y) + (1 - TARGETS) * np.log(1 - y)).sum(-1).mean()
    assert loss_and_gradient("sigmoid")[0] == pytest.approx(expected, rel=1e-5)


def test_softmax_cross_entropy_is_averaged_over_samples() -> None:
    expected = -(TARGETS * np.log(softmax(LOGITS.astype("float64")))).sum(-1).mean()
    assert loss_and_gradient("softmax")[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "output"), [("sigmoid", sigmoid), ("softmax", softmax)])
def test_gradient_is_output_minus_target(name: str, output: Any) -> None:
    """The error that the released code sends back, per sample (Akrout et al. 2019)."""
    expected = (output(LOGITS.astype("float64")) - TARGETS) / len(LABELS)
    np.testing.assert_allclose(loss_and_gradient(name)[1], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_large_logits_give_finite_losses(name: str) -> None:
    loss, gradient = loss_and_gradient(name, 1e4 * LOGITS)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_labels_may_stand_in_a_column() -> None:
    loss = build_loss(Part("sigmoid"))
    assert float(loss(LABELS[:, None], LOGITS)) == float(loss(LABELS, LOGITS))


def test_hinge_of_amit_is_named_and_is_of_classes() -> None:
    loss = build_loss(Part("multi_class_hinge", {"mu": 0.25}), "classes")
    assert (type(loss), loss.mu) == (MultiClassHinge, 0.25)
    with pytest.raises(UserError, match="loss is multi_class_hinge, which is of classes, but data"):
        build_loss(Part("multi_class_hinge"), "values")
    with pytest.raises(UserError, match="multi_class_hinge refuses its options: mu of MultiClass"):
        build_loss(Part("multi_class_hinge", {"mu": -1}))


def test_sigmoid_loss_is_saved_by_name() -> None:
    loaded = keras.losses.deserialize(keras.losses.serialize(build_loss(Part("sigmoid"))))
    assert float(loaded(LABELS, LOGITS)) == loss_and_gradient("sigmoid")[0]


def scaled(y_true: Any, y_pred: Any, factor: float = 1.0) -> Any:
    return factor * keras.losses.mean_squared_error(y_true, y_pred)


def test_losses_of_keras_and_of_a_users_own_are_named_alike() -> None:
    y, z = np.array([[1.0, 2.0]]), np.array([[2.0, 4.0]])
    of_keras = build_loss(Part("mean_squared_error"))
    assert float(of_keras(y, z)) == 2.5
    assert float(build_loss(Part("huber", {"delta": 0.5}))(y, z)) == pytest.approx(0.625)
    own = "tests.train.test_losses:scaled"
    assert float(np.mean(build_loss(Part(own))(y, z))) == 2.5
    assert float(np.mean(build_loss(Part(own, {"factor": 3}))(y, z))) == 7.5
    (metric,) = build_metrics((Part("mean_absolute_error"),))
    metric.update_state(y, z)
    assert float(metric.result()) == 1.5


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part("softmx"), "loss is 'softmx', which is not known. Expected one of softmax, sigmoid"),
        (Part("softmx"), "Did you mean 'softmax'?"),
        (Part("huber", {"delt": 1}), "loss.options.delt is not an option of Huber."),
        (Part("softmax", {"x": 1}), "loss.options.x is not an option of softmax. It has none."),
        (Part("tests.train.test_losses:scaled", {"factor": "x"}), "is 'x'. Expected a number."),
        (Part("math:pi"), "loss=math:pi is 3.14159"),
    ],
)
def test_mistake_in_a_loss_is_told_in_one_sentence(part: Part, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        build_loss(part)
    assert expected in str(caught.value)


def test_loss_of_values_of_many_axes_is_one_number_an_example_and_can_be_saved() -> None:
    y, z = (random.normal(size=(6, 4, 3)).astype("float32") for _ in range(2))
    weights = np.array([1, 0, 1, 0, 0, 1], np.float32)
    of_class = build_loss(Part("mean_squared_error"), "values", axes=2)
    own = build_loss(Part("tests.train.test_losses:scaled"), "values", axes=2)
    expected = (((y - z) ** 2).mean((1, 2)) * weights).mean()
    for loss in (of_class, own, keras.losses.deserialize(keras.losses.serialize(of_class))):
        assert float(loss(y, z, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)


MSE = "mean_squared_error"


@pytest.mark.parametrize(
    ("kind", "loss", "metric", "refused"),
    [
        ("classes", "softmax", "sparse_categorical_accuracy", None),
        ("classes", "tests.train.test_losses:scaled", "sparse_categorical_accuracy", None),
        ("classes", MSE, "mean", f"loss is {MSE}, which compares values, but data.target is"),
        ("classes", "sigmoid", MSE, f"metrics is {MSE}, which compares values"),
        ("values", MSE, "mean_absolute_error", None),
        ("values", "softmax", "mean", "loss is softmax, which is of classes, but data.target is v"),
        ("inputs", "sigmoid", "mean", "data.target is inputs. Expected one of values, such as"),
        ("values", MSE, "sparse_categorical_accuracy", "metrics is sparse_categorical_accuracy"),
    ],
)
def test_loss_and_metric_have_to_fit_the_targets(
    kind: str, loss: str, metric: str, refused: str | None
) -> None:
    with pytest.raises(UserError) if refused else contextlib.nullcontext() as caught:
        build_loss(Part(loss), kind)
        build_metrics((Part(metric),), kind)
    assert refused is None or refused in str(caught.value)


def test_what_is_of_probabilities_needs_a_model_that_gives_them() -> None:
    loss = build_loss(Part("sparse_categorical_crossentropy"), "classes")
    metrics = build_metrics((Part("sparse_categorical_crossentropy"),), "classes")
    for activation in ("softmax", None):
        head = keras.layers.Dense(3, activation=activation, name="head")
        model = keras.Sequential([keras.Input((4,)), head], name="net")
        for measure, key in ((loss, "loss"), (metrics[0], "metrics")):
            if activation:
                check_logits(model, [measure])
                continue
            with pytest.raises(UserError, match=f"{key} is .* net gives logits: head has no act"):
                check_logits(model, [measure])
    # Inside what takes the mean over an example's values, too.
    wrapped = build_loss(Part("binary_crossentropy"), "values", axes=2)
    with pytest.raises(UserError, match="loss is binary_crossentropy of probabilities"):
        check_logits(model, [wrapped])
    check_logits(model, [build_loss(Part("softmax"), "classes"), build_loss(Part("sigmoid"))])
