"""Mirror mode on whole models: exact everywhere, moving B and nothing else."""

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import BY_NAME, KINDS, ONE_OF_EACH, ONE_OF_EACH_IDS, Kind
from tests.mirror.mirroring import (
    BALANCED,
    NOISES,
    angle,
    every_kind_model,
    independent,
    mirror,
    model_of,
    random_pathways,
)
from tests.slow import slow_but
from tfweightmirror._internals.docs import see
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror import noise as noises
from tfweightmirror.mirror.activation import activations_of
from tfweightmirror.mirror.memory import MirrorMemory
from tfweightmirror.mirror.noise import Gaussian, Orthogonal
from tfweightmirror.mirror.step import compiled_mirror, mirror_pathways, mirror_step

SEED = tf.constant(0)
K, L = keras.layers, tfwm.layers
FEW = [BY_NAME[name] for name in ("conv2d_groups", "separable2d", "dense_rank2")]
DENSE = FEW[-1:]  # where it makes no difference what is mirrored


def copies(variable: keras.Variable) -> list[np.ndarray]:
    """The values of a variable on every replica."""
    return [copy.numpy() for copy in getattr(variable.value, "values", [variable.value])]


def conv_network(**options: Any) -> keras.Model:
    """Convolution, BatchNorm, ReLU and dropout twice, a shortcut, and logits."""
    x = keras.Input((8, 8, 3))
    y = L.FeedbackConv2D(8, 3, padding="same", name="first", **options)(x)
    y = shortcut = K.ReLU()(K.BatchNormalization()(y))
    y = L.FeedbackConv2D(8, 3, padding="same", name="second", **options)(y)
    y = K.Add()([K.BatchNormalization()(y), shortcut])
    y = K.Dropout(0.3, seed=2)(K.Activation("relu")(y))
    y = L.FeedbackDense(10, name="logits", **options)(K.GlobalAveragePooling2D()(y))
    model = keras.Model(x, y)
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def train(model: keras.Model, batches: int = 4) -> None:
    """A few batches of random images."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(8 * batches, 8, 8, 3)).astype("float32")
    y = draws.integers(0, 10, size=8 * batches)
    callback = tfwm.callbacks.WeightMirror("gaussian")
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])


@pytest.fixture(scope="module")
def trained_network() -> keras.Model:
    """A network in the middle of its training."""
    model = conv_network()
    train(model)
    return model


# --- exactness ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("noise", BALANCED)
def test_compiled_balanced_sweep_leaves_zero_angle_for_every_layer_kind(noise: str) -> None:
    model = every_kind_model()
    for pathway in mirror_pathways(model):
        pathway.feedback_kernel.assign(-pathway.kernel)
    angles = tfwm.mirror_model(model, noise)
    assert angles.keys() == tfwm.weight_angles(model).keys()
    assert len(angles) >= len(KINDS)
    if noise == "impulse":
        for pathway in mirror_pathways(model):
            np.testing.assert_array_equal(pathway.feedback_kernel, pathway.kernel)
    assert max(angles.values()) < 1e-3  # asked for: 0.01 degrees
    assert all(0.9999 < ratio < 1.0001 for ratio in tfwm.norm_ratios(model).values())


@pytest.mark.parametrize("block", slow_but([4], [4, 64]))
def test_balanced_sweep_in_chunks_leaves_zero_angle(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several turns, not all complete, and all cells together."""
    monkeypatch.setattr(noises.base, "CHUNK_ELEMENTS", 30)
    model, noise = model_of([*FEW, BY_NAME["einsum_group"]]), Orthogonal(block=block)
    plans = [(pathway, noise.plan(pathway)) for pathway in mirror_pathways(model)]
    assert sum(plan.chunks > 1 for _, plan in plans) > len(plans) / 2
    assert any(plan.samples > pathway.fan_in for pathway, plan in plans) == (block == 4)
    assert max(tfwm.mirror_model(model, noise).values()) < 1e-3


@pytest.mark.parametrize("noise", slow_but(["orthogonal"], BALANCED))
@pytest.mark.parametrize("dtype", slow_but(["mixed_bfloat16"], ["mixed_bfloat16", "mixed_float16"]))
def test_balanced_sweep_in_mixed_precision_is_as_exact_as_its_numbers(
    dtype: str, noise: str
) -> None:
    pathways = mirror_pathways(model_of(ONE_OF_EACH, dtype=dtype))
    learnt = mirror(pathways, noise)
    angles = [angle(b, p.kernel) for b, p in zip(learnt, pathways, strict=True)]
    assert max(angles) < 0.5
    # It was fired in 16 bits indeed: no float32 map is this far off.
    assert max(angles) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("noise", BALANCED)
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_balanced_sweep_in_mixed_precision_of_every_layer_kind(dtype: str, noise: str) -> None:
    assert max(tfwm.mirror_model(model_of(KINDS, dtype=dtype), noise).values()) < 0.5


@pytest.mark.parametrize("noise", [Orthogonal(), Orthogonal(block=8)])
def test_balanced_sweep_in_the_middle_of_training_leaves_zero_angle(
    noise: Orthogonal, trained_network: keras.Model
) -> None:
    for pathway in mirror_pathways(trained_network):
        noisy = np.random.default_rng(0).normal(pathway.feedback_kernel, 0.1)
        pathway.feedback_kernel.assign(noisy)
    assert min(tfwm.weight_angles(trained_network).values()) > 1
    assert max(tfwm.mirror_model(trained_network, noise).values()) < 1e-3


@pytest.mark.slow  # tests/test_jit_compile.py
@pytest.mark.parametrize("noise", ["orthogonal", "gaussian"])
def test_mirror_step_compiles_with_xla(noise: str) -> None:
    model = model_of(FEW)
    pathways = mirror_pathways(model)
    mode = MirrorMode(noise=noise if noise in BALANCED else independent(noise, samples=4000))
    activations = activations_of(pathways, mode)

    @tf.function(jit_compile=True)
    def step() -> None:
        mirror_step(pathways, mode, activations, tf.constant(3), 1)

    step()
    limit = 1e-3 if noise in BALANCED else 6.0
    assert max(tfwm.weight_angles(model).values()) < limit


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_mirror_steps_of_every_layer_kind_compile_with_xla(noise: str) -> None:
    model = model_of(ONE_OF_EACH)
    pathways = mirror_pathways(model)
    mode = MirrorMode(noise=noise)
    run = tf.function(
        lambda: mirror_step(pathways, mode, activations_of(pathways, mode), 0, tf.constant(40)),
        jit_compile=True,
    )
    run()
    assert max(tfwm.weight_angles(model).values()) < (1e-3 if noise in BALANCED else 30)


@pytest.mark.parametrize("noise", [*BALANCED, Gaussian(decay=1.0)])
def test_what_is_not_a_number_in_b_does_not_survive_a_full_decay(noise: Any) -> None:
    pathways = [pathway for kind in FEW for pathway in random_pathways(kind)]
    for pathway in pathways:
        pathway.feedback_kernel.assign(tf.fill(pathway.kernel.shape, np.nan))
    assert all(np.isfinite(b).all() for b in mirror(pathways, noise))


# --- nothing else moves -------------------------------------------------------------------------


one_of_each_sort = pytest.mark.parametrize("noise", slow_but(["orthogonal", "gaussian"], NOISES))


@one_of_each_sort
def test_only_b_moves(noise: str, trained_network: keras.Model) -> None:
    model = trained_network
    feedback = {id(pathway.feedback_kernel) for pathway in mirror_pathways(model)}

    def snapshot(of_feedback: bool) -> list[np.ndarray]:
        variables = [*model.variables, *model.optimizer.variables]
        return [v.numpy() for v in variables if (id(v) in feedback) == of_feedback]

    before, b_before = snapshot(False), snapshot(True)
    assert len(before) > 20
    tfwm.mirror_model(model, noise, steps=3)
    for one, other in zip(before, snapshot(False), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(b_before, snapshot(True), strict=True):
        assert not np.array_equal(one, other)


@one_of_each_sort
def test_no_random_stream_moves(noise: str) -> None:
    def draws(mirrors: bool) -> list[Any]:
        keras.utils.set_random_seed(3)
        generator = keras.random.SeedGenerator(7)
        model = model_of(DENSE)
        keras.utils.set_random_seed(3)
        if mirrors:
            tfwm.mirror_model(model, noise, steps=2)
        return [
            random.random(),
            np.random.random(),
            float(tf.random.normal(())),
            float(keras.random.normal(())),
            float(keras.random.normal((), seed=generator)),
        ]

    assert draws(True) == draws(False)


# --- noise is a function of seed, step and pathway ----------------------------------------------


def taught(model: keras.Model, *options: Any, **more: Any) -> list[np.ndarray]:
    """All B after mirror mode from B = 0, by the first steps of the seed."""
    pathways = mirror_pathways(model)
    for pathway in pathways:
        pathway.feedback_kernel.assign(tf.zeros_like(pathway.feedback_kernel))
    tfwm.mirror_model(model, *options, **{"first_step": 0, **more})
    return [pathway.feedback_kernel.numpy() for pathway in pathways]


def test_the_same_seed_teaches_the_same_and_another_one_does_not() -> None:
    model, noise = model_of(FEW), Gaussian(samples=10)
    one, same, other = (taught(model, noise, seed=seed, steps=3) for seed in (4, 4, 5))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert angle(a, c) > 5


def test_layers_alike_in_all_but_their_place_hear_different_noise() -> None:
    options = {"kernel_initializer": keras.initializers.GlorotUniform(1), "rule": "wm"}
    x = keras.Input((20,))
    layers = [L.FeedbackDense(20, name=name, **options) for name in ("one", "other")]
    one, other = taught(keras.Model(x, [layer(x) for layer in layers]), Gaussian(samples=10))
    assert angle(one, other) > 5


def test_noise_is_no_function_of_the_names_that_keras_counts_up() -> None:
    """The same cell of a notebook, run twice."""

    def cell() -> list[np.ndarray]:
        keras.utils.set_random_seed(11)
        model = keras.Sequential([keras.Input((8,)), K.Dense(6, activation="relu"), K.Dense(4)])
        tfwm.convert_model(model, "wm")
        return taught(model, Gaussian(samples=10))

    for one, other in zip(cell(), cell(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_steps_in_one_call_are_the_steps_one_by_one() -> None:
    model, noise = model_of(FEW), Gaussian(samples=5, decay=0.5)
    at_once = taught(model, noise, steps=4)
    pathways = mirror_pathways(model)
    run = compiled_mirror(model, pathways, MirrorMode(noise=noise))
    for pathway in pathways:
        pathway.feedback_kernel.assign(tf.zeros_like(pathway.feedback_kernel))
    for step in range(4):
        run(tf.constant(step), tf.constant(1), SEED)
    for pathway, b in zip(pathways, at_once, strict=True):
        np.testing.assert_array_equal(pathway.feedback_kernel, b)


def compiled_mirrors(model: keras.Model) -> list[Any]:
    """The compiled mirror functions that a model remembers."""
    return list(MirrorMemory.of(model).functions.values())


def assert_equal(one: list[np.ndarray], other: list[np.ndarray], *, equal: bool = True) -> None:
    """All arrays are equal to the bit, or none is."""
    assert [np.array_equal(a, b) for a, b in zip(one, other, strict=True)] == [equal] * len(one)


def test_calls_in_a_loop_fire_the_noise_of_one_call_of_as_many_steps() -> None:
    model, noise = model_of(DENSE), Gaussian(samples=5, decay=0.5)
    at_once = taught(model, noise, seed=3, steps=4)
    MirrorMemory.of(model).steps.clear()  # as on a new model
    taught(model, noise, seed=3, first_step=None)
    for _ in range(3):
        tfwm.mirror_model(model, noise, seed=3)
    assert_equal([p.feedback_kernel.numpy() for p in mirror_pathways(model)], at_once)
    # A number repeats the noise of that step and takes nothing from the count.
    first = taught(model, noise, seed=3, first_step=0)
    assert_equal(taught(model, noise, seed=3, first_step=0), first)
    fifth = taught(model, noise, seed=3, first_step=None)
    assert_equal(fifth, first, equal=False)
    assert_equal(fifth, taught(model, noise, seed=3, first_step=4))
    # Another seed counts by itself.
    assert_equal(taught(model, noise, seed=4, first_step=None), taught(model, noise, seed=4))


def test_one_program_serves_all_steps_and_seeds() -> None:
    model = model_of(DENSE)
    for steps, seed in ((1, 2), (1, 2), (5, 2), (1, 2**40)):
        tfwm.mirror_model(model, Gaussian(samples=10), steps=steps, seed=seed)
    tfwm.weight_angles(model)
    (run,) = compiled_mirrors(model)
    assert run.experimental_get_tracing_count() == 1
    # Another mode is another program; two are remembered.
    for noise in ("orthogonal", "impulse", Gaussian(samples=10)):
        tfwm.mirror_model(model, noise)
    assert len(compiled_mirrors(model)) == 2
    assert run not in compiled_mirrors(model)


def test_the_mirror_teaches_the_b_that_is_there_after_another_conversion() -> None:
    model = model_of(FEW[1:])
    tfwm.mirror_model(model)
    dead = [weakref.ref(pathway.feedback_kernel) for pathway in mirror_pathways(model)]
    tfwm.strip_feedback(model)
    gc.collect()
    assert [kernel() for kernel in dead] == [None] * len(dead)
    tfwm.convert_model(model, "wm")
    assert min(tfwm.weight_angles(model).values()) > 10
    assert max(tfwm.mirror_model(model).values()) < 1e-3


def test_an_activation_exchanged_between_calls_is_heard() -> None:
    x = keras.Input((20,))
    layer = L.FeedbackDense(20, activation="tanh", name="dense")
    model = keras.Model(x, layer(x))
    (bent,) = taught(model, through_activation=True)
    layer.activation = keras.activations.relu
    (cut,) = taught(model, through_activation=True)
    assert angle(bent, cut) > 5


# --- replicas -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [FEW, pytest.param(ONE_OF_EACH, marks=pytest.mark.slow)],
    ids=["few", "one of each"],
)
def test_balanced_sweep_on_two_replicas_leaves_zero_angle_and_equal_b(
    kinds: list[Kind], two_replicas: tf.distribute.Strategy
) -> None:
    with two_replicas.scope():
        model = model_of(kinds)
    assert max(tfwm.mirror_model(model).values()) < 1e-3
    for pathway in mirror_pathways(model):
        one, other = copies(pathway.feedback_kernel)
        np.testing.assert_array_equal(one, other)


def communications(program: Any) -> list[str]:
    """Operations of a traced program that bring values of several replicas together."""
    definition = program.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return [node.op for node in nodes if "Collective" in node.op or node.op == "AddN"]


@pytest.mark.parametrize("noise", NOISES)
def test_balanced_noise_needs_no_communication_between_replicas(
    noise: str, two_replicas: tf.distribute.Strategy
) -> None:
    with two_replicas.scope():
        model = model_of(DENSE)
    run = compiled_mirror(model, mirror_pathways(model), MirrorMode(noise=noise))
    program = run.get_concrete_function(*[tf.TensorSpec((), tf.int32)] * 3)
    assert (communications(program) == []) == (noise in BALANCED)


def test_each_replica_fires_its_own_independent_noise_and_b_hears_all_of_it(
    two_replicas: tf.distribute.Strategy,
) -> None:
    """Two replicas, twice the samples: the angle law at 2 N."""
    with two_replicas.scope():
        x = keras.Input((64,))
        model = keras.Model(x, L.FeedbackDense(256, name="dense")(x))
    (pathway,) = mirror_pathways(model)
    noise = independent("gaussian", samples=400)
    run = compiled_mirror(model, [pathway], MirrorMode(noise=noise))
    angles = []
    for step in range(10):
        run(tf.constant(step), tf.constant(1), SEED)
        one, other = copies(pathway.feedback_kernel)
        np.testing.assert_array_equal(one, other)
        angles.append(angle(one, pathway.kernel))
    rms = np.sqrt(np.mean(np.square(angles)))
    assert rms == pytest.approx(noise.angle_law_deg(64, 800), rel=0.05)


@pytest.mark.slow
def test_one_device_fires_what_the_first_of_two_replicas_fires(
    two_replicas: tf.distribute.Strategy,
) -> None:
    """A sweep is the same sweep everywhere."""
    keras.utils.set_random_seed(1)
    alone = taught(model_of(FEW[1:]), Orthogonal(block=4), seed=3)
    keras.utils.set_random_seed(1)
    with two_replicas.scope():
        model = model_of(FEW[1:])
    for one, other in zip(alone, taught(model, Orthogonal(block=4), seed=3), strict=True):
        np.testing.assert_array_equal(one, other)


# --- through the activation ---------------------------------------------------------------------


def answers(found: dict[str, Any]) -> dict[str, list[float]]:
    """What each activation found makes of -2, 0.5 and 3, to four digits."""
    values = tf.constant([-2.0, 0.5, 3.0])
    return {
        name: [round(float(answer), 4) for answer in activation(values)]
        for name, activation in found.items()
    }


def found_activations(model: keras.Model, activations: Any = ()) -> dict[str, list[float]]:
    """What `activations_of` finds for every pathway."""
    mode = MirrorMode(through_activation=True, activations=activations)
    return answers(activations_of(mirror_pathways(model), mode))


RELU, CLIPPED, LINEAR = [0.0, 0.5, 3.0], [0.0, 0.5, 1.0], [-2.0, 0.5, 3.0]


def test_activation_is_found_behind_batchnorm_and_shortcuts() -> None:
    found = found_activations(conv_network(), {"logits": "linear"})
    assert found == {"first": RELU, "second": RELU, "logits": LINEAR}


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ([K.ReLU(max_value=1.0)], CLIPPED),
        ([K.Activation("relu")], RELU),
        ([K.LeakyReLU(negative_slope=0.5)], [-1.0, 0.5, 3.0]),
        ([K.ELU()], [-0.8647, 0.5, 3.0]),
        ([K.LayerNormalization(), K.Dropout(0.1), K.ReLU()], RELU),
        ([K.Dense(4, name="other"), K.ReLU()], None),
        ([K.Flatten(), K.ReLU()], None),
        ([K.PReLU()], None),
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers or [None]),
)
def test_activation_layers_are_found_where_nothing_but_an_affine_map_stands_before(
    behind: list[keras.layers.Layer], expected: list[float] | None
) -> None:
    y = x = keras.Input((4,))
    for layer in [L.FeedbackDense(4, name="dense"), *behind]:
        y = layer(y)
    model = keras.Model(x, y)
    if expected is None:
        with pytest.raises(ValueError, match="no activation behind 'dense'"):
            found_activations(model)
    else:
        assert found_activations(model) == {"dense": expected}


def test_ones_own_activation_wins_over_the_next_layers_and_a_named_one_over_both() -> None:
    x = keras.Input((4,))
    y = K.ReLU()(L.FeedbackDense(4, name="dense", activation="tanh")(x))
    model = keras.Model(x, y)
    assert found_activations(model) == {"dense": [-0.964, 0.4621, 0.9951]}
    assert found_activations(model, {"den*": "relu"}) == {"dense": RELU}


def test_operations_of_keras_count_as_activations() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.relu6(L.FeedbackDense(4, name="dense")(x)))
    assert answers(activations_of(mirror_pathways(model), MirrorMode(through_activation=True))) == {
        "dense": RELU
    }


def test_two_different_activations_behind_one_layer_count_as_none() -> None:
    x = keras.Input((4,))
    y = L.FeedbackDense(4, name="dense")(x)
    same = keras.Model(x, [K.ReLU()(y), K.ReLU()(y)])
    assert found_activations(same) == {"dense": RELU}
    y = L.FeedbackDense(4, name="dense")(x)
    model = keras.Model(x, [K.ReLU()(y), K.Activation("tanh")(y)])
    with pytest.raises(ValueError, match="no activation behind 'dense'"):
        found_activations(model)
    # Of one kind, but not the same.
    y = L.FeedbackDense(4, name="dense")(x)
    model = keras.Model(x, [K.LeakyReLU(0.1)(y), K.LeakyReLU(0.5)(y)])
    with pytest.raises(ValueError, match="no activation behind 'dense'"):
        found_activations(model)


@pytest.mark.parametrize(
    "behind",
    [
        lambda y: -y,
        lambda y: 2.0 * y,
        lambda y: y * K.Dense(4, activation="sigmoid")(y),
        lambda y: y * keras.ops.sigmoid(y),
        lambda y: K.Multiply()([y, K.Activation("sigmoid")(y)]),
        lambda y: K.Concatenate()([K.ReLU()(y), -y]),
        lambda y: [K.ReLU()(y), K.Dense(2)(y)],
    ],
    ids=["minus", "times", "gate", "swish", "swish_of_layers", "two_signs", "also_linear"],
)
def test_what_is_not_an_activation_on_every_way_is_never_taken_for_one(behind: Any) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, behind(L.FeedbackDense(4, name="dense")(x)))
    with pytest.raises(ValueError, match="no activation behind 'dense'"):
        found_activations(model)
    assert found_activations(model, {"dense": "relu"}) == {"dense": RELU}


def test_layers_without_an_activation_are_reported_all_at_once() -> None:
    x = keras.Input((4,))
    y = L.FeedbackDense(4, name="linear")(x)
    y = L.FeedbackDense(4, name="also")(y)
    model = keras.Model(x, L.FeedbackDense(4, name="last", activation="relu")(y))
    with pytest.raises(ValueError) as refusal:
        tfwm.mirror_model(model, "gaussian", through_activation=True)
    assert str(refusal.value) == (
        "through_activation found no activation behind 'linear', 'also' (one elementwise "
        "activation, the same on every way through the graph). Name one for each, by pattern: "
        "activations={'linear': 'linear'} listens to the linear response."
        + see("no-activation-to-listen-behind")
    )


def test_activation_that_mixes_cells_is_refused() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, L.FeedbackDense(4, name="dense", activation="softmax")(x))
    with pytest.raises(ValueError, match=r"'dense' \(softmax\) mixes cells\. Name another one"):
        tfwm.mirror_model(model, "gaussian", through_activation=True)
    angles = tfwm.mirror_model(model, through_activation=True, activations={"dense": "linear"})
    assert angles["dense"] < 1e-3


def test_sign_pairs_through_relu_are_exact_on_a_whole_network_with_biases_blocked() -> None:
    model = conv_network()
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(tf.random.stateless_normal(variable.shape, (1, 2)))
    options = {"through_activation": True, "activations": {"logits": "linear"}}
    assert max(tfwm.mirror_model(model, sign_pairs=True, **options).values()) < 1e-3

    def angles(**more: Any) -> dict[str, float]:
        """After one step that is not compiled."""
        pathways, mode = mirror_pathways(model), MirrorMode(**options, **more)
        mirror_step(pathways, mode, activations_of(pathways, mode), tf.constant(0))
        return {p.name: angle(p.kernel, p.feedback_kernel) for p in pathways}

    assert angles()["second"] > 10
    biased = angles(sign_pairs=True, bias_blocking=False)
    assert biased["second"] > 10
    assert biased["logits"] < 1e-3  # a linear response: pairs cancel the bias


def test_bias_over_positions_cannot_be_heard_in_one_receptive_field() -> None:
    model = model_of([BY_NAME["einsum_bias_over_positions"]])
    assert max(tfwm.mirror_model(model).values()) < 1e-3
    with pytest.raises(ValueError, match=r"differs between positions.*bias_blocking=True"):
        tfwm.mirror_model(model, bias_blocking=False)


@pytest.mark.parametrize("noise", slow_but(["orthogonal"], ["orthogonal", "gaussian"]))
@pytest.mark.parametrize("kind", ONE_OF_EACH, ids=ONE_OF_EACH_IDS)
def test_bias_of_every_layer_kind_is_heard_unless_it_is_blocked(kind: Kind, noise: str) -> None:
    pathways = random_pathways(kind)
    fired = noise if noise in BALANCED else independent(noise, samples=200)
    blocked = mirror(pathways, fired)
    heard = mirror(pathways, fired, bias_blocking=False)
    # Sign pairs take it out again: the response is linear but for an offset.
    silent = mirror(pathways, fired, sign_pairs=True)
    paired = mirror(pathways, fired, sign_pairs=True, bias_blocking=False)
    for pathway, one, other, a, b in zip(pathways, blocked, heard, silent, paired, strict=True):
        assert np.array_equal(one, other) == (pathway.bias is None), pathway.name
        np.testing.assert_allclose(a, b, atol=1e-5)


# --- refusals -----------------------------------------------------------------------------------


def plain_model() -> keras.Model:
    """No feedback layer."""
    return keras.Sequential([keras.Input((3,)), K.Dense(2)], name="plain")


def other_rules() -> keras.Model:
    """Feedback layers, none of which mirror mode teaches."""
    layers = [L.FeedbackDense(2, rule="fa"), L.FeedbackDense(2, rule="kp")]
    return keras.Sequential([keras.Input((3,)), *layers], name="others")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: tfwm.mirror_model(model_of(DENSE), steps=0), r"one\. Received: steps=0"),
        (lambda: tfwm.mirror_model(model_of(DENSE), steps="a"), r"one\. Received: steps='a'"),
        (lambda: tfwm.mirror_model(model_of(DENSE), steps=-2), r"one\. Received: steps=-2"),
        (
            lambda: tfwm.mirror_model(model_of(DENSE), first_step=-1),
            r"at least 0, or None to go on counting\. Received: -1",
        ),
        (
            lambda: tfwm.mirror_model(model_of(DENSE), first_step=0.5),
            r"at least 0, or None to go on counting\. Received: 0\.5",
        ),
        (lambda: tfwm.mirror_model(L.FeedbackDense(2)), "Expected a Keras model.*FeedbackDense"),
        (lambda: tfwm.mirror_model(plain_model()), "'plain' has no feedback layer"),
        (
            lambda: tfwm.mirror_model(other_rules()),
            "'others' has none: its rules are feedback_alignment, kolen_pollack",
        ),
        (
            lambda: tfwm.mirror_model(keras.Sequential([L.FeedbackDense(2, name="d")])),
            "'d' has no pathways before it is built",
        ),
        (lambda: tfwm.mirror_model(model_of(DENSE), "loud"), "'loud' is not known"),
    ],
)
def test_a_call_that_cannot_be_served_is_refused_in_one_sentence(
    call: Callable[[], Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
