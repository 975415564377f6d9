"""What tests of mirror mode do to layers: make them, mirror them, look at B."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import BY_NAME, KINDS, Kind, build, keep_synapses, pathways_of
from tfweightmirror.diagnostics import angle_deg
from tfweightmirror.mirror import MirrorMode
from tfweightmirror.mirror.step import mirror_step
from tfweightmirror.pathway import Pathway

NOISES = ("orthogonal", "impulse", "gaussian", "uniform", "rademacher")
BALANCED = ("orthogonal", "impulse")
INDEPENDENT = ("gaussian", "uniform", "rademacher")


def random_pathways(kind: Kind) -> list[Pathway]:
    """The pathways of a built layer of `kind`, W and B normal and independent.

    One layer serves all tests; its weights are set anew.
    """
    layer = _layer(kind.name)
    random = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape) / 2)
    keep_synapses(layer)
    return pathways_of(layer)


@functools.cache
def _layer(name: str) -> keras.layers.Layer:
    kind = BY_NAME[name]
    return build(kind, kind.twin("wm", name=name))


def model_of(kinds: Iterable[Kind], **more: Any) -> keras.Model:
    """One functional model with a `weight_mirror` layer of every kind side by side.

    Its output is all of theirs, flattened and joined.
    """
    inputs, outputs = [], []
    for kind in kinds:
        shapes = kind.input_shapes
        if kind.layer == "GroupQueryAttention":
            # Called symbolically, Keras wants values as wide as queries.
            shapes = (shapes[0],) * len(shapes)
        arguments = [keras.Input(shape[1:]) for shape in shapes]
        inputs += arguments
        outputs.append(kind.twin("wm", name=kind.name, **more)(*arguments))
    flat = [keras.layers.Flatten()(output) for output in outputs]
    joined = keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
    return keras.Model(inputs, joined)


@functools.cache
def every_kind_model() -> keras.Model:
    """All kinds of layers side by side; one model, and its compiled mirrors, for all tests."""
    return model_of(KINDS)


def mirror(
    pathways: Sequence[Pathway],
    noise: Any = "orthogonal",
    *,
    step: int = 0,
    activation: Any = None,
    **options: Any,
) -> list[np.ndarray]:
    """B of every pathway after one mirror step, which moves B."""
    activations = dict.fromkeys((pathway.name for pathway in pathways), activation)
    mirror_step(pathways, MirrorMode(noise=noise, **options), activations, step)
    return [pathway.feedback_kernel.numpy() for pathway in pathways]


def angle(one: Any, other: Any) -> float:
    """The angle between two arrays in degrees."""
    return float(angle_deg(tf.convert_to_tensor(one), tf.convert_to_tensor(other)))


def relative(found: Any, expected: Any) -> float:
    """The largest error over the largest entry."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def independent(noise: str, **options: Any) -> tfwm.mirror.noise.IndependentNoise:
    """Independent noise with options; one mirror step replaces B."""
    return type(tfwm.mirror.noise.get(noise))(decay=1.0, **options)


def wide_pathway(fan_in: int, fan_out: int = 64, *, bias: Any = None, **dense: Any) -> Pathway:
    """The pathway of a dense layer with a normal kernel and, if given, biases."""
    layer = tfwm.layers.FeedbackDense(fan_out, name="dense", **dense)
    layer.build((None, fan_in))
    random = np.random.default_rng(5)
    layer.kernel.assign(random.normal(size=(fan_in, fan_out)))
    layer.feedback_kernel.assign(random.normal(size=(fan_in, fan_out)))
    if bias is not None:
        layer.bias.assign(bias)
    return layer.pathways[0]
