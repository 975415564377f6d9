"""The mirror listens, it does not look: B is learnt from answers alone, never from W.

For every kind of layer and every noise: (i) behind a black box in the place of W, B learns the
black box; (ii) in the traced program, W reaches B through the pathway's response only; (iii) the
compact way in which turns are fired is firing with all other cells silent. The checkers of (i) and
(ii) are themselves tested with planted faults.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import BY_NAME, KINDS, ONE_OF_EACH, ONE_OF_EACH_IDS, Kind
from tests.mirror.mirroring import (
    BALANCED,
    INDEPENDENT,
    NOISES,
    angle,
    every_kind_model,
    independent,
    mirror,
    model_of,
    random_pathways,
    relative,
)
from tests.mirror.signal_flow import kernels_reaching_feedback, violations
from tests.slow import slow_but
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror import noise as noises
from tfweightmirror.mirror.noise import Firing, Impulse, Noise, Orthogonal
from tfweightmirror.mirror.step import compiled_mirror, mirror_pathways
from tfweightmirror.pathway import Pathway

# A balanced noise and an independent one; the others are slow.
one_of_each_sort = pytest.mark.parametrize("noise", slow_but(["orthogonal", "gaussian"], NOISES))


def kinds_and_noises(names: Sequence[str], everywhere: Sequence[str]) -> Any:
    """Every kind under every noise; those not in `everywhere` are slow but on a few kinds."""
    few = ("conv2d_groups", "separable1d", "dense_rank2", "attention")
    return pytest.mark.parametrize(
        ("kind", "noise"),
        [
            pytest.param(
                kind,
                noise,
                id=f"{kind.name}-{noise}",
                marks=() if noise in everywhere or kind.name in few else pytest.mark.slow,
            )
            for kind in KINDS
            for noise in names
        ],
    )


three_kinds = pytest.mark.parametrize("small_model", ["three kinds"], indirect=True)


# --- (i) behind a black box ---------------------------------------------------------------------


def black_box(
    pathway: Pathway, v: Any = None, *, offset: bool = False
) -> tuple[Pathway, np.ndarray]:
    """`pathway` with `x -> x V (+ offset)` in the place of W, and V in the kernel's shape.

    V is normal unless it is given, as matrices.
    """
    random = np.random.default_rng(11)
    if v is None:
        v = random.normal(size=pathway.view.matrices).astype("float32")
    shift = random.normal(size=(pathway.groups, 1, pathway.fan_out)).astype("float32") * offset

    def respond(x: tf.Tensor) -> tf.Tensor:
        if x.shape.rank == 3:
            return tf.matmul(x, v) + shift
        # Blocks of cells fire in turns: block t meets the rows of V that are its own.
        groups, turns, _, cells = x.shape
        rows = np.zeros((groups, turns * cells, v.shape[-1]), "float32")
        rows[:, : v.shape[1]] = v
        return tf.matmul(x, rows.reshape(groups, turns, cells, -1)) + shift[:, None]

    return dataclasses.replace(pathway, respond=respond), pathway.from_matrices(v).numpy()


def not_learnt(pathways: Sequence[Pathway], noise: str, **options: Any) -> list[str]:
    """What is wrong with B after one mirror step behind a black box; empty if nothing is.

    B must be the black box, and W, exchanged for another one, must not move a bit of it.
    """
    boxes, maps = zip(
        *[black_box(p, offset="sign_pairs" in options) for p in pathways], strict=True
    )
    # Blocks so small that every kind of layer fires in several turns, the last one incomplete.
    fired: Any = Orthogonal(block=4) if noise == "orthogonal" else noise
    if noise in INDEPENDENT:
        fired = independent(noise, samples=4096)
    start = [pathway.feedback_kernel.numpy() for pathway in pathways]
    learnt = mirror(boxes, fired, **options)
    found = []
    for pathway, b, v in zip(pathways, learnt, maps, strict=True):
        if noise == "impulse" and not options:  # One term in every sum: nothing rounds.
            is_v = np.array_equal(b, v)
        elif noise in BALANCED:  # Sums of a block's cells, and differences of pairs, round.
            is_v = relative(b, v) < 1e-5
        else:  # Three times the law: on few columns the angle scatters.
            is_v = angle(b, v) < 3 * fired.angle_law_deg(pathway.fan_in, 4096) + 1e-3
        if not is_v:
            found.append(f"B of {pathway.name} is {angle(b, v):.2g} degrees from the black box")
    for pathway, b in zip(pathways, start, strict=True):
        pathway.feedback_kernel.assign(b)
        pathway.kernel.assign(-3.0 * pathway.kernel + 1.0)
    found += [
        f"B of {pathway.name} moves with W"
        for pathway, b, again in zip(pathways, learnt, mirror(boxes, fired, **options), strict=True)
        if not np.array_equal(b, again)
    ]
    return found


@kinds_and_noises(NOISES, everywhere=("orthogonal",))
def test_behind_a_black_box_b_learns_the_black_box_and_nothing_of_w(kind: Kind, noise: str) -> None:
    assert not_learnt(random_pathways(kind), noise) == []


@kinds_and_noises(BALANCED, everywhere=())
def test_sign_pairs_behind_a_black_box_with_an_offset_learn_its_linear_part(
    kind: Kind, noise: str
) -> None:
    assert not_learnt(random_pathways(kind), noise, sign_pairs=True) == []


@pytest.mark.parametrize("noise", slow_but(["orthogonal"], NOISES))
@pytest.mark.parametrize("kind", ONE_OF_EACH, ids=ONE_OF_EACH_IDS)
def test_b_is_the_same_to_the_bit_behind_another_map_that_answers_the_same(
    kind: Kind, noise: str
) -> None:
    pathways = random_pathways(kind)
    start = [pathway.feedback_kernel.numpy() for pathway in pathways]
    expected = mirror(pathways, noise)
    boxes = [black_box(p, p.as_matrices(p.kernel).numpy())[0] for p in pathways]
    for pathway, b in zip(pathways, start, strict=True):
        pathway.feedback_kernel.assign(b)
        pathway.kernel.assign(tf.zeros_like(pathway.kernel))
    for found, b in zip(mirror(boxes, noise), expected, strict=True):
        np.testing.assert_array_equal(found, b)


# --- (ii) in the traced program -----------------------------------------------------------------


def traced_mirror(model: keras.Model, noise: Any, **options: Any) -> Any:
    """The compiled mirror call of a model, as a ConcreteFunction."""
    run = compiled_mirror(model, mirror_pathways(model), MirrorMode(noise=noise, **options))
    return run.get_concrete_function(*[tf.TensorSpec((), tf.int32)] * 3)


@contextlib.contextmanager
def traced_train_step(
    model: keras.Model, callback: keras.callbacks.Callback, monitor: bool = True
) -> Iterator[Any]:
    """The train step of a compiled model under WeightMirror, as a ConcreteFunction."""
    callbacks = [callback, *([tfwm.callbacks.FeedbackMonitor()] if monitor else [])]
    for each in callbacks:
        each.set_model(model)
        each.on_train_begin()
    batch = [tf.TensorSpec((4, *x.shape[1:])) for x in model.inputs]
    targets = tf.TensorSpec((4, *model.output.shape[1:]))
    strategy = model.distribute_strategy

    @tf.function(autograph=False)
    def step(x: Any, y: Any) -> None:
        strategy.run(model.train_step, args=((x, y),))

    yield step.get_concrete_function(batch, targets)
    for each in callbacks:
        each.on_train_end()


@pytest.fixture(params=["one of each"])
def small_model(request: pytest.FixtureRequest) -> keras.Model:
    """A compiled model, of one kind of every class or of three kinds."""
    few = [BY_NAME[name] for name in ("conv2d_groups", "separable1d", "dense_rank2")]
    model = model_of(ONE_OF_EACH if request.param == "one of each" else few)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.slow
def test_in_the_compiled_mirror_of_one_of_each_kind_w_reaches_b_through_its_response_only() -> None:
    model = model_of(ONE_OF_EACH)
    pathways = mirror_pathways(model)
    assert len(pathways) >= len(ONE_OF_EACH)
    assert violations(traced_mirror(model, "orthogonal"), pathways) == []


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_in_the_compiled_mirror_of_every_kind_w_reaches_b_through_its_response_only(
    noise: str,
) -> None:
    model = every_kind_model()
    pathways = mirror_pathways(model)
    assert len(pathways) >= len(KINDS)
    assert violations(traced_mirror(model, noise), pathways) == []


@three_kinds
@pytest.mark.parametrize(
    "options",
    [
        {
            "noise": tfwm.mirror.noise.Gaussian(samples=32),
            "norm": "scaling",
            "centre": True,
            "simultaneous": True,
        },
        {
            "noise": tfwm.mirror.noise.Orthogonal(decay=0.5),
            "sign_pairs": True,
            "response_noise_std": 0.1,
            "response_bits": 4,
            "dead_cells": 0.2,
        },
        {"through_activation": True, "bias_blocking": False, "activations": {"*": "relu"}},
    ],
    ids=lambda options: "+".join(options),
)
def test_options_of_mirror_mode_open_no_other_way_from_w_to_b(
    small_model: keras.Model, options: dict[str, Any]
) -> None:
    program = traced_mirror(small_model, **{"noise": "orthogonal", **options})
    assert violations(program, mirror_pathways(small_model)) == []


BLOCKS = Orthogonal(block=64)


@three_kinds
@pytest.mark.parametrize("chunk_elements", [100])
@pytest.mark.parametrize("noise", slow_but([BLOCKS], [BLOCKS, "gaussian"]))
def test_mirror_in_chunks_listens_too(
    small_model: keras.Model, noise: Any, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noises.base, "CHUNK_ELEMENTS", chunk_elements)
    pathways = mirror_pathways(small_model)
    program = traced_mirror(small_model, noise)
    assert any(MirrorMode(noise=noise).noise.plan(pathway).chunks > 1 for pathway in pathways)
    assert violations(program, pathways) == []


@pytest.mark.parametrize(
    ("small_model", "noise"),
    [
        ("three kinds", "orthogonal"),
        pytest.param("three kinds", "gaussian", marks=pytest.mark.slow),
        *(pytest.param("one of each", noise, marks=pytest.mark.slow) for noise in NOISES),
    ],
    indirect=["small_model"],
)
def test_in_the_compiled_train_step_w_reaches_b_through_its_response_only(
    small_model: keras.Model, noise: str
) -> None:
    with traced_train_step(small_model, tfwm.callbacks.WeightMirror(noise)) as program:
        assert violations(program, mirror_pathways(small_model)) == []


@pytest.mark.slow
@three_kinds
def test_in_a_train_step_that_mirrors_now_and_then_w_reaches_b_through_its_response_only(
    small_model: keras.Model,
) -> None:
    schedule = tfwm.mirror.Schedule(every_batches=3, steps=2)
    callback = tfwm.callbacks.WeightMirror("gaussian", schedule=schedule)
    with traced_train_step(small_model, callback) as program:
        assert violations(program, mirror_pathways(small_model)) == []


@pytest.mark.parametrize("noise", ["orthogonal", "gaussian"])
def test_on_two_replicas_w_reaches_b_through_its_response_only(
    noise: str, two_replicas: tf.distribute.Strategy
) -> None:
    with two_replicas.scope():
        model = model_of([BY_NAME["conv2d_groups"], BY_NAME["dense_rank2"]])
    pathways = mirror_pathways(model)
    flow = kernels_reaching_feedback(traced_mirror(model, noise), pathways)
    for pathway in pathways:
        heard = flow.reaching[f"B of {pathway.name}"]
        assert ("heard", pathway.name) in heard
        assert not any(what == "looked" for what, _ in heard)
        # The mean over replicas is taken of all pathways in one packet, which the walk cannot open.
        assert noise == "gaussian" or len(heard) == 1


# --- (iii) turns are fired compactly ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FullWidth(Noise):
    """The same sweep fired at full width: all cells of a receptive field, the silent ones with 0.

    Attributes:
        compact: What is fired.
        fan_in: Cells of one receptive field.
    """

    compact: Orthogonal = dataclasses.field(default_factory=Orthogonal)
    fan_in: int = 0

    name = "full_width"
    balanced = True

    def plan(self, pathway: Pathway) -> Firing:
        """Blocks fire one after another, not side by side."""
        firing = self.compact.plan(pathway)
        groups, turns, rows, _ = firing.shape
        return dataclasses.replace(firing, shape=(groups, turns * rows, pathway.fan_in))

    def signals(self, firing: Firing, seed: tf.Tensor, chunk: tf.Tensor) -> tf.Tensor:
        """What the compact noise fires, in its place."""
        pathway = dataclasses.make_dataclass("Shape", ["groups", "fan_in", "fan_out"])(
            firing.shape[0], self.fan_in, 1
        )
        compact = self.compact.plan(pathway)
        groups, turns, rows, cells = compact.shape
        x = self.compact.signals(compact, seed, chunk)[:, :, :, None, :]
        wide = x * tf.eye(turns)[None, :, None, :, None]
        return tf.reshape(wide, (groups, turns * rows, turns * cells))[:, :, : self.fan_in]


@kinds_and_noises(("impulse", "blocks of 4"), everywhere=())
def test_firing_in_turns_is_firing_at_full_width_with_silent_cells_and_teaches_w(
    kind: Kind, noise: str
) -> None:
    compact = Impulse() if noise == "impulse" else Orthogonal(block=4)
    for pathway in random_pathways(kind):
        start = pathway.feedback_kernel.numpy()
        (in_turns,) = mirror([pathway], compact)
        pathway.feedback_kernel.assign(start)
        (wide,) = mirror([pathway], FullWidth(compact=compact, fan_in=pathway.fan_in))
        if noise == "impulse":  # One term in every sum: nothing rounds.
            np.testing.assert_array_equal(in_turns, wide)
            np.testing.assert_array_equal(in_turns, pathway.kernel)
        else:  # The same products summed in another order.
            assert relative(in_turns, wide) < 1e-6
            assert angle(in_turns, pathway.kernel) < 1e-3  # asked for: 0.01 degrees
            assert relative(in_turns, pathway.kernel) < 1e-5


# --- the checkers find planted faults -----------------------------------------------------------


def assigns_w(self: MirrorMode, pathway: Pathway, *_: Any) -> tf.Tensor:
    """`B.assign(W)`."""
    return tf.convert_to_tensor(pathway.kernel)


def goes_towards_w(self: MirrorMode, pathway: Pathway, feedback: tf.Tensor, *_: Any) -> tf.Tensor:
    """What a mirror step amounts to, in closed form: a shortcut past the signals."""
    return 0.5 * feedback + 0.5 * tf.convert_to_tensor(pathway.kernel)


def multiplies_w(self: MirrorMode, pathway: Pathway, *_: Any) -> tf.Tensor:
    """An algebraic shortcut of a sweep: `(X^T X) W` instead of `X^T (X W)`."""
    w = pathway.as_matrices(tf.convert_to_tensor(pathway.kernel))
    return pathway.from_matrices(tf.matmul(tf.eye(pathway.fan_in)[None], w))


def fires_at_w(self: MirrorMode, pathway: Pathway, feedback: tf.Tensor, *rest: Any) -> tf.Tensor:
    """Signals, but through the kernel itself instead of `pathway.respond`."""
    closed = dataclasses.replace(pathway, respond=None)
    return _mirrored(self, closed, feedback, *rest)


_mirrored = MirrorMode.mirrored
FAULTS = (assigns_w, goes_towards_w, multiplies_w, fires_at_w)


@pytest.mark.parametrize("fault", FAULTS)
@one_of_each_sort
def test_the_black_box_finds_a_mirror_that_looks(
    fault: Callable[..., tf.Tensor], noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MirrorMode, "mirrored", fault)
    for name in ("conv2d_groups", "separable1d", "dense_rank2", "attention"):
        pathways = random_pathways(BY_NAME[name])
        assert len(not_learnt(pathways, noise)) == 2 * len(pathways)
        if noise in BALANCED:
            assert len(not_learnt(pathways, noise, sign_pairs=True)) == 2 * len(pathways)


@three_kinds
@pytest.mark.parametrize("fault", FAULTS[:3])
def test_the_walk_finds_a_mirror_that_looks(
    small_model: keras.Model,
    fault: Callable[..., tf.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MirrorMode, "mirrored", fault)
    pathways = mirror_pathways(small_model)
    looked = [f"{p.name} reaches B of {p.name} past its response" for p in pathways]
    assert set(looked) <= set(violations(traced_mirror(small_model, "orthogonal"), pathways))
    with traced_train_step(small_model, tfwm.callbacks.WeightMirror()) as program:
        assert set(looked) <= set(violations(program, pathways))


@three_kinds
@pytest.mark.slow
@pytest.mark.always
def test_the_walk_finds_a_look_that_is_added_to_what_was_heard(
    small_model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hears_and_looks(self: MirrorMode, pathway: Pathway, *rest: Any) -> tf.Tensor:
        w = tf.convert_to_tensor(pathway.kernel)
        return _mirrored(self, pathway, *rest) + 1e-6 * (w - tf.reduce_mean(w))

    monkeypatch.setattr(MirrorMode, "mirrored", hears_and_looks)
    pathways = mirror_pathways(small_model)
    schedule = tfwm.mirror.Schedule(every_batches=2, steps=2)  # inside a branch and a loop
    callback = tfwm.callbacks.WeightMirror(schedule=schedule)
    with traced_train_step(small_model, callback) as program:
        assert len(violations(program, pathways)) == len(pathways)


@three_kinds
def test_the_walk_finds_a_mirror_that_listens_to_the_wrong_pathway(
    small_model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pathways = mirror_pathways(small_model)
    other = next(p for p in pathways if p.name == "dense_rank2")

    def hears_another(self: MirrorMode, pathway: Pathway, *rest: Any) -> tf.Tensor:
        heard = _mirrored(self, other, other.feedback_kernel.value, *rest[1:])
        return tf.zeros(pathway.kernel.shape) + tf.reduce_sum(heard)

    monkeypatch.setattr(MirrorMode, "mirrored", hears_another)
    found = violations(traced_mirror(small_model, "orthogonal"), pathways)
    assert len(found) == len(pathways) - 1


@three_kinds
def test_the_walk_finds_a_look_by_way_of_another_variable(
    small_model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = {p.name: tf.Variable(p.kernel) for p in mirror_pathways(small_model)}

    def keeps_notes(self: MirrorMode, pathway: Pathway, *rest: Any) -> tf.Tensor:
        seen = notes[pathway.name].read_value()
        notes[pathway.name].assign(pathway.kernel)
        return _mirrored(self, pathway, *rest) + 0.0 * seen

    monkeypatch.setattr(MirrorMode, "mirrored", keeps_notes)
    pathways = mirror_pathways(small_model)
    assert len(violations(traced_mirror(small_model, "orthogonal"), pathways)) == len(pathways)
