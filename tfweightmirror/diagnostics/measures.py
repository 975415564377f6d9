"""Measures of how well feedback follows forward weights: one definition each."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfweightmirror._internals.walk import pathways
from tfweightmirror.diagnostics.angles import angle_deg
from tfweightmirror.pathway import Pathway


def weight_angle_deg(pathway: Pathway) -> tf.Tensor:
    """The angle between W and what carries the error of `pathway`, in degrees."""
    return angle_deg(tf.convert_to_tensor(pathway.kernel), pathway.backward_kernel())


def shared_angle_deg(pathway: Pathway) -> tf.Tensor:
    """`weight_angle_deg` over the entries that W and B both have under `training.Sparse`.

    Without masks, and under rules without a B, over all.
    """
    kernel, carrier = tf.convert_to_tensor(pathway.kernel), pathway.backward_kernel()
    if pathway.sparse is not None and pathway.feedback_kernel is not None:
        kernel, carrier = map(pathway.sparse.mask_shared, (kernel, carrier))
    return angle_deg(kernel, carrier)


def norm_ratio(pathway: Pathway) -> tf.Tensor:
    """The norm of what carries the error over the norm of W."""
    carrier = tf.cast(pathway.backward_kernel(), tf.float32)
    return tf.norm(carrier) / tf.norm(tf.cast(tf.convert_to_tensor(pathway.kernel), tf.float32))


def sign_angle_deg(pathway: Pathway) -> tf.Tensor:
    """The angle between W and sign(W), in degrees (Xiao et al. 2018, fig. 3a, for backprop)."""
    kernel = tf.convert_to_tensor(pathway.kernel)
    return angle_deg(kernel, tf.sign(kernel))


def kurtosis(pathway: Pathway) -> tf.Tensor:
    """`E (w - mean)^4 / variance^2` of W's entries: 3 for Gaussian, 1.8 for uniform ones."""
    kernel = _entries(pathway.kernel)
    squares = tf.square(kernel - tf.reduce_mean(kernel))
    return tf.reduce_mean(tf.square(squares)) / tf.square(tf.reduce_mean(squares))


def magnitude(pathway: Pathway) -> tf.Tensor:
    """The mean of |w| over W's entries."""
    return tf.reduce_mean(tf.abs(_entries(pathway.kernel)))


def sparsity(pathway: Pathway) -> tf.Tensor:
    """The share of W's entries that are under 1 % of the root mean square of all."""
    kernel = _entries(pathway.kernel)
    rms = tf.sqrt(tf.reduce_mean(tf.square(kernel)))
    return tf.reduce_mean(tf.cast(tf.abs(kernel) < 0.01 * rms, tf.float32))


def zeros(pathway: Pathway) -> tf.Tensor:
    """The share of W's entries that are 0, or held as good as there: `|w| <= 1e-10`."""
    return tf.reduce_mean(tf.cast(tf.abs(_entries(pathway.kernel)) <= 1e-10, tf.float32))


def sign_agreement(pathway: Pathway) -> tf.Tensor:
    """The share of entries with equal signs in W and in what carries the error."""
    signs = (tf.sign(_entries(k)) for k in (pathway.kernel, pathway.backward_kernel()))
    return tf.reduce_mean(tf.cast(tf.equal(*signs), tf.float32))


def correlation(pathway: Pathway) -> tf.Tensor:
    """Pearson's correlation of the entries of W and of what carries the error.

    NaN if all entries of one are equal.
    """
    both = (_entries(k) for k in (pathway.kernel, pathway.backward_kernel()))
    w, b = (entries - tf.reduce_mean(entries) for entries in both)
    return tf.reduce_sum(w * b) / (tf.norm(w) * tf.norm(b))


def _entries(kernel: keras.Variable | tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(kernel), tf.float32)


WEIGHT_MEASURES: dict[str, Callable[[Pathway], tf.Tensor]] = {
    "weight_angle": weight_angle_deg,
    "norm_ratio": norm_ratio,
    "sign_angle": sign_angle_deg,
    "sign_agreement": sign_agreement,
    "correlation": correlation,
    "kurtosis": kurtosis,
    "magnitude": magnitude,
    "sparsity": sparsity,
    "zeros": zeros,
    "shared_angle": shared_angle_deg,
}
"""Name in logs to the measure of one pathway."""

OF_CARRIER = ("weight_angle", "norm_ratio", "sign_agreement", "correlation", "shared_angle")
"""Those that compare W with what stands in its place: none under `direct_feedback_alignment`."""


def weight_angles(model: keras.layers.Layer) -> dict[str, float]:
    """The angle between W and what carries the error, per pathway, in degrees.

    For sign-symmetry that is the angle between W and the signed magnitudes; 0 under backprop.
    Layers under `direct_feedback_alignment` have none and are left out: nothing stands in W's place
    there. `delta_angles` has them.

    Args:
        model: A built model with feedback layers.

    Returns:
        `{pathway name: degrees}`, from input to output.

    Raises:
        ValueError: A feedback layer is not built.
    """
    return {p.name: float(weight_angle_deg(p)) for p in pathways(model) if not p.is_direct}


def norm_ratios(model: keras.layers.Layer) -> dict[str, float]:
    """`|carrier| / |W|` per pathway, from input to output; 1 under backprop.

    Layers under `direct_feedback_alignment` have none and are left out.

    Args:
        model: A built model with feedback layers.

    Raises:
        ValueError: A feedback layer is not built.
    """
    return {p.name: float(norm_ratio(p)) for p in pathways(model) if not p.is_direct}
