"""Masks of W and B: drawn apart, and held by every optimizer and in every kind of layer."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.callbacks.training import compiled, dense, feedback, fit, kernels
from tests.slow import slow_but
from tests.training.masked import assert_held, masks, sparse
from tfweightmirror.callbacks import KolenPollack
from tfweightmirror.training import FixedSign, GlorotClip, Sparse, constrain

SGD = keras.optimizers.SGD
random = np.random.default_rng(8)


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", slow_but([0.5], [0.5, 0.1, 1.0]))
def test_w_and_b_have_the_share_each_and_not_the_same_entries(share: float) -> None:
    model = sparse("fa", share=share)
    w, b = masks(model)
    assert w.sum() == b.sum() == round(share * 64 * 6)
    both = share**2 * 64 * 6
    assert abs((w & b).sum() - both) < 4 * np.sqrt(both * (1 - share**2)) + 1e-9
    assert_held(model)
    assert model.get_layer("head").kernel_constraint is None


def test_each_kernel_has_masks_of_its_own_by_the_seed() -> None:
    def drawn(seed: int | None) -> list[np.ndarray]:
        layers = [keras.layers.Dense(6, name=name) for name in "ab"]
        model = keras.Sequential([keras.Input((6,)), *layers])
        constrain(model, Sparse(seed=seed))
        return [mask for name in "ab" for mask in masks(model, name)]

    def drawn_after(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        return drawn(None)

    one, same, other = drawn(1), drawn(1), drawn(2)
    for again, masks_then in ((same, one), (drawn_after(1), drawn_after(1))):
        assert all(np.array_equal(a, b) for a, b in zip(again, masks_then, strict=True))
    free = [*one, *other, *drawn(None), *drawn(None)]
    assert len({mask.tobytes() for mask in free}) == len(free)


# --- optimizers ---------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda: SGD(0.1, momentum=0.9),
    "nesterov": lambda: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda: keras.optimizers.Adam(0.1),
    "AdamW": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.9),
    "Lion": lambda: keras.optimizers.Lion(0.1),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "Adadelta": lambda: keras.optimizers.Adadelta(0.1),
    "Adamax": lambda: keras.optimizers.Adamax(0.1),
    "Nadam": lambda: keras.optimizers.Nadam(0.1),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "accumulated": lambda: SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    # Each of these mixes the entries of a matrix.
    "Muon": lambda: keras.optimizers.Muon(0.1),
    "Lamb": lambda: keras.optimizers.Lamb(0.1),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.1),
    "ScheduleFreeAdamW": lambda: keras.optimizers.ScheduleFreeAdamW(0.1),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(SGD(0.1, momentum=0.9)),
    "clipped": lambda: SGD(0.1, momentum=0.9, global_clipnorm=0.1),
}
MIXING = {"Muon", "Lamb", "Adafactor", "ScheduleFreeAdamW", "clipped"}


@pytest.mark.parametrize("name", slow_but(["momentum", "AdamW", "Muon"], OPTIMIZERS))
def test_every_optimizer_leaves_0_what_does_not_exist_and_the_rest_as_it_was(name: str) -> None:
    start = random.normal(size=(6, 5)).astype("float32")
    gradients = random.normal(size=(3, 6, 5)).astype("float32")
    held, w, b, free = Sparse(0.5, seed=3), *(keras.Variable(start) for _ in range(3))
    held.draw(w, b)
    w.constraint, b.constraint = held, held.of_feedback
    for variables in ([w, b], [free]):
        optimizer = OPTIMIZERS[name]()
        optimizer.build(variables)
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)] * len(variables), variables)
    for weight, mask in ((w, held.mask), (b, held.feedback_mask)):
        exists = mask.numpy() == 1
        assert (weight.numpy()[~exists] == 0).all()
        assert (weight.numpy()[exists] != start[exists]).all()
        if name not in MIXING:
            np.testing.assert_array_equal(weight.numpy()[exists], free.numpy()[exists])


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    slow_but(
        [("urfb", "momentum")],
        [("urfb", "momentum"), ("urfb", "AdamW"), ("kp", "AdamW"), ("fa", "momentum")],
        unpack=True,
    ),
)
def test_masks_hold_in_fit(rule: str, optimizer: str) -> None:
    model = sparse(rule, OPTIMIZERS[optimizer](), run_eagerly=optimizer == "momentum")
    before = kernels(model)["hidden"], feedback(model)["hidden"]
    fit(model)
    assert_held(model)
    after = kernels(model)["hidden"], feedback(model)["hidden"]
    moved = [
        (now != then)[exists].mean() > 0.9
        for now, then, exists in zip(after, before, masks(model), strict=True)
    ]
    assert moved == [True, rule != "fa"]


@pytest.mark.slow
def test_b_follows_the_error_also_where_w_has_no_entry() -> None:
    model = sparse("urfb", SGD(0.5), run_eagerly=True)
    before = feedback(model)["hidden"]
    fit(model, batches=2)
    w, b = masks(model)
    assert (feedback(model)["hidden"] != before)[b & ~w].mean() > 0.9


def test_with_equal_masks_and_b_equal_w_a_step_is_the_masked_plain_network_s() -> None:
    plain = constrain(compiled(dense(None), SGD(0.5), run_eagerly=True), Sparse(seed=1))
    model = constrain(compiled(dense(None), SGD(0.5), run_eagerly=True), Sparse(seed=1))
    tfwm.convert_model(model, "fa")
    assert_held(model)
    for pathway in tfwm.pathways(model):
        pathway.sparse.feedback_mask.assign(pathway.sparse.mask)
        pathway.feedback_kernel.assign(pathway.kernel)
    for each in (plain, model):
        fit(each, batches=1)
    for name, kernel in kernels(model).items():
        expected = plain.get_layer(name).kernel.numpy()
        np.testing.assert_allclose(kernel, expected, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    slow_but(
        [],
        [
            lambda: keras.layers.Conv2D(6, 3, groups=2),
            lambda: keras.layers.Conv2DTranspose(5, 3),
            lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
            lambda: keras.layers.SeparableConv2D(5, 3, depth_multiplier=2),
            lambda: keras.layers.EinsumDense("abcd,de->abce", (6, 6, 5)),
            lambda: tfwm.layers.LocallyConnected2D(5, 3),
        ],
    ),
)
def test_masks_hold_in_every_kind_of_layer(make: Any) -> None:
    layers = [keras.Input((6, 6, 4)), make(), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = constrain(keras.Sequential(layers), Sparse(0.5))
    model.compile(OPTIMIZERS["momentum"](), "mse", jit_compile=False)
    tfwm.convert_model(model, "urfb")
    model.fit(random.normal(size=(8, 6, 6, 4)), random.normal(size=(8, 2)), verbose=0)
    for pathway in tfwm.pathways(model):
        assert pathway.sparse is not None
        for weight, mask in zip(
            (pathway.kernel, pathway.feedback_kernel),
            (pathway.sparse.mask, pathway.sparse.feedback_mask),
            strict=True,
        ):
            np.testing.assert_array_equal(weight.numpy() != 0, mask.numpy() == 1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["urfb", "fa"])
def test_what_exists_may_have_a_constraint_too(rule: str, tmp_path: Any) -> None:
    bound = 1.01 * np.sqrt(6 / 70)
    model = compiled(dense(rule), SGD(1.0), run_eagerly=True)
    constrain(model, Sparse(0.5, constraint=GlorotClip(1.01)), layers=["hidden"])
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    fit(compiled(model, SGD(1.0), run_eagerly=True), batches=4)
    assert_held(model)
    moved = [kernels(model), feedback(model)] if rule == "urfb" else [kernels(model)]
    for found in moved:
        assert np.abs(found["hidden"]).max() == pytest.approx(bound, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_masks_hold_under_every_precision_and_xla(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    model = sparse("urfb", jit_compile=True)
    fit(model, batches=2)
    assert_held(model)


# --- mistakes -----------------------------------------------------------------------------------


def test_kolen_pollacks_callback_refuses_masks() -> None:
    model = sparse("kp", SGD(0.1, weight_decay=0.1))
    with pytest.raises(ValueError, match="'hidden' has masks of its own for W and for B"):
        fit(model, KolenPollack())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *(
            (lambda share=share: Sparse(share), f"connectivity of Sparse is {share!r}. Expected a")
            for share in (0, -0.5, 1.5, float("nan"), "half")
        ),
        (
            lambda: Sparse(constraint=FixedSign()),
            "constraint of Sparse is a FixedSign, which has state of its own",
        ),
        (
            lambda: constrain(dense("fa"), Sparse(), layers=["heat"]),
            "'heat' matches no built layer with a kernel. Expected patterns of hidden, head.",
        ),
        (
            lambda: constrain(
                keras.Sequential([keras.Input((6, 4)), tfwm.layers.LocallyConnected1D(4, 2)]),
                Sparse(constraint="glorot_clip"),
            ),
            "Sparse on layer .* would count positions as taps",
        ),
        (
            lambda: constrain(sparse("fa"), Sparse()),
            "'hidden' has a constraint already .Sparse.. Leave it out by patterns",
        ),
    ],
)
def test_mistake_is_told_in_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_share_that_leaves_nothing_is_refused_before_anything_is_changed() -> None:
    model = dense("fa")
    with pytest.raises(ValueError, match="leaves none of the 24 weights of dense/head/kernel"):
        constrain(model, Sparse(0.01))
    assert model.get_layer("hidden").kernel.constraint is None


def test_one_sparse_is_not_shared() -> None:
    held = Sparse()
    held.draw(keras.Variable(np.ones((2, 2))), None)
    with pytest.raises(ValueError, match="Give each kernel a Sparse of its own"):
        held.draw(keras.Variable(np.ones((2, 2))), None)
