"""Set feedback kernels anew."""

import zlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals.walk import pathways
from tfweightmirror.layers.locally_connected import LocallyConnected, of_one_field
from tfweightmirror.pathway import Pathway


def reset_feedback(
    model: keras.layers.Layer, *, initializer: Any = None, seed: int | None = None
) -> None:
    """Set every feedback kernel B of a built model anew. W and the optimizer do not move.

    Of a B that is a product, the factor that learns is set; the fixed one stays. Entries that a
    `tfweightmirror.training.Sparse` has taken from B stay 0, and so do those of locally connected
    layers where padding stands for cells, whatever an array has there.

    Args:
        model: A built model with feedback layers.
        initializer: None: each layer's own way to start B. A Keras initializer or its name: that
            one, with a seed of its own for every pathway. A mapping `{pathway name: array}`:
            these B, of the shapes of the variables that hold them, and the others stay.
        seed: Makes random starts reproducible; None: each layer's own seed, as at birth.

    Raises:
        ValueError: Nothing is changed: the model keeps no feedback kernel, or an array has no
            pathway, another shape, or no numbers.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
        >>> model = tfwm.convert_model(model, "feedback_alignment")
        >>> tfwm.reset_feedback(model, initializer="zeros")
        >>> model.layers[0].feedback_kernel.numpy().tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
        >>> tfwm.reset_feedback(model, initializer={"head": model.layers[0].kernel})
        >>> tfwm.weight_angles(model)  # begins at B = W
        {'head': 0.0}
    """
    found = {p.name: p for p in pathways(model) if p.feedback_kernel is not None}
    if not found:
        raise ValueError(
            f"reset_feedback found no feedback kernel in '{model.name}': convert the model with a "
            "rule that keeps one, such as 'feedback_alignment'."
        )
    if isinstance(initializer, Mapping):
        arrays = {name: _checked(name, array, found) for name, array in initializer.items()}
        for name, array in arrays.items():
            _assign(found[name], array)
        return
    for pathway in found.values():
        start = initializer
        if start is None:
            start = pathway.initial_feedback()
        feedback = pathway.feedback_kernel
        own = _seeded(keras.initializers.get(start), pathway, seed, fresh=initializer is not None)
        shaped_as_w = pathway.feedback_factor is None and not pathway.is_direct
        if isinstance(pathway.layer, LocallyConnected) and shaped_as_w:
            own = of_one_field(own, pathway.layer.rank)
        _assign(pathway, own(feedback.shape, feedback.dtype))


def _assign(pathway: Pathway, value: Any) -> None:
    """Set B, but for entries that do not exist."""
    value = tf.cast(tf.convert_to_tensor(value), pathway.feedback_kernel.dtype)
    shaped_as_w = pathway.feedback_factor is None and not pathway.is_direct
    pathway.feedback_kernel.assign(pathway.view.on_synapses(value) if shaped_as_w else value)
    if pathway.sparse is not None:
        pathway.feedback_kernel.assign(pathway.sparse.mask_feedback(pathway.feedback_kernel))


def _checked(name: str, value: Any, found: Mapping[str, Pathway]) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if name not in found:
        raise ValueError(
            f"reset_feedback received an array for '{name}', which has no feedback kernel. Those "
            f"that have: {', '.join(found)}."
        )
    expected = tuple(found[name].feedback_kernel.shape)
    if array.shape != expected:
        whose = "feedback kernel" if found[name].feedback_factor is None else "factor that learns"
        raise ValueError(
            f"reset_feedback received an array of shape {array.shape} for '{name}', whose {whose} "
            f"has the shape {expected}."
        )
    if array.dtype.kind not in "fiu" and array.dtype != tf.bfloat16.as_numpy_dtype:
        raise ValueError(
            f"reset_feedback received an array of {array.dtype} for '{name}'. Expected real "
            "numbers."
        )
    return array


def _seeded(initializer: Any, pathway: Pathway, seed: int | None, *, fresh: bool) -> Any:
    """`initializer` with a seed of its own for the pathway, where it has a seed at all."""
    config: dict[str, Any] = getattr(initializer, "get_config", dict)()
    if "seed" not in config or (seed is None and not fresh):
        return initializer
    # Without a seed of the user's, Keras has drawn one, that its config does not tell.
    source = getattr(initializer, "seed", config["seed"]) if seed is None else seed
    # Not by name: Keras counts names up from model to model.
    own = zlib.crc32(f"feedback {pathway.place} {source}".encode()) % 2**31
    return type(initializer).from_config({**config, "seed": own})
