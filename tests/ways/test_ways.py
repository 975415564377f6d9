"""Whatever way a model goes, its errors travel on B and its dW is backprop's."""

from typing import Any

import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.ways import building, direct, keeping, training  # noqa: F401  # they fill the table
from tests.ways.entry import WAYS, compiled, fit, mlp
from tests.ways.proof import Convert, Prove, prove
from tfweightmirror.layers import feedback_layer
from tfweightmirror.rules import FeedbackAlignment, SymmetricAlignment


def _marked(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow if WAYS[name].slow else ())


@pytest.mark.parametrize("name", [_marked(name) for name in WAYS])
def test_b_carries_the_error_and_dw_is_backprop_s(name: str) -> None:
    entry = WAYS[name]
    prove(entry.way, entry.rule, **entry.options)


# Rules whose B learns from signals, or is a product, by ways on which a gradient can be lost. Of
# symmetric alignment the proof knows B's step to the number, whatever scales the loss.
FURTHER = {
    "aa": ["run_eagerly", "jit_compile", "mirrored_strategy", "lstm_in_a_loop"],
    "ia": ["fit_then_convert_then_fit", "remat_of_listed_layers", "composite_cloned"],
    "sa": [
        "loss_scaling",
        "mirrored_strategy",
        "gradients_accumulate",
        "weights_of_samples_and_classes",
    ],
    "pfa": ["saved_as_h5", "checkpoint_restored", "mixed_bfloat16", "jit_compile", "siamese"],
}
QUICK = ("run_eagerly", "fit_then_convert_then_fit", "loss_scaling", "saved_as_h5")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pytest.param(name, rule, marks=[] if name in QUICK else [pytest.mark.slow])
        for rule, names in FURTHER.items()
        for name in names
    ],
)
def test_b_carries_the_error_and_learns_from_signals_or_as_a_product(name: str, rule: str) -> None:
    entry = WAYS[name]
    prove(entry.way, rule, **entry.options)


# --- the proof itself: each kind of fault, planted ----------------------------------------------


def eagerly(convert: Convert, prove: Prove) -> None:
    """A way that compiles nothing."""
    model = compiled(mlp(), run_eagerly=True)
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


def with_its_old_trace(convert: Convert, prove: Prove) -> None:
    """What a conversion would leave that renewed nothing."""
    model = compiled(mlp())
    fit(model)
    plain = model.train_function
    convert(model)
    model.train_function = plain
    prove(model, lambda: fit(model))


def with_a_plain_layer(convert: Convert, prove: Prove) -> None:
    """A layer that the conversion has not found."""
    model = compiled(mlp(), run_eagerly=True)
    fit(model)
    convert(model, plain="middle")
    prove(model, lambda: fit(model))


def with_another_loss(convert: Convert, prove: Prove) -> None:
    """A conversion that changes what is learned."""
    model = compiled(mlp(), run_eagerly=True)
    fit(model)
    if tfwm.pathways(convert(model)):
        compiled(model, loss="mae", run_eagerly=True)
        fit(model)
    prove(model, lambda: fit(model))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (
            with_its_old_trace,
            r"nothing hears of B of \['head', 'middle'\]",
        ),
        (with_a_plain_layer, r"\['middle'\] are plain layers"),
        (with_another_loss, "dW of 'head' is off by"),
    ],
)
def test_the_proof_sees_a_way_that_goes_wrong(way: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        prove(way, "fa")


@pytest.mark.parametrize(
    ("carrier", "said"),
    [
        (lambda w, b: b + 0.1 * w, "learns without B"),  # a part of the error on W
        (lambda w, b: 2.0 * b, "kernel' is off by"),  # not B itself
        (lambda w, b: w, "nothing hears of B"),  # backprop
    ],
)
def test_the_proof_sees_an_error_that_travels_on_something_else(
    monkeypatch: pytest.MonkeyPatch, carrier: Any, said: str
) -> None:
    monkeypatch.setattr(
        FeedbackAlignment, "backward_kernel", lambda self, w, b, seed: carrier(w, b)
    )
    with pytest.raises(AssertionError, match=said):
        prove(eagerly, "fa")


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "nothing teaches B of 'low'"), (2.0, r"learns (2\.0|1\.99).* times")]
)
def test_the_proof_sees_a_b_that_nobody_teaches_or_twice(
    monkeypatch: pytest.MonkeyPatch, share: float, said: str
) -> None:
    lose = lambda self, signals, loss=SymmetricAlignment.local_loss: (  # noqa: E731
        share * loss(self, signals)
    )
    monkeypatch.setattr(SymmetricAlignment, "local_loss", lose)
    with pytest.raises(AssertionError, match=said):
        prove(eagerly, "sa")


def test_the_proof_sees_a_dw_that_is_not_backprop_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asymmetric = feedback_layer.asymmetric

    def steeper(op: Any, rule: Any, **options: Any) -> Any:
        """The same outputs and carriers, and dW times 1.5."""
        return asymmetric(lambda x, w: op(x, 1.5 * w - tf.stop_gradient(0.5 * w)), rule, **options)

    monkeypatch.setattr(feedback_layer, "asymmetric", steeper)
    with pytest.raises(AssertionError, match="dW of 'head' is off by"):
        prove(eagerly, "fa")


def test_the_proof_sees_a_dw_that_depends_on_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a gradient of B does that comes into W's."""
    call = tfwm.layers.FeedbackDense.call

    def leaking(self: Any, inputs: Any, **options: Any) -> Any:
        w, b = (tf.convert_to_tensor(v) for v in (self.kernel, self.feedback_kernel))
        leak = tf.reduce_sum((w - tf.stop_gradient(w)) * b)
        return call(self, inputs, **options) * (1.0 + leak)

    monkeypatch.setattr(tfwm.layers.FeedbackDense, "call", leaking)
    with pytest.raises(AssertionError, match="'low' learns without B of 'low'"):
        prove(eagerly, "fa")
