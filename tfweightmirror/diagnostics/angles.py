"""The angle between two tensors, or between the parts of two, which may be on other replicas."""

import math

import tensorflow as tf

_DEGREES = 180.0 / math.pi


def angle_deg(u: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """The angle between two tensors of one shape, taken as vectors, in degrees.

    `angle = 2 atan2(|u/|u| - v/|v||, |u/|u| + v/|v||)`: 7e-6 degrees at equality in float32, where
    `acos` of the cosine is off by up to 0.03 (Kahan, "How futile are mindless assessments of
    roundoff", 2006). NaN if one of them is zero: a zero vector has no direction.

    Args:
        u: Floating-point tensor.
        v: Another of its shape.

    Returns:
        A float32 scalar in [0, 180].

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> u, v = tf.constant([1.0, 0.0]), tf.constant([1.0, 1.0])
        >>> round(float(tfwm.diagnostics.angle_deg(u, v)), 3)
        45.0
        >>> round(float(tfwm.diagnostics.angle_deg(u, -10 * u)), 3)
        180.0
        >>> float(tfwm.diagnostics.angle_deg(u, tf.zeros(2)))
        nan
    """
    u, v = tf.cast(u, tf.float32), tf.cast(v, tf.float32)
    if not u.shape.is_compatible_with(v.shape):  # which may broadcast all the same
        raise ValueError(
            f"angle_deg received tensors of the shapes {tuple(u.shape)} and {tuple(v.shape)}. "
            "Expected one shape: reshape one of them."
        )
    u, v = u / tf.norm(u), v / tf.norm(v)
    return 2.0 * tf.atan2(tf.norm(u - v), tf.norm(u + v)) * _DEGREES


def angle_between_parts_deg(u: list[tf.Tensor], v: list[tf.Tensor]) -> tf.Tensor:
    """`angle_deg` of vectors that come in parts, also those of all other replicas.

    Args:
        u: The parts on this replica, tensors.
        v: As many, of the shapes of those of u, pair by pair.

    Returns:
        A float32 scalar in [0, 180], the same on every replica.
    """
    u, v = ([tf.cast(part, tf.float32) for part in parts] for parts in (u, v))
    # First to a size of about 1: the squares of small errors would vanish.
    u, v = (_scaled(parts, _over_replicas("MAX", _largest(parts))) for parts in (u, v))
    u, v = (_scaled(parts, _norm(parts)) for parts in (u, v))
    apart, together = (
        _norm([op(a, b) for a, b in zip(u, v, strict=True)]) for op in (tf.subtract, tf.add)
    )
    return 2.0 * tf.atan2(apart, together) * _DEGREES


def _scaled(parts: list[tf.Tensor], size: tf.Tensor) -> list[tf.Tensor]:
    return [part / size for part in parts]


def _largest(parts: list[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(part)) for part in parts]))


def _norm(parts: list[tf.Tensor]) -> tf.Tensor:
    squares = tf.add_n([tf.reduce_sum(tf.square(part)) for part in parts])
    return tf.sqrt(_over_replicas("SUM", squares))


def _over_replicas(how: str, value: tf.Tensor) -> tf.Tensor:
    """Reduced over all replicas, if there are several."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    if how == "MAX":  # no such reduction there
        return tf.reduce_max(context.all_gather(tf.reshape(value, (1,)), axis=0))
    return context.all_reduce(how, value)
