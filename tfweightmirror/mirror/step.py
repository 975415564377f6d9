"""Mirror mode on a whole model: one compiled call, every replica."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.arguments import is_whole, require_model
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import pathways
from tfweightmirror.diagnostics import weight_angle_deg
from tfweightmirror.mirror.activation import activations_of
from tfweightmirror.mirror.memory import MirrorMemory
from tfweightmirror.mirror.mode import Activation, MirrorMode
from tfweightmirror.pathway import Pathway


def mirror_step(
    mirrored: Sequence[Pathway],
    mode: MirrorMode,
    activations: Mapping[str, Activation | None],
    first_step: Any,
    steps: Any = 1,
    due: tf.Tensor | None = None,
    seed: Any = None,
) -> None:
    """Teach the feedback kernels of `mirrored` by noise. The one mirror function of this library.

    Valid in replica context, inside a compiled train step too. B stays bit-equal on all replicas:
    with independent noise each replica fires its own and the results are averaged; with balanced
    noise all fire the same sweep, and nothing is communicated.

    Args:
        mirrored: The pathways to teach.
        mode: How the mirror listens.
        activations: As `activations_of(mirrored, mode)` gives them.
        first_step: Number of the first mirror step, an integer: noise is a function of it.
        steps: How many steps, an integer or a scalar tensor.
        due: Scalar bool: teach only if true. None: always.
        seed: Seed of the noise, an integer below 2^31 or a scalar tensor; None: the mode's.
    """
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group
    first_step, steps = tf.cast(first_step, tf.int32), tf.cast(steps, tf.int32)
    seed = tf.cast(mode.seed % 2**31 if seed is None else seed, tf.int32)
    before: tuple[Any, ...] = tuple(pathway.feedback_kernel for pathway in mirrored)
    if not (due is None and tf.get_static_value(steps) == 1):  # else read where it is needed
        before = tuple(map(tf.convert_to_tensor, before))

    def one_step(step: tf.Tensor, feedback: tuple[Any, ...]) -> tuple[tf.Tensor, ...]:
        return tuple(
            mode.mirrored(pathway, b, activations[pathway.name], step, replica, seed)
            for pathway, b in zip(mirrored, feedback, strict=True)
        )

    def all_steps() -> tuple[tf.Tensor, ...]:
        if tf.get_static_value(steps) == 1:
            return one_step(first_step, before)
        _, after = tf.while_loop(
            lambda done, _: done < steps,
            lambda done, feedback: (done + 1, one_step(first_step + done, feedback)),
            (tf.constant(0), before),
        )
        return after

    after = all_steps() if due is None else tf.cond(due, all_steps, lambda: before)
    replicas = context.num_replicas_in_sync
    if replicas > 1 and not mode.noise.balanced:
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(after))
        # Not due: B itself, since a mean of equal numbers may round.
        after = (
            mean
            if due is None
            else [tf.where(due, m, b) for m, b in zip(mean, before, strict=True)]
        )
    assign_on_replicas([pathway.feedback_kernel.value for pathway in mirrored], after)


def assign_on_replicas(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    """In replica context, give each replica's copy of a variable that replica's value.

    Keras' optimizers update their variables in the same way.
    """

    def update(strategy: tf.distribute.Strategy, *values: tf.Tensor) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda copy, new: copy.assign(new), args=(value,), group=False
            )

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), *values
    )


def mirror_pathways(model: keras.layers.Layer) -> list[Pathway]:
    """The pathways of `model` that mirror mode teaches.

    Raises:
        ValueError: There is none.
    """
    mirrored = [p for p in pathways(model) if p.rule.learns_by == "mirror"]
    if not mirrored:
        rules = sorted({p.rule.name for p in pathways(model)})
        raise ValueError(
            f"Mirror mode teaches pathways with the rule 'weight_mirror', but '{model.name}' has "
            f"{'none: its rules are ' + ', '.join(rules) if rules else 'no feedback layer'}. "
            "Use convert_model(model, 'weight_mirror') on a built model first."
            + see("no-weight_mirror-layer")
        )
    return mirrored


def mirror_model(
    model: keras.Model,
    noise: Any = "orthogonal",
    *,
    steps: int = 1,
    seed: int = 0,
    first_step: int | None = None,
    **options: Any,
) -> dict[str, float]:
    """Run mirror mode on a built model, outside training.

    All pathways and steps run in one compiled call, which is traced once per model and mode, for
    all seeds, on every replica of the model's strategy. Weights, optimizer, BatchNorm statistics
    and the model's own random streams do not move.

    The model remembers how many mirror steps each seed has fired on it, so that calls in a loop
    fire new noise each time, and the steps one by one are the steps of one call. `WeightMirror` of
    the same seed counts on from there, too.

    Args:
        model: A built model with `weight_mirror` layers.
        noise: `"orthogonal"`, `"impulse"`, `"gaussian"`, `"uniform"`, `"rademacher"`, or a
            `tfweightmirror.mirror.noise.Noise`. One step of balanced noise is one sweep.
        steps: Number of mirror steps, at least 1.
        seed: Noise is a function of (seed, step, place of the pathway in the model, replica).
        first_step: Number of the first step, at least 0. None: the one after the last that this
            seed has fired on the model, 0 on a model that has heard nothing of it. The same number
            fires the same noise again.
        **options: The other options of `tfweightmirror.mirror.MirrorMode`.

    Returns:
        The weight angle after the last step: `{pathway name: degrees}`.

    Raises:
        ValueError: No model, no `weight_mirror` pathway, or an option out of range.

    Examples:
        >>> model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(50, name="head")])
        >>> model = tfwm.convert_model(model, "weight_mirror")
        >>> round(tfwm.mirror_model(model)["head"], 2)  # a balanced sweep
        0.0
        >>> round(tfwm.mirror_model(model, "gaussian", steps=100)["head"])  # aims at 12 degrees
        12
    """
    require_model(model)
    if not is_whole(steps) or steps < 1:
        raise ValueError(
            f"mirror_model needs a whole number of steps, at least one. Received: steps={steps!r}."
        )
    if first_step is not None and not (is_whole(first_step) and first_step >= 0):
        raise ValueError(
            f"first_step of mirror_model is the number of a mirror step, at least 0, or None to go "
            f"on counting. Received: {first_step!r}."
        )
    mode = MirrorMode(noise=noise, seed=seed, **options)
    mirrored = mirror_pathways(model)
    run = compiled_mirror(model, mirrored, mode)
    seed = mode.seed % 2**31
    counter = MirrorMemory.of(model).counter(model, seed)
    next_step = int(counter.numpy())
    first_step = next_step if first_step is None else first_step
    run(tf.constant(first_step), tf.constant(steps), tf.constant(seed))
    counter.assign(max(next_step, first_step + steps))
    return {pathway.name: float(weight_angle_deg(pathway)) for pathway in mirrored}


def compiled_mirror(model: keras.Model, mirrored: Sequence[Pathway], mode: MirrorMode) -> Any:
    """`run(first_step, steps, seed)` in one compiled call on every replica, kept for the model.

    All three are scalar int32 tensors; the seed of `mode` itself plays no part.
    """
    activations = activations_of(mirrored, mode)
    strategy = model.distribute_strategy

    def make() -> Any:
        @tf.function(autograph=False)
        def run(first_step: tf.Tensor, steps: tf.Tensor, seed: tf.Tensor) -> None:
            strategy.run(
                lambda: mirror_step(mirrored, mode, activations, first_step, steps, seed=seed)
            )

        return run

    # All that `make` closes over. It keeps the variables, so that their ids stay theirs.
    heard = (dataclasses.replace(mode, seed=0), tuple(activations.items()))
    read = (part for pathway in mirrored for part in read_of(pathway))
    known = tuple(id(part) if isinstance(part, keras.Variable) else part for part in read)
    return MirrorMemory.of(model).function(heard, known, make)


def read_of(pathway: Pathway) -> tuple[Any, ...]:
    """What a mirror that is traced takes from a pathway."""
    own_door = pathway.respond != pathway._forward_map  # exchanged for something else
    return (
        pathway.name,
        pathway.place,
        pathway.fields,
        pathway.compute_dtype,
        pathway.kernel,
        pathway.feedback_kernel,
        pathway.bias,
        pathway.respond if own_door else None,
    )
