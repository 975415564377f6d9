"""Training deep networks without weight transport, in Keras.

Take an ordinary Keras model, `convert_model` it, train it with `fit`, watch the angles.

Every public name has an example in its docstring. All of them begin with the four imports of this
one, and with `keras.utils.set_random_seed(0)`; `tests/test_examples.py` runs them.

Examples:
    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import tfweightmirror as tfwm
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    >>> tfwm.convert_model(model, "weight_mirror").compile("sgd", "mse")
    >>> mirror = tfwm.callbacks.WeightMirror()
    >>> history = model.fit(np.eye(8), np.eye(8, 4), callbacks=[mirror], verbose=0)
    >>> {name: round(angle, 2) for name, angle in tfwm.weight_angles(model).items()}
    {'head': 0.0}
"""

import keras

from tfweightmirror._internals.docs import see

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tfweightmirror needs Keras on TensorFlow, but Keras runs on "
        f"'{keras.backend.backend()}'. Set the environment variable KERAS_BACKEND=tensorflow "
        "before Python starts (or 'backend' in keras.json)." + see("keras-on-another-backend")
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

__version__ = "0.2.0"

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
