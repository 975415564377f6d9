"""Product feedback alignment: two matrices carry the error, and one of them learns."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.layers import numpy_reference
from tests.layers.kinds import (
    BY_NAME,
    KINDS,
    ONE_OF_EACH,
    Kind,
    copy_forward_weights,
    error_at,
    gradients,
    pathways_of,
    relative_error,
)
from tests.layers.test_local_losses import some_kinds
from tests.slow import slow_but
from tests.test_higher_derivatives import taken_at_once
from tests.ways.proof import carry_w
from tfweightmirror.rules import ProductFeedbackAlignment
from tfweightmirror.training import GlorotClip, Sparse, constrain

PFA = ProductFeedbackAlignment(expansion=2)
ORTHOGONAL = ProductFeedbackAlignment(expansion=1, factor="orthogonal")
QUICK = [BY_NAME[name] for name in ("dense_rank3", "conv2d_groups", "local2d")]


def matrices_by_hand(kind: Kind, kernel: np.ndarray) -> np.ndarray:
    """Kernel (.., fan_in, fan_out) as (groups, fan_in, fan_out), for kinds where that is a view."""
    if kind.layer.startswith("Local"):
        rank = int(kind.layer[-2])
        positions = int(np.prod(kernel.shape[:rank]))
        return kernel.reshape(positions, -1, kernel.shape[-1])
    groups = kind.options.get("groups", 1)
    parts = np.split(kernel, groups, axis=-1)
    return np.stack([part.reshape(-1, part.shape[-1]) for part in parts])


def kernel_by_hand(kind: Kind, matrices: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The inverse of `matrices_by_hand`."""
    if kind.layer.startswith("Local"):
        return matrices.reshape(like.shape)
    groups, _, fan_out = matrices.shape
    parts = [m.reshape(*like.shape[:-1], fan_out) for m in matrices]
    return np.concatenate(parts, axis=-1) if groups > 1 else parts[0]


CONVENTIONAL = [
    k for k in KINDS if k.layer == "Dense" or k.layer[:5] in ("Conv1", "Conv2", "Local")
]
CONVENTIONAL = [k for k in CONVENTIONAL if "Transpose" not in k.layer]


@pytest.mark.parametrize("rule", slow_but([PFA], [PFA, ORTHOGONAL]), ids=lambda rule: rule.factor)
@some_kinds(CONVENTIONAL, QUICK)
def test_error_and_gradients_are_those_of_the_equations(kind: Kind, rule: Any) -> None:
    """`dx = R F dy`, `dR = x (F dy)^T`, F still; with R F from the kernel's own axes."""
    layer = kind.twin(rule)
    layer(*kind.inputs())
    (pathway,) = layer.pathways
    found = gradients(layer, kind.inputs())
    x = np.asarray(kind.inputs()[0], "f8")
    w, learned, fixed = (
        np.asarray(v, "f8")
        for v in (pathway.kernel, pathway.feedback_kernel, pathway.feedback_factor)
    )
    b = kernel_by_hand(kind, learned @ fixed, w)
    if getattr(layer, "synapses", None) is not None:
        b = np.where(layer.synapses, b, 0.0)
    maps = numpy_reference.maps_of(kind.layer, kind.options)
    error = np.asarray(error_at(np.empty(found.output.shape)), "f8")
    _, dx, (dw,) = numpy_reference.chain(maps, x, [w], [b], error)
    to_learned = matrices_by_hand(kind, dw) @ np.swapaxes(fixed, 1, 2)
    assert relative_error(found.inputs[0], dx) < 1e-5
    assert relative_error(found.weights["kernel"], dw) < 1e-5
    assert relative_error(found.weights["feedback_kernel"], to_learned) < 1e-5
    assert "feedback_factor" not in found.weights
    assert relative_error(pathway.backward_kernel(), b) < 1e-6


@some_kinds(ONE_OF_EACH, [BY_NAME["dense_rank2"], BY_NAME["lstm"]])
def test_where_the_product_is_w_a_layer_is_the_plain_one(kind: Kind) -> None:
    plain, twin = kind.plain(), kind.twin(PFA)
    for layer in (plain, twin):
        layer(*kind.inputs())
    copy_forward_weights(plain, twin)
    before = gradients(twin, kind.inputs())
    for pathway in pathways_of(twin):
        carry_w(pathway)
    expected, found = gradients(plain, kind.inputs()), gradients(twin, kind.inputs())
    np.testing.assert_array_equal(found.output, expected.output)
    for name, gradient in expected.forward().items():
        if name != "key/bias":  # zero, but for rounding
            assert relative_error(found.forward()[name], gradient) < 1e-4, name
    for one, other in zip(before.inputs, expected.inputs, strict=True):
        assert relative_error(one, other) > 0.1


def test_where_the_product_is_w_a_gradient_penalty_is_backprops() -> None:
    kind = BY_NAME["dense_rank2"]
    plain, twin = kind.plain(), kind.twin(PFA)
    for layer in (plain, twin):
        layer(*kind.inputs())
    copy_forward_weights(plain, twin)
    carry_w(twin.pathways[0])
    expected = taken_at_once(plain, kind.inputs(), [plain.kernel])[0]
    learned = twin.feedback_kernel
    to_w, to_learned = taken_at_once(twin, kind.inputs(), [twin.kernel, learned])
    assert relative_error(to_w, expected) < 1e-4
    fixed = twin.feedback_factor.numpy()
    assert relative_error(to_learned, expected.numpy()[None] @ fixed.transpose(0, 2, 1)) < 1e-4


X = np.random.default_rng(0).normal(size=(16, 12)).astype("f4")
Y = np.random.default_rng(1).normal(size=(16, 3)).astype("f4")


def network(rule: Any, optimizer: Any = None, seed: int = 0) -> keras.Sequential:
    keras.utils.set_random_seed(seed)
    dense = tfwm.layers.FeedbackDense
    layers = [dense(10, "tanh", name="low", rule=rule), dense(3, name="head", rule=rule)]
    model = keras.Sequential([keras.Input((12,)), *layers], name="model")
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.5), "mse")
    return model


@pytest.mark.parametrize("rule", [PFA, ORTHOGONAL], ids=lambda rule: rule.factor)
def test_the_gap_to_what_w_makes_of_the_fixed_factor_dies_out_by_the_law(rule: Any) -> None:
    """`R - W F^T` shrinks by `1 - rate decay` a step, as the gap of Kolen-Pollack."""
    model = network(rule)

    def gaps() -> list[np.ndarray]:
        return [
            p.feedback_kernel - p.as_matrices(p.kernel) @ tf.transpose(p.feedback_factor, (0, 2, 1))
            for p in tfwm.pathways(model)
        ]

    before = gaps()
    fixed = [p.feedback_factor.numpy() for p in tfwm.pathways(model)]
    model.fit(in_batches(X, Y, 4), epochs=5, verbose=0, shuffle=False)
    for now, then in zip(gaps(), before, strict=True):
        assert np.linalg.norm(now) / np.linalg.norm(then) == pytest.approx(0.95**20, rel=1e-4)
    for pathway, value in zip(tfwm.pathways(model), fixed, strict=True):
        np.testing.assert_array_equal(pathway.feedback_factor, value)


@pytest.mark.parametrize("expansion", [1, 4, 10])
def test_the_angle_that_is_left_is_the_law_of_the_expansion(expansion: int) -> None:
    """`tan^2(angle) = (n_out - 0.2) / (expansion n_out)` between W and `W F^T F`, F uniform."""
    layer = tfwm.layers.FeedbackDense(80, rule=ProductFeedbackAlignment(expansion=expansion))
    layer.build((None, 300))
    (pathway,) = layer.pathways
    fixed = pathway.feedback_factor.numpy()
    pathway.feedback_kernel.assign(layer.kernel.numpy() @ fixed.transpose(0, 2, 1))
    expected = np.degrees(np.arctan(np.sqrt((80 - 0.2) / (80 * expansion))))
    assert float(tfwm.diagnostics.measures.weight_angle_deg(pathway)) == pytest.approx(
        expected, abs=1.0
    )


def test_orthogonal_factors_leave_no_angle_and_each_group_has_its_own() -> None:
    layer = tfwm.layers.FeedbackConv2D(8, 3, groups=2, rule=ORTHOGONAL)
    layer.build((None, 5, 5, 4))
    fixed = layer.feedback_factor.numpy()
    assert np.abs(fixed.transpose(0, 2, 1) @ fixed - np.eye(4)).max() < 1e-5
    assert np.abs(fixed[0] - fixed[1]).max() > 0.1


def test_no_weight_of_either_matrix_is_one_of_w_and_layers_differ() -> None:
    model = network(PFA)
    (low, head) = tfwm.pathways(model)
    for pathway in (low, head):
        assert not np.isin(pathway.feedback_kernel, pathway.kernel).any()
    assert not np.isin(low.feedback_factor, head.feedback_factor).any()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(X, training=True) ** 2)
    assert len(tape.gradient(loss, model.trainable_variables)) == 6  # F is none of them


def test_without_decay_it_warns_that_the_gap_stays() -> None:
    model = network(PFA, keras.optimizers.SGD(0.1))
    with pytest.warns(UserWarning, match="'product_feedback_alignment'.*no optimizer.*decays"):
        model.fit(X, Y, verbose=0)


def test_reset_draws_the_factor_that_learns_and_takes_arrays_of_its_shape() -> None:
    model = network(PFA)
    low = tfwm.pathways(model)[0]
    born, fixed = low.feedback_kernel.numpy(), low.feedback_factor.numpy()
    low.feedback_kernel.assign(0 * born)
    tfwm.reset_feedback(model)
    np.testing.assert_array_equal(low.feedback_kernel, born)
    tfwm.reset_feedback(model, initializer="he_normal", seed=3)
    assert np.abs(low.feedback_kernel - born).max() > 0.01
    tfwm.reset_feedback(model, initializer={"low": 2 * born})
    np.testing.assert_array_equal(low.feedback_kernel, 2 * born)
    np.testing.assert_array_equal(low.feedback_factor, fixed)
    with pytest.raises(ValueError, match=r"\(12, 10\) for 'low', whose factor that learns"):
        tfwm.reset_feedback(model, initializer={"low": low.kernel.numpy()})


def test_untied_convolutions_keep_what_carries_the_error() -> None:
    layer = tfwm.layers.FeedbackConv2D(4, 3, rule=PFA, padding="same", name="conv")
    model = keras.Sequential([keras.Input((5, 4, 2)), layer])
    tied = layer.pathways[0].backward_kernel().numpy()
    tfwm.conversion.untie(model)
    (pathway,) = tfwm.pathways(model)
    expected = np.where(model.layers[0].synapses, np.broadcast_to(tied, pathway.kernel.shape), 0.0)
    np.testing.assert_allclose(pathway.backward_kernel(), expected, atol=1e-6)


@pytest.mark.parametrize("constraint", [Sparse(0.5), GlorotClip(1.5)], ids=["sparse", "clip"])
def test_constraints_that_bind_entries_of_b_are_refused(constraint: Any) -> None:
    said = f"has the constraint {type(constraint).__name__}, which binds every entry of B"
    model = network(PFA)
    with pytest.raises(ValueError, match=said):
        constrain(model, constraint)
    assert model.layers[0].kernel_constraint is None
    plain = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(3), keras.layers.Dense(3)], name="plain"
    )
    constrain(plain, constraint, layers=["dense*"])
    with pytest.raises(ValueError, match=said):
        tfwm.convert_model(plain, "pfa")
    assert not tfwm.pathways(plain)
