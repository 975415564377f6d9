"""Training deep networks without weight transport, in Keras.

Take an ordinary Keras model, `convert_model` it, train it with `fit`, watch the angles.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tfweightmirror needs Keras on TensorFlow, but Keras runs on "
        f"'{keras.backend.backend()}'. Set the environment variable KERAS_BACKEND=tensorflow "
        "before Python starts (or 'backend' in keras.json)."
    )

from tfweightmirror import callbacks, layers, mirror, rules, saving_internals
from tfweightmirror.asymmetric import asymmetric
from tfweightmirror.convert import convert_model, strip_feedback
from tfweightmirror.deltas import delta_angles, gradient_angles
from tfweightmirror.diagnostics import norm_ratios, weight_angles
from tfweightmirror.mirror import mirror_model
from tfweightmirror.pathway import Pathway
from tfweightmirror.reset import reset_feedback
from tfweightmirror.walk import pathways

saving_internals.keep_kernels_apart_in_legacy_files()

__version__ = "0.1.0"

__all__ = [
    "Pathway",
    "asymmetric",
    "callbacks",
    "convert_model",
    "delta_angles",
    "gradient_angles",
    "layers",
    "mirror",
    "mirror_model",
    "norm_ratios",
    "pathways",
    "reset_feedback",
    "rules",
    "strip_feedback",
    "weight_angles",
]
