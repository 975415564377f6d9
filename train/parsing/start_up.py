"""Loads TensorFlow without its start-up lines."""

from __future__ import annotations

import os


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow and looks for devices, with the standard error closed meanwhile.

    TensorFlow 2.21 writes a dozen lines there before it reads any setting, on a machine without GPU
    one that says "failed". They would bury ours. `TF_CPP_MIN_LOG_LEVEL=0` shows them.

    Keras is on TensorFlow then, whatever the environment or its own file says.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1"):
        return
    standard_error = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf

        tf.config.list_physical_devices()
        # Every run has compiled functions of its own, which TensorFlow takes for one traced anew.
        tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(nowhere)
