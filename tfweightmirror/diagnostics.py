"""Measures of how well feedback follows forward weights: one definition each."""

import math

import keras
import tensorflow as tf

from tfweightmirror.pathway import Pathway
from tfweightmirror.walk import pathways

_DEGREES = 180.0 / math.pi


def angle_deg(u: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """The angle between two tensors of one shape, taken as vectors, in degrees.

    `angle = 2 atan2(|u/|u| - v/|v||, |u/|u| + v/|v||)`: 7e-6 degrees at equality in float32, where
    `acos` of the cosine is off by up to 0.03 (Kahan, "How futile are mindless assessments of
    roundoff", 2006). NaN if one of them is zero: a zero vector has no direction.

    Args:
        u, v: Floating-point tensors of one shape.

    Returns:
        A float32 scalar in [0, 180].
    """
    u, v = tf.cast(u, tf.float32), tf.cast(v, tf.float32)
    u, v = u / tf.norm(u), v / tf.norm(v)
    return 2.0 * tf.atan2(tf.norm(u - v), tf.norm(u + v)) * _DEGREES


def weight_angle_deg(pathway: Pathway) -> tf.Tensor:
    """The angle between W and what carries the error of `pathway`, in degrees."""
    return angle_deg(tf.convert_to_tensor(pathway.kernel), pathway.backward_kernel())


def norm_ratio(pathway: Pathway) -> tf.Tensor:
    """The norm of what carries the error over the norm of W."""
    carrier = tf.cast(pathway.backward_kernel(), tf.float32)
    return tf.norm(carrier) / tf.norm(tf.cast(tf.convert_to_tensor(pathway.kernel), tf.float32))


def weight_angles(model: keras.layers.Layer) -> dict[str, float]:
    """The angle between W and what carries the error, per pathway, in degrees.

    For sign-symmetry that is the angle between W and the signed magnitudes; 0 under backprop.

    Args:
        model: A built model with feedback layers.

    Returns:
        `{pathway name: degrees}`, from input to output.

    Raises:
        ValueError: A feedback layer is not built.
    """
    return {pathway.name: float(weight_angle_deg(pathway)) for pathway in pathways(model)}


def norm_ratios(model: keras.layers.Layer) -> dict[str, float]:
    """`|carrier| / |W|` per pathway, from input to output; 1 under backprop.

    Args:
        model: A built model with feedback layers.

    Raises:
        ValueError: A feedback layer is not built.
    """
    return {pathway.name: float(norm_ratio(pathway)) for pathway in pathways(model)}
