"""What a network learns from: feedback against forward weights, errors against backprop's.

Examples:
    >>> layer = tfwm.layers.FeedbackDense(10, rule="sign_symmetry", name="head")
    >>> layer.build((None, 50))
    >>> {name: round(angle) for name, angle in tfwm.diagnostics.weight_angles(layer).items()}
    {'head': 30}
    >>> round(float(tfwm.diagnostics.sign_angle_deg(*layer.pathways)))  # the same one
    30
"""

from tfweightmirror.diagnostics.angles import angle_deg
from tfweightmirror.diagnostics.deltas import delta_angles, gradient_angles
from tfweightmirror.diagnostics.measures import (
    WEIGHT_MEASURES,
    correlation,
    kurtosis,
    magnitude,
    norm_ratio,
    norm_ratios,
    shared_angle_deg,
    sign_agreement,
    sign_angle_deg,
    sparsity,
    weight_angle_deg,
    weight_angles,
    zeros,
)
from tfweightmirror.diagnostics.plot import plot_angles

__all__ = [
    "WEIGHT_MEASURES",
    "angle_deg",
    "correlation",
    "delta_angles",
    "gradient_angles",
    "kurtosis",
    "magnitude",
    "norm_ratio",
    "norm_ratios",
    "plot_angles",
    "shared_angle_deg",
    "sign_agreement",
    "sign_angle_deg",
    "sparsity",
    "weight_angle_deg",
    "weight_angles",
    "zeros",
]
