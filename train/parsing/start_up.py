"""Loads TensorFlow without its start-up lines, and says where memory ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from train.disk import reason_of
from train.errors import UserError


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow and looks for devices, with the standard error closed meanwhile.

    TensorFlow 2.21 writes a dozen lines there before it reads any setting, on a machine without GPU
    one that says "failed". They would bury ours. `TF_CPP_MIN_LOG_LEVEL=0` shows them.

    Keras is on TensorFlow then, whatever the environment or its own file says.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if level in ("0", "1"):
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


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """A context in which the end of memory is one sentence.

    Raises:
        UserError: That.
    """
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        if "No space left" in str(error):
            raise UserError(f"The disk is full: {reason_of(error)}. Expected room.") from error
        what = " ".join(str(error).split())[:120]
        raise UserError(
            f"Memory ran out{f' ({what})' if what else ''}. Expected less at a time: a smaller "
            f"training.batch_size or test_batch_size, data.storage=disk, or fewer --jobs."
        ) from error
