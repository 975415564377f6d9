"""Measures of how well feedback follows forward weights: one definition each."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfweightmirror._internals.walk import pathways
from tfweightmirror.diagnostics.angles import angle_deg
from tfweightmirror.pathway import Pathway


def weight_angle_deg(pathway: Pathway) -> tf.Tensor:
    """The angle between W and what carries the error of `pathway`, in degrees.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="fa", use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[1.0], [0.0]]), np.array([[1.0], [1.0]])])  # W, B
        >>> round(float(tfwm.diagnostics.weight_angle_deg(*layer.pathways)), 3)
        45.0
    """
    return angle_deg(tf.convert_to_tensor(pathway.kernel), pathway.backward_kernel())


def shared_angle_deg(pathway: Pathway) -> tf.Tensor:
    """`weight_angle_deg` over the entries that W and B both have under `training.Sparse`.

    Without masks, and under rules without a B, over all.

    Examples:
        >>> model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(8, name="head")])
        >>> model = tfwm.convert_model(model, "weight_mirror")
        >>> model = tfwm.training.constrain(model, tfwm.training.Sparse(0.5, seed=0))
        >>> angles = tfwm.mirror_model(model)  # B is W where both have a synapse
        >>> (pathway,) = tfwm.pathways(model)
        >>> round(angles["head"]), round(float(tfwm.diagnostics.shared_angle_deg(pathway)))
        (39, 0)
    """
    kernel, carrier = tf.convert_to_tensor(pathway.kernel), pathway.backward_kernel()
    if pathway.sparse is not None and pathway.feedback_kernel is not None:
        kernel, carrier = map(pathway.sparse.mask_shared, (kernel, carrier))
    return angle_deg(kernel, carrier)


def norm_ratio(pathway: Pathway) -> tf.Tensor:
    """The norm of what carries the error over the norm of W.

    Returns:
        A float32 scalar.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="fa", use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[3.0], [4.0]]), np.array([[8.0], [6.0]])])  # W, B
        >>> float(tfwm.diagnostics.norm_ratio(*layer.pathways))
        2.0
    """
    carrier = tf.cast(pathway.backward_kernel(), tf.float32)
    return tf.norm(carrier) / tf.norm(tf.cast(tf.convert_to_tensor(pathway.kernel), tf.float32))


def sign_angle_deg(pathway: Pathway) -> tf.Tensor:
    """The angle between W and sign(W), in degrees (Xiao et al. 2018, fig. 3a, for backprop).

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="backprop", use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[2.0], [-1.0]])])
        >>> round(float(tfwm.diagnostics.sign_angle_deg(*layer.pathways)), 1)
        18.4
    """
    kernel = tf.convert_to_tensor(pathway.kernel)
    return angle_deg(kernel, tf.sign(kernel))


def kurtosis(pathway: Pathway) -> tf.Tensor:
    """`E (w - mean)^4 / variance^2` of W's entries: 3 for Gaussian, 1.8 for uniform ones.

    Returns:
        A float32 scalar.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(2, rule="backprop", use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[0.3, -0.3], [-0.3, 0.3]])])  # two values: the least
        >>> round(float(tfwm.diagnostics.kurtosis(*layer.pathways)), 3)
        1.0
    """
    kernel = _entries(pathway.kernel)
    squares = tf.square(kernel - tf.reduce_mean(kernel))
    return tf.reduce_mean(tf.square(squares)) / tf.square(tf.reduce_mean(squares))


def magnitude(pathway: Pathway) -> tf.Tensor:
    """The mean of |w| over W's entries.

    Returns:
        A float32 scalar.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="backprop", use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[3.0], [-4.0]])])
        >>> float(tfwm.diagnostics.magnitude(*layer.pathways))
        3.5
    """
    return tf.reduce_mean(tf.abs(_entries(pathway.kernel)))


def sparsity(pathway: Pathway) -> tf.Tensor:
    """The share of W's entries that are under 1 % of the root mean square of all.

    Returns:
        A float32 scalar.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(2, rule="backprop", use_bias=False)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[1.0, -1.0], [1.0, 0.001]])])
        >>> (pathway,) = layer.pathways
        >>> float(tfwm.diagnostics.sparsity(pathway)), float(tfwm.diagnostics.zeros(pathway))
        (0.25, 0.0)
    """
    kernel = _entries(pathway.kernel)
    rms = tf.sqrt(tf.reduce_mean(tf.square(kernel)))
    return tf.reduce_mean(tf.cast(tf.abs(kernel) < 0.01 * rms, tf.float32))


def zeros(pathway: Pathway) -> tf.Tensor:
    """The share of W's entries that are 0, or held as good as there: `|w| <= 1e-10`.

    Returns:
        A float32 scalar.

    Examples:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> model = tfwm.convert_model(model, "feedback_alignment")
        >>> model = tfwm.training.constrain(model, tfwm.training.Sparse(0.25, seed=0))
        >>> float(tfwm.diagnostics.zeros(*tfwm.pathways(model)))
        0.75
    """
    return tf.reduce_mean(tf.cast(tf.abs(_entries(pathway.kernel)) <= 1e-10, tf.float32))


def sign_agreement(pathway: Pathway) -> tf.Tensor:
    """The share of entries with equal signs in W and in what carries the error.

    Returns:
        A float32 scalar.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="fa", use_bias=False)
        >>> layer.build((None, 4))
        >>> W, B = [[1.0], [2.0], [-3.0], [4.0]], [[5.0], [1.0], [-1.0], [-1.0]]
        >>> layer.set_weights([np.array(W), np.array(B)])
        >>> float(tfwm.diagnostics.sign_agreement(*layer.pathways))  # three of four
        0.75
    """
    signs = (tf.sign(_entries(k)) for k in (pathway.kernel, pathway.backward_kernel()))
    return tf.reduce_mean(tf.cast(tf.equal(*signs), tf.float32))


def correlation(pathway: Pathway) -> tf.Tensor:
    """Pearson's correlation of the entries of W and of what carries the error.

    NaN if all entries of one are equal.

    Returns:
        A float32 scalar.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(1, rule="fa", use_bias=False)
        >>> layer.build((None, 3))
        >>> W = np.array([[1.0], [2.0], [4.0]])
        >>> layer.set_weights([W, 7 - 2 * W])  # W, B
        >>> round(float(tfwm.diagnostics.correlation(*layer.pathways)), 4)
        -1.0
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
"""Name in logs to the measure of one pathway.

Examples:
    >>> layer = tfwm.layers.FeedbackDense(1, rule="fa", use_bias=False)
    >>> layer.build((None, 2))
    >>> layer.set_weights([np.array([[3.0], [4.0]]), np.array([[8.0], [6.0]])])  # W, B
    >>> measures = tfwm.diagnostics.WEIGHT_MEASURES
    >>> {name: round(float(measures[name](*layer.pathways)), 2) for name in measures}
    {'weight_angle': 16.26, 'norm_ratio': 2.0, 'sign_angle': 8.13, 'sign_agreement': 1.0,
    'correlation': -1.0, 'kurtosis': 1.0, 'magnitude': 3.5, 'sparsity': 0.0, 'zeros': 0.0,
    'shared_angle': 16.26}
"""

OF_CARRIER = ("weight_angle", "norm_ratio", "sign_agreement", "correlation", "shared_angle")
"""Those that compare W with what stands in its place: none where nothing stands there."""


def weight_angles(model: keras.layers.Layer) -> dict[str, float]:
    """The angle between W and what carries the error, per pathway, in degrees.

    For sign-symmetry that is the angle between W and the signed magnitudes; 0 under backprop.
    Layers under `direct_feedback_alignment` or `no_feedback` have none and are left out: nothing
    stands in W's place there. `delta_angles` has them.

    Args:
        model: A built model with feedback layers.

    Returns:
        `{pathway name: degrees}`, from input to output.

    Raises:
        ValueError: A feedback layer is not built.

    Examples:
        >>> hidden, head = keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4, name="head")
        >>> model = keras.Sequential([keras.Input((8,)), hidden, head])
        >>> rules = {"hidden": "feedback_alignment", "head": "weight_mirror"}
        >>> taught = tfwm.mirror_model(tfwm.convert_model(model, rules))  # the head alone
        >>> {name: round(angle) for name, angle in tfwm.weight_angles(model).items()}
        {'hidden': 92, 'head': 0}
    """
    return {p.name: float(weight_angle_deg(p)) for p in pathways(model) if p.rule.has_carrier}


def norm_ratios(model: keras.layers.Layer) -> dict[str, float]:
    """`|carrier| / |W|` per pathway, from input to output; 1 under backprop.

    Layers under `direct_feedback_alignment` or `no_feedback` have none and are left out.

    Args:
        model: A built model with feedback layers.

    Raises:
        ValueError: A feedback layer is not built.

    Returns:
        `{pathway name: ratio}`, from input to output.

    Examples:
        >>> hidden, head = keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4, name="head")
        >>> model = keras.Sequential([keras.Input((8,)), hidden, head])
        >>> rule = tfwm.rules.SignSymmetry(scale="glorot")  # as large as W at birth
        >>> ratios = tfwm.norm_ratios(tfwm.convert_model(model, rule))
        >>> {name: round(ratio, 1) for name, ratio in ratios.items()}
        {'hidden': 1.0, 'head': 1.0}
    """
    return {p.name: float(norm_ratio(p)) for p in pathways(model) if p.rule.has_carrier}
