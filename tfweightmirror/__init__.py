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

from tfweightmirror import (
    asymmetric_gradient,
    callbacks,
    conversion,
    diagnostics,
    layers,
    mirror,
    pathway,
    rules,
    training,
)
from tfweightmirror._internals.keras_hooks import tell_training_from_defaults
from tfweightmirror._internals.optimizer_hooks import scale_gradients_of_local_losses
from tfweightmirror._internals.saving_hooks import keep_kernels_apart_in_legacy_files
from tfweightmirror._internals.tensorflow_hooks import refuse_errors_of_vectorized_calls
from tfweightmirror._internals.walk import pathways
from tfweightmirror.asymmetric_gradient import asymmetric
from tfweightmirror.conversion import convert_model, reset_feedback, strip_feedback
from tfweightmirror.diagnostics import delta_angles, gradient_angles, norm_ratios, weight_angles
from tfweightmirror.mirror import mirror_model
from tfweightmirror.pathway import Pathway

keep_kernels_apart_in_legacy_files()
scale_gradients_of_local_losses()
refuse_errors_of_vectorized_calls()
tell_training_from_defaults()

__version__ = "0.1.0"

__all__ = [
    "Pathway",
    "asymmetric",
    "asymmetric_gradient",
    "callbacks",
    "conversion",
    "convert_model",
    "delta_angles",
    "diagnostics",
    "gradient_angles",
    "layers",
    "mirror",
    "mirror_model",
    "norm_ratios",
    "pathway",
    "pathways",
    "reset_feedback",
    "rules",
    "strip_feedback",
    "training",
    "weight_angles",
]
